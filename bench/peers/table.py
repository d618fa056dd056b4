"""Renders the rows of `run.py` as Markdown, and draws speed against accuracy.

    python bench/peers/table.py results.jsonl --page docs/benchmarks.md

puts the tables between the page's marks and writes one drawing a data set beside it. Without `--page` it prints.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drawing import draw

START, END = "<!-- figures: peers -->", "<!-- /figures -->"
NONE = "–"
HEAD = (
    "#",
    "Way",
    "accuracy, %",
    "drop, points (95 %)",
    "p50 / p95, ms",
    "cold, ms",
    "times the teacher's speed",
    "Arm instructions, M (fewer)",
    "file, MB",
    "memory, MB",
    "built in, s",
)

Row = Mapping[str, Any]


def latest(rows: Sequence[Row]) -> list[Row]:
    """Keeps of each data set the last line of each way: a run that was repeated replaces its rows."""
    kept: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["dataset"], row["way"])
        kept.pop(key, None)
        kept[key] = row
    return list(kept.values())


def datasets(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows by data set: edgekit's first, then the fastest first, what failed last."""
    found: dict[str, list[Row]] = {}
    for row in latest(rows):
        found.setdefault(row["dataset"], []).append(row)
    for mine in found.values():
        mine.sort(key=lambda row: ("failed" in row, row.get("peer") != "edgekit", -row.get("speedup", 0.0)))
    return found


def render(rows: Sequence[Row], pictures: Mapping[str, str] | None = None) -> str:
    """Returns Markdown: for each data set what it was measured on, a drawing if there is one, the table, notes.

    Args:
        rows: as `run.py` writes them.
        pictures: data set → path of its drawing, as the page links it.
    """
    parts = []
    for name, mine in datasets(rows).items():
        parts.append(f"### {name}\n\n{_circumstances(mine)}\n")
        if pictures and name in pictures:
            parts.append(f"![{name}: points lost against the teacher over speed]({pictures[name]})\n")
        lines = ["| " + " | ".join(HEAD) + " |", "| ---: | --- |" + " ---: |" * (len(HEAD) - 2)]
        lines += [_line(number, row) for number, row in enumerate(mine, 1)]
        parts.append("\n".join(lines) + "\n")
        parts.append(_notes(mine))
    return "\n".join(parts)


def points(rows: Sequence[Row]) -> list[tuple[int, float, float, bool]]:
    """Returns what is drawn of one data set: number in the table, speed, drop, whether it is edgekit's."""
    return [
        (number, row["speedup"], row["drop"], row.get("peer") == "edgekit")
        for number, row in enumerate(rows, 1)
        if row.get("speedup") and "failed" not in row
    ]


def _circumstances(rows: Sequence[Row]) -> str:
    one = rows[0]
    tested = next((row["rows"] for row in rows if "rows" in row), 0)
    text = (
        f"{tested:,} test rows, {one['cpu']} ({one['isa']}), one thread, {one['rounds']} rounds of {one['block_runs']} "
        f"runs, onnxruntime {one['onnxruntime']}, edgekit {one['edgekit']}, {one['day']}."
    )
    if one.get("limited"):
        text = f"**A trial on {one['limited']} rows with one pass of training: no result.** {text}"
    return text


def _line(number: int, row: Row) -> str:
    name = f"**{row['way']}**" if row.get("peer") == "edgekit" else row["way"]
    if "failed" in row:
        reason = _cell(str(row["failed"]))
        return f"| {number} | {name} | failed: {reason} |" + f" {NONE} |" * (len(HEAD) - 3)
    cells = [
        _figure(row, "accuracy", "{:.2f}"),
        f"{_signed(row['drop'])} ({_signed(row['drop_ci95'][0])} to {_signed(row['drop_ci95'][1])})",
        f"{row['p50_ms']:.2f} / {row['p95_ms']:.2f}" if "p50_ms" in row else NONE,
        _figure(row, "cold_ms", "{:.2f}"),
        f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})" if "speedup" in row else NONE,
        f"{row['instructions'] / 1e6:.2f} ({row['instructions_ratio']:.2f}×)" if "instructions_ratio" in row else NONE,
        _figure(row, "bytes", "{:.2f}", 1e6),
        _figure(row, "peak_rss_bytes", "{:.0f}", 1e6),
        _figure(row, "seconds", "{:,.0f}"),
    ]
    mark = " ¹" if row.get("takes") == "text" else ""
    return f"| {number} | {name}{mark} | " + " | ".join(cells) + " |"


def _notes(rows: Sequence[Row]) -> str:
    notes = []
    if any(row.get("takes") == "text" for row in rows):
        notes.append("¹ Timed from the text to the answer; the others from token ids to the answer.")
    chosen = [f"{number}: {row['chosen']}" for number, row in enumerate(rows, 1) if row.get("chosen")]
    if chosen:
        notes.append("Chosen on dev: " + "; ".join(chosen) + ".")
    uncounted: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        if row.get("instructions_reason"):
            uncounted.setdefault(_cell(row["instructions_reason"]), []).append(str(number))
    notes += [f"No instructions for {', '.join(which)}: {why}." for why, which in uncounted.items()]
    versions: dict[str, dict[str, str]] = {}
    for row in rows:
        for package, version in row.get("versions", {}).items():
            versions.setdefault(row.get("peer", ""), {})[package] = version
    listed = [f"{peer}: {', '.join(f'{p} {v}' for p, v in mine.items())}" for peer, mine in versions.items()]
    if listed:
        notes.append("Versions: " + "; ".join(listed) + ".")
    return "\n\n".join(notes) + "\n"


def _figure(row: Row, name: str, form: str, unit: float = 1.0) -> str:
    value = row.get(name)
    return NONE if value is None else form.format(value / unit)


def _signed(value: float) -> str:
    text = f"{value:.2f}"
    return ("0.00" if float(text) == 0 else text).replace("-", "−")


def _cell(text: str) -> str:
    """Keeps a reason on one line of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").rstrip(".")


def put(page: str, text: str) -> str:
    """Replaces what stands between the marks of a page.

    Raises:
        ValueError: the page does not have each mark once.
    """
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must hold {START} and {END} once each")
    before, rest = page.split(START)
    return f"{before}{START}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Prints the tables of a file, or puts them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines of run.py")
    parser.add_argument("--page", type=Path, help="Markdown page with the marks; drawings are written beside it")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.results.read_text(encoding="utf-8").splitlines()]
    if given.page is None:
        print(render(rows))
        return
    pictures = {}
    for name, mine in datasets(rows).items():
        found = points(mine)
        if found:
            pictures[name] = f"{given.page.stem}-{name}.svg"
            given.page.with_name(pictures[name]).write_text(draw(name, found), encoding="utf-8")
    given.page.write_text(put(given.page.read_text(encoding="utf-8"), render(rows, pictures)), encoding="utf-8")


if __name__ == "__main__":
    main()
