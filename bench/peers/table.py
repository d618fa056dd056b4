"""Renders the rows of `run.py` as the Markdown table and the plot of docs/benchmarks.md.

    python bench/peers/table.py results.jsonl                            # prints the tables
    python bench/peers/table.py results.jsonl --page docs/benchmarks.md  # writes them, and a plot beside the page

Of each data set the rows of its last run count: those that share the time when it began.
"""

from __future__ import annotations

import argparse
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table: peers -->", "<!-- /table -->"
HEAD = (
    "way", "accuracy %", "drop (95 %)", "p50 ms", "p95 ms", "cold ms", "× teacher", "Arm instr.", "× fewer",
    "file MB", "memory MB", "built in s",
)  # fmt: skip
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 360, 56, 44

Row = Mapping[str, Any]


def render(rows: Sequence[Row]) -> str:
    """Returns the Markdown of every data set in the rows, each with what it was taken with."""
    parts = []
    for name in dict.fromkeys(row["dataset"] for row in rows):
        of = [row for row in rows if row["dataset"] == name]
        parts.append(f"### {name}\n\n{_circumstances(of)}\n\n{_table(of)}{_failures(of)}")
    return "\n\n".join(parts)


def last_runs(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the last run of each data set."""
    last = {row["dataset"]: row["began"] for row in sorted(rows, key=lambda row: row["began"])}
    return [row for row in rows if row["began"] == last[row["dataset"]]]


def fastest_peer(rows: Sequence[Row], max_drop: float) -> Row | None:
    """Returns the fastest transformer of the peers whose drop is within a limit; None where there is none.

    Args:
        rows: of one data set.
        max_drop: in points.
    """
    able = [
        row
        for row in rows
        if row["peer"] != "edgekit" and row.get("takes") == "tokens" and "speedup" in row and row["drop"] <= max_drop
    ]
    return max(able, key=lambda row: float(row["speedup"]), default=None)


def plot(rows: Sequence[Row]) -> str:
    """Draws accuracy against speed, one panel of dots for each data set, edgekit's filled."""
    drawn = [row for row in rows if "speedup" in row and "accuracy" in row]
    names = list(dict.fromkeys(row["dataset"] for row in drawn))
    panels = [_panel(name, [r for r in drawn if r["dataset"] == name], place) for place, name in enumerate(names)]
    height = HEIGHT * max(len(names), 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="accuracy against speed of edgekit and its peers">\n'
        "<style>text { font: 12px system-ui, sans-serif; fill: #57606a } .axis { stroke: #8c959f } "
        ".peer { fill: none; stroke: #57606a; stroke-width: 1.5 } .ours { fill: #1a7f37 } .name { font-weight: 600 }"
        "</style>\n" + "\n".join(panels) + "\n</svg>\n"
    )


def _panel(name: str, rows: Sequence[Row], place: int) -> str:
    speeds, scores = [float(r["speedup"]) for r in rows], [float(r["accuracy"]) for r in rows]
    low, high = math.log(min(speeds)), math.log(max(speeds))
    worst, best = min(scores), max(scores)
    top = HEIGHT * place

    def x(row: Row) -> float:
        share = (math.log(row["speedup"]) - low) / (high - low) if high > low else 0.5
        return LEFT + 12 + share * (WIDTH - LEFT - 180)

    def y(row: Row) -> float:
        share = (row["accuracy"] - worst) / (best - worst) if best > worst else 0.5
        return top + HEIGHT - BOTTOM - 12 - share * (HEIGHT - BOTTOM - 60)

    dots = "".join(
        f'<circle class="{"ours" if row["peer"] == "edgekit" else "peer"}" cx="{x(row):.1f}" cy="{y(row):.1f}" r="5"/>'
        f'<text x="{x(row) + 9:.1f}" y="{y(row) + 4:.1f}">{html.escape(row["way"])}</text>'
        for row in rows
    )
    base = top + HEIGHT - BOTTOM
    return (
        f'<text class="name" x="{LEFT}" y="{top + 20}">{html.escape(name)}</text>'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - 12}" y2="{base}"/>'
        f'<line class="axis" x1="{LEFT}" y1="{top + 32}" x2="{LEFT}" y2="{base}"/>'
        f'<text x="8" y="{base - 8}">{worst:.1f} %</text><text x="8" y="{top + 52}">{best:.1f} %</text>'
        f'<text x="{LEFT}" y="{base + 18}">{math.exp(low):.2g}</text>'
        f'<text x="{WIDTH - 180}" y="{base + 18}">{math.exp(high):.3g} times the teacher’s speed</text>{dots}'
    )


def _circumstances(rows: Sequence[Row]) -> str:
    one = rows[0]
    trial = f" **A trial on {one['limited']} rows, with one pass over train: no result.**" if one["limited"] else ""
    measured = next((row["rows"] for row in rows if "rows" in row), 0)
    return (
        f"{measured:,} test rows; {one['cpu']}, one thread, batch 1, real lengths; {one['rounds']} rounds of "
        f"{one['block_runs']} runs; onnxruntime {one['onnxruntime']}, edgekit {one['edgekit']}; {one['day']}.{trial}"
    )


def _table(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if "failed" not in row]
    lines = [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 1)}"]
    for row in sorted(shown, key=lambda row: float(row.get("speedup", 0))):
        name = f"**{row['way']}**" if row["peer"] == "edgekit" else str(row["way"])
        lines.append(f"| {name} | {' | '.join(_cells(row))} |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    def number(key: str, digits: int, scale: float = 1.0) -> str:
        return "–" if row.get(key) is None else f"{row[key] * scale:.{digits}f}"

    drop = "–"
    if "drop" in row:
        low, high = row["drop_ci95"]
        drop = f"{row['drop']:.2f} ({low:.2f} to {high:.2f})"
    return [
        number("accuracy", 2),
        drop.replace("-", "−"),
        number("p50_ms", 3),
        number("p95_ms", 3),
        number("cold_ms", 3),
        number("speedup", 2),
        "–" if "instructions" not in row else f"{row['instructions'] / 1e6:.2f} M",
        number("instructions_ratio", 1),
        number("bytes", 2, 1e-6),
        number("peak_rss_bytes", 0, 1e-6),
        number("seconds", 0),
    ]


def _failures(rows: Sequence[Row]) -> str:
    failed = [f"- {row['way']}: {row['failed']}" for row in rows if "failed" in row]
    return "\n\nWithout a result:\n\n" + "\n".join(failed) if failed else ""


def main() -> None:
    """Prints the tables, or writes them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines that run.py wrote")
    parser.add_argument("--page", type=Path, help="Markdown page with the marks of the table; the plot goes beside it")
    given = parser.parse_args()
    rows = last_runs([json.loads(line) for line in given.results.read_text(encoding="utf-8").splitlines()])
    tables = render(rows)
    if given.page is None:
        print(tables)
        return
    before, _, rest = given.page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        parser.error(f"{given.page} lacks the marks {BEGIN} and {END}")
    picture = given.page.with_suffix(".svg")
    picture.write_text(plot(rows), encoding="utf-8")
    image = f"![Accuracy against speed]({picture.name})"
    given.page.write_text(f"{before}{BEGIN}\n\n{image}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
