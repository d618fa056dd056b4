"""Ranges of activations from one streaming pass: memory does not grow with the number of rows.

Rows come one at a time and unpadded, so padding never enters a range. What is kept of a tensor, a histogram and a few
sums, has one size whatever the rows, and every method makes its range of that: trying another one costs no second pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import write_json
from edgekit.errors import DataError, InputError, suggestion
from edgekit.quant.histogram import ALIKE, Classes, Histogram, added, classes_of, histogram_of
from edgekit.quant.methods import LEVELS, METHODS

MOVING_AVERAGE = "moving-average"
NAMES = (*METHODS, MOVING_AVERAGE)
MOMENTUM = 0.95
TOGETHER = 1 << 17
"""Values of a tensor that are counted together: half a megabyte each."""

AUTO = "auto"
"""Method of a policy that leaves the choice to quantization, among these:"""

COMPARED = ("minmax", "mse", "mse-weighted", "percentile-99.999", "percentile-99.99")
"""All but entropy and the moving average, which clip what is rare and large (docs/quantization.md)."""


@dataclass(frozen=True)
class Range:
    """The range of one tensor.

    Attributes:
        low, high: float32 values, low <= 0 <= high, so that zero is exactly representable.
        method: one of NAMES.
        rows: rows that it was taken from.
    """

    low: float
    high: float
    method: str
    rows: int


@dataclass(frozen=True)
class Observed:
    """What is kept of one tensor.

    Attributes:
        histogram: of all its values.
        average_low, average_high: moving averages of each row's extremes, `m <- 0.95 m + 0.05 x`, started at the first
            row's: one outlying row moves them by a twentieth.
        halves: (low, high) of the odd and of the even rows; the same where there is one row.
        means: of each channel of the last axis, float64, (channels,); empty where the tensor enters no product.
        rows: rows seen.
    """

    histogram: Histogram
    average_low: float
    average_high: float
    halves: tuple[tuple[float, float], tuple[float, float]]
    means: np.ndarray
    rows: int


def observe(
    activations: Iterable[Mapping[str, np.ndarray]], channel_weights: Mapping[str, np.ndarray] | None = None
) -> dict[str, Observed]:
    """Takes the statistics of each tensor over all rows.

    Args:
        activations: for each row the tensors by name, of any shape, float; the same names in every row.
        channel_weights: of tensors that enter products, how much an error in each channel of the last axis weighs,
            (channels,). Only of these are means kept.

    Raises:
        DataError: no rows; NaN or infinite values (tensor and row are named).
    """
    weights = channel_weights or {}
    classes = {name: classes_of(values) for name, values in weights.items()}
    seen: dict[str, _Sums] = {}
    for number, row in enumerate(activations, 1):
        for name, values in row.items():
            # A sum would do and miss nothing, but it also overflows: the extremes do not, and NaN comes through them.
            low, high = float(values.min()), float(values.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise DataError(
                    f"activation {name!r} is not finite on calibration row {number}; the model is broken there"
                )
            if name not in seen:
                seen[name] = _Sums(classes.get(name, ALIKE), name in weights)
            seen[name].add(values, low, high)
    if not seen:
        raise DataError("the calibration set is empty")
    return {name: sums.observed() for name, sums in seen.items()}


class _Sums:
    """Statistics of one tensor while rows come.

    Rows are counted together once they hold enough values: for a few hundred each, calls would cost more than counts.
    """

    def __init__(self, classes: Classes, keep_means: bool) -> None:
        self.classes, self.keep_means, self.rows = classes, keep_means, 0
        self.average_low = self.average_high = 0.0
        self.extremes: list[tuple[float, float]] = []
        self.histogram: Histogram | None = None
        self.channels: np.ndarray = np.empty(0)
        self.waiting: list[np.ndarray] = []
        self.waiting_values = 0

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        if not self.rows:
            self.average_low, self.average_high = low, high
            self.extremes = [(low, high)] * 2
        else:
            self.average_low += (1 - MOMENTUM) * (low - self.average_low)
            self.average_high += (1 - MOMENTUM) * (high - self.average_high)
            half = self.rows % 2
            before = self.extremes[half] if self.rows > 1 else (low, high)
            self.extremes[half] = (min(before[0], low), max(before[1], high))
        self.rows += 1
        self.waiting.append(values.reshape(-1, values.shape[-1]) if self.keep_means else values.reshape(-1, 1))
        self.waiting_values += values.size
        if self.waiting_values >= TOGETHER:
            self.count()

    def count(self) -> None:
        if not self.waiting:
            return
        values = np.concatenate(self.waiting)
        self.waiting, self.waiting_values = [], 0
        one = histogram_of(values, self.classes)
        self.histogram = one if self.histogram is None else added(self.histogram, one)
        if self.keep_means:
            # A product with ones: several times faster than a sum over rows, and exact enough for so few.
            sums = (np.ones(len(values), dtype=values.dtype) @ values).astype(np.float64)
            self.channels = sums if not self.channels.size else self.channels + sums

    def observed(self) -> Observed:
        self.count()
        assert self.histogram is not None
        vectors = self.histogram.total / max(len(self.channels), 1)
        odd, even = self.extremes
        means = self.channels / vectors
        return Observed(self.histogram, self.average_low, self.average_high, (odd, even), means, self.rows)


def ranges_of(observed: Mapping[str, Observed], method: str, levels: int = LEVELS) -> dict[str, Range]:
    """Makes the range of each tensor by one method.

    Args:
        observed: what `observe` returned.
        method: one of NAMES.
        levels: of the integers, 256 for eight bits.

    Raises:
        InputError: unknown method.

    Ref: `edgekit.quant.methods`; Jacob et al. 2018 (1712.05877), section 3.1, for the moving average.
    """
    if method not in NAMES:
        raise InputError(f"unknown range method {method!r}{suggestion(method, NAMES)}")
    ranges = {}
    for name, one in observed.items():
        if method == MOVING_AVERAGE:
            low, high = min(one.average_low, 0.0), max(one.average_high, 0.0)
        else:
            low, high = METHODS[method](one.histogram, levels)
        ranges[name] = Range(float(np.float32(low)), float(np.float32(high)), method, one.rows)
    return ranges


def write_ranges(path: Path, ranges: Mapping[str, Mapping[str, Range]]) -> None:
    """Writes ranges as JSON: method → tensor → low, high, method, rows."""
    write_json(path, {method: {name: asdict(r) for name, r in of.items()} for method, of in ranges.items()})


def read_ranges(path: Path) -> dict[str, dict[str, Range]]:
    """Reads what `write_ranges` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {method: {name: Range(**values) for name, values in of.items()} for method, of in stored.items()}


