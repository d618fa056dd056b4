"""The table and the drawing say what the rows say."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import table
from drawing import AROUND, LABEL, draw, drop_ticks, place, span, speed_ticks

SVG = "{http://www.w3.org/2000/svg}"
SHARED = {
    "dataset": "weather",
    "cpu": "Some CPU",
    "isa": "avx2",
    "rounds": 8,
    "block_runs": 60,
    "onnxruntime": "1.2.3",
    "edgekit": "0.1.0",
    "day": "2026-01-31",
    "limited": None,
}


def row(way: str, speedup: float = 1.0, drop: float = 0.0, **more: Any) -> dict[str, Any]:
    return SHARED | {
        "way": way,
        "peer": "some",
        "takes": "tokens",
        "rows": 3080,
        "accuracy": 93 - drop,
        "drop": drop,
        "drop_ci95": [drop - 0.5, drop + 0.5],
        "p50_ms": 8 / speedup,
        "p95_ms": 9 / speedup,
        "cold_ms": 10 / speedup,
        "speedup": speedup,
        "speedup_low": 0.9 * speedup,
        "speedup_high": 1.1 * speedup,
        "bytes": 7_130_000,
        "peak_rss_bytes": 81_000_000,
        "seconds": 1234.4,
        **more,
    }


ROWS = [
    row("teacher", instructions=80_000_000, instructions_ratio=1.0),
    SHARED | {"way": "broken", "failed": "ValueError: a | b\n  c."},
    row("words", 40.0, 6.25, takes="text", chosen="C = 3"),
    row("ours", 8.0, -0.004, peer="edgekit", instructions=10_000_000, instructions_ratio=8.0),
    row("theirs", 2.0, 0.5, peak_rss_bytes=None, instructions_reason="no such operator", versions={"theirs": "9.1"}),
]


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_table_shows_every_row_with_its_figures() -> None:
    text = table.render(ROWS)
    head, rule, *lines = cells(text)
    assert [len(line) for line in (rule, *lines)] == [len(head)] * 6
    assert [line[1] for line in lines] == ["**ours**", "words ¹", "theirs", "teacher", "broken"]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "5"]
    ours = dict(zip(head, lines[0], strict=True))
    assert ours["drop, points (95 %)"] == "0.00 (−0.50 to 0.50)"
    assert ours["p50 / p95, ms"] == "1.00 / 1.12"
    assert ours["times the teacher's speed"] == "8.00 (7.20 to 8.80)"
    assert ours["Arm instructions, M (fewer)"] == "10.00 (8.00×)"
    assert (ours["file, MB"], ours["memory, MB"], ours["built in, s"]) == ("7.13", "81", "1,234")
    assert lines[2][head.index("memory, MB")] == table.NONE
    assert lines[4][2] == r"failed: ValueError: a \| b c"
    assert "from the text to the answer" in text
    assert "2: C = 3" in text
    assert "No instructions for 3: no such operator." in text
    assert "some: theirs 9.1" in text
    assert "trial" not in text


def test_a_trial_is_marked() -> None:
    assert "**A trial on 100 rows" in table.render([one | {"limited": 100} for one in ROWS])


def test_a_repeated_run_replaces_its_rows() -> None:
    again = [*ROWS, row("theirs", 3.0, 0.25), row("theirs", 9.0, dataset="other")]
    mine = table.datasets(again)
    assert list(mine) == ["weather", "other"]
    assert [one["speedup"] for one in mine["weather"] if one["way"] == "theirs"] == [3.0]


def test_page_gets_the_tables_and_keeps_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, results = tmp_path / "page.md", tmp_path / "rows.jsonl"
    page.write_text(f"# Head\n\n{table.START}\n\nwhat stood here\n\n{table.END}\n\ntail\n", encoding="utf-8")
    results.write_text("".join(json.dumps(one) + "\n" for one in ROWS), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["table.py", str(results), "--page", str(page)])
    table.main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Head\n")
    assert text.endswith("\n\ntail\n")
    assert "what stood here" not in text
    (picture,) = re.findall(r"\]\((.+\.svg)\)", text)
    assert (tmp_path / picture).is_file()
    table.main()
    assert page.read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match="once each"):
        table.put("# no marks", "text")


def test_drawing_has_a_point_for_every_row_that_was_timed() -> None:
    found = table.points(table.datasets(ROWS)["weather"])
    assert [number for number, *_ in found] == [1, 2, 3, 4]
    root = ET.fromstring(draw("weather & <more>", found))
    circles = root.findall(f"{SVG}circle")
    assert [one.get("class") for one in circles] == ["own", "peer", "peer", "peer"]
    centres = [(float(one.get("cx", 0)), float(one.get("cy", 0))) for one in circles]
    at = dict(enumerate(centres, 1))
    assert at[2][0] > at[1][0] > at[3][0] > at[4][0]  # faster is further right
    assert at[2][1] > at[3][1] > at[4][1] > at[1][1]  # the more points lost the lower
    named = {text.text for text in root.findall(f"{SVG}text") if "name" in text.get("class", "")}
    assert named == {"1", "2", "3", "4"}


def test_axes_show_the_teacher_and_every_point() -> None:
    found = [(1, 0.4, -1.2, False), (2, 60.0, 7.5, False)]
    axes = span(found)
    assert axes.slow < 0.4 < 60 < axes.fast
    assert axes.least < -1.2 < 7.5 < axes.most
    assert axes.x(1.0) - axes.x(0.5) == pytest.approx(axes.x(2.0) - axes.x(1.0))
    assert speed_ticks(axes) == [0.5, 1, 2, 5, 10, 20, 50]
    assert 0 in drop_ticks(axes)


def test_numbers_of_equal_points_stand_apart() -> None:
    found = [(number, 2.0, 0.5, False) for number in range(1, 5)]
    labels = [(one.label_x, one.label_y) for one in place(found, span([*found, (9, 50.0, 9.0, False)]))]
    assert len(AROUND) > len(labels)
    for i, (x, y) in enumerate(labels):
        assert all(max(abs(x - a), abs(y - b)) >= min(LABEL, 16) for a, b in labels[:i])
