"""Ranges of activations from one streaming pass: memory does not grow with the number of rows.

Rows come one at a time and unpadded, so padding never enters a range. Each method keeps a constant amount of state for
each tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import write_json
from edgekit.errors import DataError, InputError

METHODS = ("minmax", "moving-average")
MOMENTUM = 0.95


@dataclass(frozen=True)
class Range:
    """The range of one tensor.

    Attributes:
        low, high: float32 values, low <= 0 <= high, so that zero is exactly representable.
        method: one of METHODS.
        rows: rows that it was taken from.
    """

    low: float
    high: float
    method: str
    rows: int


def stream_ranges(activations: Iterable[Mapping[str, np.ndarray]], method: str) -> dict[str, Range]:
    """Takes the range of each tensor over all rows.

    minmax keeps the extremes. moving-average keeps `m <- 0.95 m + 0.05 x` of each row's extremes, started at the first
    row's: one outlying row moves it by a twentieth.

    Args:
        activations: for each row the tensors by name, of any shape, float.
        method: one of METHODS.

    Raises:
        DataError: no rows; NaN or infinite values (the tensor is named).
        InputError: unknown method.

    Ref: Jacob et al. 2018 (1712.05877), section 3.1 (exponential moving averages of ranges).
    """
    if method not in METHODS:
        raise InputError(f"unknown range method {method!r}; there are: {', '.join(METHODS)}")
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    rows = 0
    for row in activations:
        rows += 1
        for name, values in row.items():
            smallest, largest = float(values.min()), float(values.max())
            if not np.isfinite(smallest) or not np.isfinite(largest):
                raise DataError(
                    f"activation {name!r} is not finite on calibration row {rows}; the model is broken there"
                )
            if rows == 1:
                low[name], high[name] = smallest, largest
            elif method == "minmax":
                low[name], high[name] = min(low[name], smallest), max(high[name], largest)
            else:
                low[name] += (1 - MOMENTUM) * (smallest - low[name])
                high[name] += (1 - MOMENTUM) * (largest - high[name])
    if not rows:
        raise DataError("the calibration set is empty")
    return {name: Range(min(low[name], 0.0), max(high[name], 0.0), method, rows) for name in low}


def write_ranges(path: Path, ranges: Mapping[str, Range]) -> None:
    """Writes ranges as JSON: tensor → low, high, method, rows."""
    write_json(path, {name: asdict(r) for name, r in ranges.items()})


def read_ranges(path: Path) -> dict[str, Range]:
    """Reads what `write_ranges` wrote."""
    return {name: Range(**values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}
