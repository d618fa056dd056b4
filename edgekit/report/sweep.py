"""A sweep's front as a table for the terminal and as one self-contained page with a plot."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from edgekit.front import MILLISECONDS, Point
from edgekit.provenance import Provenance
from edgekit.report import figures
from edgekit.store import write_file

WIDTH, HEIGHT, MARGIN = 640, 320, 48
NAMES = ("Test %", "Drop", "Inference", "× teacher", "File")


def table(target: str, points: Sequence[Point]) -> Table:
    """Returns the front as rows, the most accurate first; the one in the bundle is marked."""
    title = f"{figures.clean(target)}: what can be had, drops in points"
    drawn = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    drawn.add_column("")
    drawn.add_column("Student", min_width=22)
    for name in NAMES:
        drawn.add_column(name, justify="right", no_wrap=True)
    for one in points:
        drawn.add_row(
            "→" if one.chosen else "", Text(figures.clean(one.structure)), *(Text(cell) for cell in _cells(one))
        )
    return drawn


def page(target: str, points: Sequence[Point]) -> str:
    """Returns the front as HTML: the table, and accuracy against cost on a logarithmic axis."""
    head = "".join(f"<th>{name}</th>" for name in ("Student", *NAMES))
    rows = "".join(
        f"<tr{' class=chosen' if one.chosen else ''}><td>{_text(one.structure)}</td>"
        + "".join(f"<td class=number>{_text(cell)}</td>" for cell in _cells(one))
        + "</tr>"
        for one in points
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(target)}: sweep</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8884 }}
.number {{ text-align: right; white-space: nowrap }}
.chosen td {{ font-weight: 600 }}
svg {{ width: 100%; height: auto }}
svg text {{ font: 12px system-ui, sans-serif; fill: currentColor }}
.line {{ fill: none; stroke: #54aeff; stroke-width: 2 }}
.dot {{ fill: #54aeff }}
.taken {{ fill: #1a7f37 }}
.axis {{ stroke: #8888 }}
</style></head><body>
<h1>{_text(target)}: what can be had</h1>
<p>Each student was built and measured; none is beaten by another in accuracy and cost. Drops are in
points, against the teacher on the same rows. {_which(points)}</p>
{_plot(points)}
<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>
</body></html>
"""


def _which(points: Sequence[Point]) -> str:
    """Says which one is in the bundle."""
    if any(one.chosen for one in points):
        return "In bold: the one in the bundle."
    return "The one in the bundle is not among them: once measured, another beat it."


def write(path: Path, target: str, points: Sequence[Point]) -> None:
    """Writes the page.

    Raises:
        OutputError: the file cannot be written.
    """
    write_file(path, "sweep", page(target, points))


def _cells(one: Point) -> list[str]:
    mark = figures.MARKS[Provenance(one.provenance)]
    cost = figures.milliseconds(one.cost) if one.measure == MILLISECONDS else f"{figures.amount(one.cost)} instr."
    return [
        f"{one.score:.2f}",
        figures.signed(one.drop),
        f"{cost} {mark}",
        figures.ratio(one.ratio),
        figures.size(one.bytes),
    ]


def _plot(points: Sequence[Point]) -> str:
    """Draws accuracy over how many times less than the teacher's a student's cost is."""
    low, high = (f(math.log(p.ratio) for p in points) for f in (min, max))
    worst, best = (f(p.score for p in points) for f in (min, max))

    def x(one: Point) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * ((math.log(one.ratio) - low) / (high - low) if high > low else 0.5)

    def y(one: Point) -> float:
        share = (one.score - worst) / (best - worst) if best > worst else 0.5
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share

    line = " ".join(f"{x(p):.1f},{y(p):.1f}" for p in points)
    dots = "".join(
        f'<circle class="{"taken" if p.chosen else "dot"}" cx="{x(p):.1f}" cy="{y(p):.1f}" r="{6 if p.chosen else 4}">'
        f"<title>{_text(p.structure)}</title></circle>"
        f'<text x="{x(p):.1f}" y="{y(p) - 10:.1f}" text-anchor="middle">{_text(figures.ratio(p.ratio))}</text>'
        for p in points
    )
    base = HEIGHT - MARGIN + 12
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy over speed">'
        f'<line class="axis" x1="{MARGIN - 12}" y1="{base}" x2="{WIDTH - 12}" y2="{base}"/>'
        f'<line class="axis" x1="{MARGIN - 12}" y1="12" x2="{MARGIN - 12}" y2="{base}"/>'
        f'<text x="4" y="{HEIGHT - MARGIN}">{worst:.1f}</text><text x="4" y="{MARGIN}">{best:.1f}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">times less than the teacher’s cost</text>'
        f'<polyline class="line" points="{line}"/>{dots}</svg>'
    )


def _text(value: str) -> str:
    return html.escape(figures.clean(value))
