"""Ranges of activations from one streaming pass: memory does not grow with the number of rows.

Rows come one at a time and unpadded, so padding never enters a range. What is kept of a tensor, a histogram and two
moving averages, has one size whatever the rows, and every method makes its range of that: trying another one costs no
second pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import write_json
from edgekit.errors import DataError, InputError, suggestion
from edgekit.quant.histogram import Histogram, added, histogram_of
from edgekit.quant.methods import LEVELS, METHODS

MOVING_AVERAGE = "moving-average"
NAMES = (*METHODS, MOVING_AVERAGE)
MOMENTUM = 0.95


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
        rows: rows seen.
    """

    histogram: Histogram
    average_low: float
    average_high: float
    rows: int


def observe(activations: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Observed]:
    """Takes the statistics of each tensor over all rows.

    Args:
        activations: for each row the tensors by name, of any shape, float; the same names in every row.

    Raises:
        DataError: no rows; NaN or infinite values (tensor and row are named).
    """
    seen: dict[str, Observed] = {}
    for number, row in enumerate(activations, 1):
        for name, values in row.items():
            # A sum would do and miss nothing, but it also overflows: the extremes do not, and NaN comes through them.
            if not (np.isfinite(values.min()) and np.isfinite(values.max())):
                raise DataError(
                    f"activation {name!r} is not finite on calibration row {number}; the model is broken there"
                )
            seen[name] = _with_row(seen.get(name), histogram_of(values))
    if not seen:
        raise DataError("the calibration set is empty")
    return seen


def _with_row(before: Observed | None, row: Histogram) -> Observed:
    if before is None:
        return Observed(row, row.low, row.high, 1)
    return Observed(
        added(before.histogram, row),
        before.average_low + (1 - MOMENTUM) * (row.low - before.average_low),
        before.average_high + (1 - MOMENTUM) * (row.high - before.average_high),
        before.rows + 1,
    )


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


def write_ranges(path: Path, ranges: Mapping[str, Range]) -> None:
    """Writes ranges as JSON: tensor → low, high, method, rows."""
    write_json(path, {name: asdict(r) for name, r in ranges.items()})


def read_ranges(path: Path) -> dict[str, Range]:
    """Reads what `write_ranges` wrote."""
    return {name: Range(**values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}


def write_observed(path: Path, observed: Mapping[str, Observed]) -> None:
    """Writes statistics as .npz: the counts of all tensors, (tensors, bins), and their other figures."""
    plain = [
        (name, o.histogram.exponent, o.histogram.low, o.histogram.high, o.average_low, o.average_high, o.rows)
        for name, o in observed.items()
    ]
    names, exponents, *figures, rows = zip(*plain, strict=True)
    np.savez_compressed(
        path,
        names=np.array(names),
        exponents=np.array(exponents, dtype=np.int64),
        figures=np.array(figures, dtype=np.float64),
        rows=np.array(rows, dtype=np.int64),
        counts=np.stack([o.histogram.counts for o in observed.values()]),
    )


def read_observed(path: Path) -> dict[str, Observed]:
    """Reads what `write_observed` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        low, high, average_low, average_high = arrays["figures"]
        counts, exponents, rows = arrays["counts"], arrays["exponents"], arrays["rows"]
        return {
            str(name): Observed(
                Histogram(int(exponents[i]), counts[i], float(low[i]), float(high[i])),
                float(average_low[i]),
                float(average_high[i]),
                int(rows[i]),
            )
            for i, name in enumerate(arrays["names"])
        }
