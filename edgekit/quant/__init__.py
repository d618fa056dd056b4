"""Quantization that does not depend on a runtime: ranges of activations, from one pass in fixed memory."""
