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

CLASSES = 8
"""Classes that channels are counted in where their errors do not weigh alike."""


@dataclass(frozen=True)
class Classes:
    """Channels grouped by how much an error in them weighs: counting by class costs no more than counting.

    Attributes:
        of: class of each channel of the last axis, (channels,).
        weights: mean weight of each class's channels, float64, (classes,); 0 for a class of none.
    """

    of: np.ndarray
    weights: np.ndarray


ALIKE = Classes(np.zeros(1, dtype=np.int64), np.ones(1))
"""All values in one class, whatever their channel."""


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values.

    Attributes:
        exponent: the bins' width is 2**exponent.
        classes: int64, shape (classes, 2 * BINS); bin i counts the values in [i - BINS, i - BINS + 1) widths.
        weights: of the classes, (classes,).
        low, high: the exact extremes.
    """

    exponent: int
    classes: np.ndarray
    weights: np.ndarray
    low: float
    high: float

    @property
    def counts(self) -> np.ndarray:
        """Counts of all classes together, int64, (2 * BINS,)."""
        counts: np.ndarray = self.classes.sum(axis=0)
        return counts

    @property
    def weighted(self) -> np.ndarray:
        """Counts, each times the weight of its channel's class, float64, (2 * BINS,)."""
        counts: np.ndarray = self.weights @ self.classes
        return counts

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
        return int(self.classes.sum())


def exponent_of(magnitude: float) -> int:
    """Returns the smallest exponent at which a value of that magnitude lies within the bins.

    Args:
        magnitude: finite, above 0.
    """
    # frexp: magnitude = m * 2**e with m below 1, so that 2**e is the smallest power of two above it.
    return math.frexp(magnitude)[1] - (BINS.bit_length() - 1)


def classes_of(weights: np.ndarray) -> Classes:
    """Groups channels into classes, evenly over the logarithm of their weights.

    Args:
        weights: of each channel, not negative, (channels,).
    """
    positive = weights[weights > 0]
    if not positive.size or positive.min() == positive.max():
        return Classes(
            np.zeros(len(weights), dtype=np.int64), np.array([float(weights.mean()) if weights.size else 1.0])
        )
    logs = np.log(np.maximum(weights, positive.min()))
    place = (logs - logs.min()) / (logs.max() - logs.min()) * CLASSES
    of = np.minimum(place.astype(np.int64), CLASSES - 1)
    channels = np.bincount(of, minlength=CLASSES)
    return Classes(of, np.bincount(of, weights=weights, minlength=CLASSES) / np.maximum(channels, 1))


def histogram_of(values: np.ndarray, classes: Classes = ALIKE) -> Histogram:
    """Counts one array.

    Args:
        values: floats of any shape, not empty and finite.
        classes: of the channels of the last axis.
    """
    low, high = float(values.min()), float(values.max())
    exponent = exponent_of(max(-low, high, SMALLEST))
    # Multiplying by a power of two is exact; float64 where its reciprocal would leave float32.
    exact = values if exponent > -126 else values.astype(np.float64)
    scaled = exact * exact.dtype.type(math.ldexp(1.0, -exponent))
    np.floor(scaled, out=scaled)
    # The class is part of the bin's number: below 2**24, which float32 holds exactly.
    scaled += (classes.of * (2 * BINS) + BINS).astype(scaled.dtype)
    kinds = len(classes.weights)
    counts = np.bincount(scaled.ravel().astype(np.intp), minlength=kinds * 2 * BINS)
    return Histogram(exponent, counts.reshape(kinds, 2 * BINS), classes.weights, low, high)


def added(one: Histogram, other: Histogram) -> Histogram:
    """Returns the histogram of both streams, which were counted in the same classes."""
    exponent = max(one.exponent, other.exponent)
    counts = widened(one, exponent) + widened(other, exponent)
    return Histogram(exponent, counts, one.weights, min(one.low, other.low), max(one.high, other.high))


def widened(histogram: Histogram, exponent: int) -> np.ndarray:
    """Returns the counts by class at a larger width: pairs of bins merge once for each doubling."""
    counts = histogram.classes
    for _ in range(min(exponent - histogram.exponent, BINS.bit_length())):  # after that, one bin a side is left
        inner = counts.reshape(len(counts), -1, 2).sum(axis=2)
        counts = np.zeros_like(counts)
        counts[:, BINS // 2 : BINS // 2 + BINS] = inner
    return counts
