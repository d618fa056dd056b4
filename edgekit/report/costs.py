"""A table of costs for a terminal: what was measured, and how far the fit is off."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.report.figures import LEGEND, MARKS, clean
from edgekit.search.costs import CostTable


def table(found: CostTable) -> RenderableType:
    """Returns a table of costs: where it is from, its models at two of the lengths, and the errors of the fits."""
    setting, mark = found.setting, MARKS[found.provenance]
    unit = "milliseconds" if found.unit == "ms" else found.unit
    head = [
        f"{found.target}: {unit} an inference {mark}, students of width {setting.hidden} with heads of "
        f"{setting.head_dim}, {setting.threads} thread" + ("s" if setting.threads > 1 else ""),
        f"taken {found.date} on {setting.fingerprint.get('device', 'a device')}, {found.runtime}; {found.reason}",
    ]
    shown = Table("Heads", "FFN", "Labels", box=SIMPLE_HEAD)
    places = sorted({len(found.lengths) // 2, len(found.lengths) - 1})
    columns = [(place, family) for place in places for family in found.families]
    for place, family in columns:
        shown.add_column(f"{family}\n{found.lengths[place]} tokens", justify="right", no_wrap=True)
    for place, point in enumerate(found.points):
        costs = [figure(point.costs[family][at], found.unit) for at, family in columns]
        heads, ffn = (", ".join(map(str, widths)) for widths in (point.shape.heads, point.shape.ffn))
        star = " *" if place == found.reference else ""
        shown.add_row(heads, ffn + star, str(point.shape.labels), *costs)
    errors = [
        f"{family}: shapes that a fit has not seen are off by {fit.mean_error:.1f} % in the mean, "
        f"{fit.largest_error:.1f} % at most"
        for family, fit in found.fits.items()
    ]
    foot = "* the reference, to be timed again for the factor between two runs"
    parts: list[RenderableType] = [*(Text(clean(line)) for line in head), shown, *map(Text, errors)]
    return Group(*parts, Text(foot, style="dim"), Text(LEGEND, style="dim"))


def figure(cost: float, unit: str) -> str:
    """Returns a cost in few digits: milliseconds, or millions of instructions."""
    return f"{cost:.3f}" if unit == "ms" else f"{cost / 1e6:.2f} M"
