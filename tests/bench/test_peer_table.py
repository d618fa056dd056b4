"""The peers' table and plot, and the ratios of their times; the peers themselves are run by `make bench`."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PEERS = Path(__file__).parent.parent.parent / "bench" / "peers"
sys.path.append(str(PEERS))

import table  # noqa: E402
from timings import figures  # noqa: E402

SHARED = {
    "dataset": "intents", "limited": None, "edgekit": "0.1.0", "onnxruntime": "1.31.1", "cpu": "a CPU", "isa": "avx2",
    "rounds": 8, "block_runs": 60, "began": "2026-01-02T03:04:05+00:00", "day": "2026-01-02",
}  # fmt: skip


def row(way: str, peer: str, speedup: float, drop: float, **changes: Any) -> dict[str, Any]:
    """Returns a row with made-up figures."""
    figures = {
        "accuracy": 93.0 - drop, "drop": drop, "drop_ci95": [drop - 1, drop + 1], "p50_ms": 7 / speedup,
        "p95_ms": 8 / speedup, "cold_ms": 9 / speedup, "speedup": speedup, "bytes": 4_000_000, "seconds": 12.3,
        "rows": 500, "takes": "tokens",
    }  # fmt: skip
    return {**SHARED, "way": way, "peer": peer, **figures, **changes}


ROWS = [
    row("teacher", "teacher", 1.0, 0.0),
    row("dynamic <int8>", "onnxruntime", 1.7, 0.2, instructions=24_000_000, instructions_ratio=2.1),
    row("half", "distilbert", 4.4, 1.4),
    row("words", "tfidf", 50.0, 0.5, takes="text"),
    row("edgekit", "edgekit", 15.0, 0.8),
    {**SHARED, "way": "olive", "peer": "olive", "failed": "no such operator"},
]


def test_the_table_has_every_row_in_the_order_of_speed_and_says_what_failed() -> None:
    text = table.render(ROWS)
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0].strip("| *") for line in lines] == [
        "teacher", "dynamic <int8>", "half", "edgekit", "words",
    ]  # fmt: skip
    assert all(line.count("|") == len(table.HEAD) + 1 for line in lines)
    assert "- olive: no such operator" in text
    assert "500 test rows" in text
    assert "24.00 M" in text


def test_a_trial_is_marked() -> None:
    assert "no result" in table.render([{**one, "limited": 60} for one in ROWS])
    assert "no result" not in table.render(ROWS)


def test_the_fastest_peer_is_a_transformer_within_the_drop() -> None:
    assert table.fastest_peer(ROWS, 1.0)["way"] == "dynamic <int8>"
    assert table.fastest_peer(ROWS, 2.0)["way"] == "half"
    assert table.fastest_peer(ROWS[3:], 1.0) is None


def test_only_the_last_run_of_each_data_set_counts() -> None:
    older = [{**one, "began": "2025-01-02T03:04:05+00:00", "accuracy": 1.0} for one in ROWS]
    other = [{**one, "dataset": "spam", "began": "2024-01-02T03:04:05+00:00"} for one in ROWS]
    found = table.last_runs([*ROWS, *older, *other])
    assert found == [*ROWS, *other]


def test_the_plot_draws_what_has_figures_and_escapes_names() -> None:
    drawn = ET.fromstring(table.plot([*ROWS, *({**one, "dataset": "spam"} for one in ROWS)]))
    circles = [element for element in drawn.iter() if element.tag.endswith("circle")]
    assert len(circles) == 2 * (len(ROWS) - 1)
    assert sum(circle.get("class") == "ours" for circle in circles) == 2


def test_a_page_gets_table_and_plot_between_its_marks(tmp_path: Path) -> None:
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    results.write_text("".join(json.dumps(one) + "\n" for one in ROWS))
    page.write_text(f"before\n{table.BEGIN}\nstale\n{table.END}\nafter\n")
    command = [sys.executable, str(PEERS / "table.py"), str(results), "--page", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale" not in text
    assert "page.svg" in text
    ET.parse(tmp_path / "page.svg")
    again = page.read_text()
    subprocess.run(command, check=True, capture_output=True)
    assert page.read_text() == again


def test_ratios_are_of_medians_within_rounds() -> None:
    random = np.random.default_rng(0)
    drift = np.linspace(1, 3, 8)[:, None]  # the machine slows down: both alike
    model = drift * random.lognormal(0, 0.2, (8, 60))
    teacher = 5 * drift * random.lognormal(0, 0.2, (8, 60))
    found = figures(model, model[:, 0], teacher, teacher[:, 0])
    assert found["speedup"] == pytest.approx(np.median(np.median(teacher, 1) / np.median(model, 1)))
    assert found["cold_ms"] == np.median(model[:, 0])
    with pytest.raises(ValueError, match=r".+"):
        figures(model[:5], model[:5, 0], teacher, teacher[:, 0])
