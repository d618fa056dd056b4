"""Histograms of a stream in fixed memory: bins that double in width when a value falls outside.

Widths are powers of two and the bins' edges are multiples of them, so that a widened histogram is exactly the one that
would have been counted at that width from the start. What comes out depends on the values alone, not on the order or
the batches they came in, and two histograms add up to that of both streams.

Appending bins instead, as onnxruntime's collector does, lets a small first row set the width for good: 2,048 bins grow
to hundreds of thousands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SMALLEST = 2.0**-126
"""Smallest normal float32: values below it count as if zero when the bins' width is chosen."""

BINS = 2048
"""Bins on each side of zero. Between half of them and all are in use, so 8-bit levels are 8 to 16 bins wide."""


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values.

    Attributes:
        exponent: the bins' width is 2**exponent.
        counts: int64, shape (2 * BINS,); bin i counts the values in [i - BINS, i - BINS + 1) widths.
        low, high: the exact extremes.
    """

    exponent: int
    counts: np.ndarray
    low: float
    high: float

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, float64, shape (2 * BINS + 1,)."""
        return np.arange(-BINS, BINS + 1) * self.width

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())


def exponent_of(magnitude: float) -> int:
    """Returns the smallest exponent at which a value of that magnitude lies within the bins.

    Args:
        magnitude: finite, above 0.
    """
    # frexp: magnitude = m * 2**e with m below 1, so that 2**e is the smallest power of two above it.
    return math.frexp(magnitude)[1] - (BINS.bit_length() - 1)


def histogram_of(values: np.ndarray) -> Histogram:
    """Counts one array.

    Args:
        values: floats of any shape, not empty and finite.
    """
    low, high = float(values.min()), float(values.max())
    exponent = exponent_of(max(-low, high, SMALLEST))
    # Multiplying by a power of two is exact; float64 where its reciprocal would leave float32.
    flat = values.ravel() if exponent > -126 else values.ravel().astype(np.float64)
    scaled = flat * flat.dtype.type(math.ldexp(1.0, -exponent))
    np.floor(scaled, out=scaled)
    scaled += BINS
    return Histogram(exponent, np.bincount(scaled.astype(np.intp), minlength=2 * BINS), low, high)


def added(one: Histogram, other: Histogram) -> Histogram:
    """Returns the histogram of both streams."""
    exponent = max(one.exponent, other.exponent)
    counts = widened(one, exponent) + widened(other, exponent)
    return Histogram(exponent, counts, min(one.low, other.low), max(one.high, other.high))


def widened(histogram: Histogram, exponent: int) -> np.ndarray:
    """Returns the counts at a larger width: pairs of bins merge once for each doubling."""
    counts = histogram.counts
    for _ in range(min(exponent - histogram.exponent, BINS.bit_length())):  # after that, one bin a side is left
        inner = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[BINS // 2 : BINS // 2 + BINS] = inner
    return counts
