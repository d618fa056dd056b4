"""A table of costs for a device that nothing here can run: multiply-adds, which an NPU's time goes by at least.

What it leaves out, memory and the operators between products, is what such a device is least limited by; structures of
one number of multiply-adds may still differ. So the table is an estimate, decides between structures alone, and never
between integer forms nor of a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from edgekit.provenance import Provenance
from edgekit.search.costs import SCHEMA, CostTable, Fit, Point, Setting
from edgekit.search.shapes import UNITS, Shape, units

COUNTED = ("products", "one_row")
"""Units that are multiply-adds."""

FAMILY = "static"


def counted(
    setting: Setting, target: str, shapes: Sequence[Shape], lengths: Sequence[int], reference: int, reason: str
) -> CostTable:
    """Returns the table: exact, since what it holds is what is counted.

    Args:
        setting: what it is of.
        target: name of the target.
        shapes: of the points that it shows.
        lengths: tokens of their rows, increasing.
        reference: place of a point of middling size.
        reason: why nothing was measured.
    """
    prices = {name: float(name in COUNTED) for name in UNITS}
    places = [UNITS.index(name) for name in COUNTED]
    points = tuple(
        Point(shape, {FAMILY: tuple(units(shape, lengths)[:, places].sum(axis=1).tolist())}) for shape in shapes
    )
    return CostTable(
        schema=SCHEMA,
        edgekit=version("edgekit"),
        target=target,
        setting=setting,
        unit="multiply-adds",
        provenance=Provenance.ESTIMATED,
        reason=reason,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime="none",
        lengths=tuple(lengths),
        points=points,
        reference=reference,
        fits={FAMILY: Fit(prices, None, 0.0, 0.0)},
    )