def write_observed(path: Path, observed: Mapping[str, Observed]) -> None:
    """Writes statistics as .npz: the counts of all tensors end to end, and so their means; the rest as tables."""
    values = list(observed.values())
    np.savez_compressed(
        path,
        names=np.array(list(observed)),
        exponents=np.array([o.histogram.exponent for o in values], dtype=np.int64),
        figures=np.array([(o.histogram.low, o.histogram.high, o.average_low, o.average_high) for o in values]),
        halves=np.array([o.halves for o in values]),
        rows=np.array([o.rows for o in values], dtype=np.int64),
        classes=np.array([len(o.histogram.weights) for o in values], dtype=np.int64),
        weights=np.concatenate([o.histogram.weights for o in values]),
        counts=np.concatenate([o.histogram.classes for o in values]),
        channels=np.array([len(o.means) for o in values], dtype=np.int64),
        means=np.concatenate([o.means for o in values]),
    )


def read_observed(path: Path) -> dict[str, Observed]:
    """Reads what `write_observed` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    cuts, ends = np.cumsum(arrays["classes"])[:-1], np.cumsum(arrays["channels"])[:-1]
    counts, weights = np.split(arrays["counts"], cuts), np.split(arrays["weights"], cuts)
    means, found = np.split(arrays["means"], ends), {}
    for i, name in enumerate(arrays["names"]):
        low, high, average_low, average_high = map(float, arrays["figures"][i])
        odd, even = ((float(a), float(b)) for a, b in arrays["halves"][i])
        histogram = Histogram(int(arrays["exponents"][i]), counts[i], weights[i], low, high)
        found[str(name)] = Observed(histogram, average_low, average_high, (odd, even), means[i], int(arrays["rows"][i]))
    return found
