"""Tables of costs whose prices are known, made in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.provenance import Provenance
from edgekit.search.costs import CostTable, Point, Setting, fitted
from edgekit.search.shapes import UNITS, Shape, units
from edgekit.stages._students import spread

PRICES: dict[str, dict[str, float]] = {
    "static": {"call": 2e5, "layers": 1e5, "products": 0.08, "passes": 0.15, "one_row": 0.14, "activation": 20.0},
    "dynamic": {"call": 1e5, "layers": 2e5, "products": 0.08, "passes": 0.15, "one_row": 0.2, "scores": 30.0},
}
LENGTHS = (5, 8, 11, 22)


def price(
    shape: Shape,
    length: int,
    family: str,
    prices: Mapping[str, Mapping[str, float]] = PRICES,
    cached: int | None = None,
) -> float:
    """What one inference takes, by the prices."""
    return float(units(shape, [length], cached)[0] @ np.array([prices[family].get(name, 0.0) for name in UNITS]))


def setting(**changes: Any) -> Setting:
    """The setting of a table that was taken on a device without hardware."""
    values = {
        "hidden": 32,
        "head_dim": 8,
        "sequence_length": "dynamic",
        "threads": 1,
        "quant": {"scheme": "auto", "ops": ["Gemm", "Gather"]},
        "options": {},
        "fingerprint": {"device": "null", "cpu": "none", "onnxruntime": "1.31.1", "runner": "0" * 64},
    }
    return Setting(**values | changes)


def table(lengths: Sequence[int] = LENGTHS, **changes: Any) -> CostTable:
    """A table of exactly those prices; `changes` are of its setting."""
    of = setting(**changes)
    points = tuple(
        Point(shape, {family: tuple(price(shape, length, family) for length in lengths) for family in PRICES})
        for shape in spread(of.hidden, of.head_dim)
    )
    return CostTable(
        schema=2,
        edgekit="0.1.0",
        target="tiny",
        setting=of,
        unit="instructions",
        provenance=Provenance.SIMULATED,
        reason="as the test says",
        date="2026-01-02T03:04:05+00:00",
        runtime="onnxruntime 1.31.1",
        lengths=tuple(lengths),
        points=points,
        reference=4,
        fits=fitted(lengths, points, "instructions"),
    )
