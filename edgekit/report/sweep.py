"""A sweep's front as a table for the terminal and as one self-contained page with a plot."""

from __future__ import annotations

import html
import math
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgekit.front import INSTRUCTIONS, MILLISECONDS, Basis, Front, Point
from edgekit.report import figures
from edgekit.store import write_file

WIDTH, HEIGHT, MARGIN = 640, 320, 48
NAMES = ("Test %", "Drop", "Inference", "× teacher", "File")


def table(front: Front) -> Group:
    """Returns the front as rows, the most accurate first; the one in the bundle is marked."""
    title = f"{figures.clean(front.target)}: what can be had, drops in points"
    drawn = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    drawn.add_column("")
    drawn.add_column("Student", min_width=22)
    for name in NAMES:
        drawn.add_column(name, justify="right", no_wrap=True)
    for one in front.points:
        mark, cells = "→" if one.chosen else "", _cells(one, front.basis)
        drawn.add_row(mark, Text(figures.clean(one.structure)), *(Text(cell) for cell in cells))
    chosen = [] if any(one.chosen for one in front.points) else [_which(front)]
    return Group(drawn, *(Text(figures.clean(text), style="dim") for text in (*chosen, *_notes(front))))


def page(front: Front) -> str:
    """Returns the front as HTML: the table, and accuracy against cost on a logarithmic axis."""
    head = "".join(f"<th>{name}</th>" for name in ("Student", *NAMES))
    rows = "".join(
        f"<tr{' class=chosen' if one.chosen else ''}><td>{_text(one.structure)}</td>"
        + "".join(f"<td class=number>{_text(cell)}</td>" for cell in _cells(one, front.basis))
        + "</tr>"
        for one in front.points
    )
    notes = "".join(f"<p class=note>{_text(text)}</p>" for text in _notes(front))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(front.target)}: sweep</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8884 }}
.number {{ text-align: right; white-space: nowrap }}
.note {{ color: #8a8a8a; font-size: 13px; margin: .3rem 0 }}
.chosen td {{ font-weight: 600 }}
svg {{ width: 100%; height: auto }}
svg text {{ font: 12px system-ui, sans-serif; fill: currentColor }}
.line {{ fill: none; stroke: #54aeff; stroke-width: 2 }}
.dot {{ fill: #54aeff }}
.taken {{ fill: #1a7f37 }}
.axis {{ stroke: #8888 }}
</style></head><body>
<h1>{_text(front.target)}: what can be had</h1>
<p>Each student was built and measured; none is beaten by another in accuracy and cost. Drops are in
points, against the teacher on the same rows. {_which(front)}</p>
{_plot(front)}
<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>
{notes}
</body></html>
"""


def _which(front: Front) -> str:
    """Says which one is in the bundle."""
    if any(one.chosen for one in front.points):
        return "In bold: the one in the bundle."
    return "The one in the bundle is not among them: once measured, another was at least as accurate and no dearer."


def _notes(front: Front) -> list[str]:
    """Says what costs are of: what was compared, where, and how a mark is read."""
    basis, count = front.basis, len(front.points) + len(front.beaten)
    where = f"on {basis.device}{f'; {basis.reason}' if basis.reason else ''}."
    of = f"{count} student{'s' if count > 1 else ''} and the teacher"
    if basis.measure == INSTRUCTIONS:
        said = [f"Counted of {of} ({_cost(basis.teacher, basis)}) {where}", figures.PROXY]
    else:
        said = [
            f"Times are of one run of {of} (p50 {_cost(basis.teacher, basis)}) {where} An inference is the teacher's "
            "by the median ratio to it; the bundle's report has those of a run of its own."
        ]
    if basis.unsteady:
        said.append(f"The rounds disagree on {basis.unsteady} of them: their order may be another in the next run.")
    return [*said, figures.LEGEND]


def write(path: Path, front: Front) -> None:
    """Writes the page.

    Raises:
        OutputError: the file cannot be written.
    """
    write_file(path, "sweep", page(front))


def _cost(cost: float, basis: Basis) -> str:
    return figures.milliseconds(cost) if basis.measure == MILLISECONDS else f"{figures.amount(cost)} instr."


def _cells(one: Point, basis: Basis) -> list[str]:
    return [
        f"{one.score:.2f}",
        figures.signed(one.drop),
        f"{_cost(one.cost, basis)} {figures.MARKS[basis.provenance]}",
        figures.ratio(one.ratio),
        figures.size(one.bytes),
    ]


def _plot(front: Front) -> str:
    """Draws accuracy over how many times less than the teacher's a student's cost is."""
    points = front.points
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
    scores = {worst: HEIGHT - MARGIN, best: MARGIN} if best > worst else {best: HEIGHT // 2}
    labels = "".join(f'<text x="0" y="{place}">{score:.1f}</text>' for score, place in scores.items())
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy over speed">'
        f'<line class="axis" x1="{MARGIN - 12}" y1="{base}" x2="{WIDTH - 12}" y2="{base}"/>'
        f'<line class="axis" x1="{MARGIN - 12}" y1="12" x2="{MARGIN - 12}" y2="{base}"/>'
        f"{labels}"
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">times less than the teacher’s cost</text>'
        f'<polyline class="line" points="{line}"/>{dots}</svg>'
    )


def _text(value: str) -> str:
    return html.escape(figures.clean(value))
