"""XLM-R: RoBERTa with a multilingual vocabulary; the weights have the same names."""

from __future__ import annotations

from edgekit.frontends.roberta import NAMES, shape

__all__ = ["NAMES", "shape"]
