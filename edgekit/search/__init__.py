"""Searches: over precision, for the form of a model that is small and fast enough and still answers rightly."""
