"""Range methods: which part of a histogram the integer grid is to cover.

Each takes a histogram and the number of levels and returns (low, high) with low <= 0 <= high. What is outside is
clipped. A narrower range makes finer steps for what is inside, and a larger error for what is not: the methods differ
in how they weigh the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.quant.histogram import BINS, Histogram

Method = Callable[[Histogram, int], tuple[float, float]]

LEVELS = 256
"""Of eight bits, which every scheme of this version has."""

COARSE = 2.0 ** (-np.arange(49) / 8)
FINE = 2.0 ** (np.arange(-7, 8) / 64)
ROUNDS = 4
"""The searches' candidates, as factors on an extreme: eight an octave down to 1/64, then eight times finer."""

SAMPLES = 4
"""Points of a bin at which its error is taken: where the step is finer than a bin, the middle alone would mislead."""


def minmax(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Covers everything: no clipping, and one outlier sets the step.

    Ref: Jacob et al. 2018 (1712.05877), section 3.
    """
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def percentile(share: float) -> Method:
    """Returns the method that clips (1 - share) / 2 of the values at each end, interpolated within a bin.

    Ref: Wu et al. 2020 (2004.09602), section 3.2.1 (there of magnitudes; here of each end, for asymmetric grids).
    """

    def method(histogram: Histogram, levels: int) -> tuple[float, float]:
        below = np.concatenate([[0], np.cumsum(histogram.counts)])
        cut = (1 - share) / 2 * histogram.total
        low, high = np.interp([cut, histogram.total - cut], below, histogram.edges)
        return min(max(low, histogram.low), 0.0), max(min(high, histogram.high), 0.0)

    return method


def mse(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Minimises the expected squared error of rounding and clipping, sum of n (x - Q(x))^2 over the histogram.

    The ends are searched in turn, each with the other held, until neither moves, four times at most.

    Ref: Sung et al. 2015 (1511.06488), section 4 (L2 error minimisation).
    """
    return _least_squares(histogram, histogram.counts, levels)


def mse_weighted(histogram: Histogram, levels: int) -> tuple[float, float]:
    """As `mse`, with the error of each channel weighted by the squared norm of its column of the weights.

    That is the expected squared error of the product the tensor enters, if the errors of channels do not depend on one
    another: E|W (Q(x) - x)|^2 = sum over j of |W_j|^2 E(Q(x_j) - x_j)^2. Tensors that enter no product weigh alike.

    No source: the step from `mse` is the equation above.
    """
    return _least_squares(histogram, histogram.weighted, levels)


def _least_squares(histogram: Histogram, counts: np.ndarray, levels: int) -> tuple[float, float]:
    points, weights = _points(histogram, counts)

    def error(low: float, high: float) -> float:
        return float(weights @ (fake_quantized(points, low, high, levels) - points) ** 2)

    return _search(histogram, error)


def entropy(histogram: Histogram, levels: int) -> tuple[float, float]:
    """Minimises the Kullback-Leibler divergence between the clipped distribution and its quantized form.

    P is the histogram inside the range, what is outside added to its end bins; Q gives every bin of a level that holds
    values the level's mean, outliers left out. Ranges of fewer bins than levels are not tried: there Q is P.

    Kept because it is widely known. Entropy weighs a value by how often it occurs and not by its size, so that rare
    large activations, which carry much of a transformer's signal, are clipped: see docs/log.md.

    Ref: Migacz 2017, 8-bit inference with TensorRT (GTC S7310), slides 28 to 40.
    """
    counts = histogram.counts.astype(np.float64)

    def divergence(low: float, high: float) -> float:
        first = int(np.floor(low / histogram.width)) + BINS
        last = int(np.floor(high / histogram.width)) + BINS + 1
        if last - first < levels:
            return np.inf
        inside = counts[first:last]
        clipped = inside.copy()
        clipped[0] += counts[:first].sum()
        clipped[-1] += counts[last:].sum()
        level = np.arange(last - first) * levels // (last - first)
        filled = inside > 0
        mass = np.bincount(level, weights=inside, minlength=levels)
        bins = np.bincount(level, weights=filled, minlength=levels)
        spread = np.where(filled, mass[level] / np.maximum(bins[level], 1), 0.0)
        p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
        seen = p > 0
        # A bin that only outliers fill has no Q: the usual small constant stands in for it.
        return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))))

    return _search(histogram, divergence)


def fake_quantized(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """Rounds values to the grid that a runtime makes of a range, and back: round half to even, then clip.

    Args:
        values: floats of any shape.
        low, high: low <= 0 <= high.
        levels: 256 for eight bits.

    Ref: ONNX QuantizeLinear; the scale and zero point are those of onnxruntime's `compute_scale_zp`.
    """
    if high == low:
        return np.zeros_like(values)
    scale = (high - low) / (levels - 1)
    zero = np.round(-low / scale)
    restored: np.ndarray = (np.clip(np.round(values / scale) + zero, 0, levels - 1) - zero) * scale
    return restored


METHODS: Mapping[str, Method] = {
    "minmax": minmax,
    "percentile-99.999": percentile(0.99999),
    "percentile-99.99": percentile(0.9999),
    "percentile-99.9": percentile(0.999),
    "entropy": entropy,
    "mse": mse,
    "mse-weighted": mse_weighted,
}


def _points(histogram: Histogram, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns points spread over the filled bins, within the extremes, and the count that each stands for."""
    filled = np.flatnonzero(counts)
    inside = (np.arange(SAMPLES) + 0.5) / SAMPLES
    points = (filled[:, None] - BINS + inside).ravel() * histogram.width
    weights = np.repeat(counts[filled] / SAMPLES, SAMPLES)
    return np.clip(points, histogram.low, histogram.high), weights


def _search(histogram: Histogram, loss: Callable[[float, float], float]) -> tuple[float, float]:
    """Minimises a loss over ranges within the extremes: both ends shrunk together, then each in turn, then finely."""
    low, high = minmax(histogram, 0)
    # Together first: to shrink one end alone may not help while the other still sets the step.
    best = _least([(loss(low * f, high * f), low * f, high * f) for f in COARSE])
    for factors in (COARSE, FINE):
        for _ in range(ROUNDS):
            _, near_low, near_high = before = best
            ends = (low, high) if factors is COARSE else (near_low, near_high)
            lows = [(max(ends[0] * f, low), near_high) for f in factors]
            best = _least([best, *((loss(*pair), *pair) for pair in lows)])
            highs = [(best[1], min(ends[1] * f, high)) for f in factors]
            best = _least([best, *((loss(*pair), *pair) for pair in highs)])
            if best == before:
                break
    return best[1], best[2]


def _least(tried: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Returns the entry of least loss; of equals the first, which is the widest."""
    return min(tried, key=lambda entry: entry[0])
