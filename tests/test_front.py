"""The front of a sweep: which points are left, and that what is written reads back and shows."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgekit.errors import ArtifactError
from edgekit.front import Point, front_file, read_front, unbeaten, write_front
from edgekit.report import sweep


def points(seed: int = 0, count: int = 30) -> list[Point]:
    """Returns random points, some of them alike in one figure."""
    random = np.random.default_rng(seed)
    costs = random.integers(1, 12, count)
    scores = 84 + costs + random.integers(-4, 4, count)
    return [
        Point(f"layers {i}", float(score), 1.0, float(cost), "ms", 24 / cost, 1000, "measured", False)
        for i, (score, cost) in enumerate(zip(scores, costs, strict=True))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_left_is_what_no_other_is_as_accurate_and_as_cheap_as(seed: int) -> None:
    every = points(seed)
    left = unbeaten(every)
    assert len(left) > 1
    assert all(a.score > b.score and a.cost > b.cost for a, b in itertools.pairwise(left))
    figures = {(one.score, one.cost) for one in every}
    front = {
        (score, cost)
        for score, cost in figures
        if not any(s >= score and c <= cost for s, c in figures - {(score, cost)})
    }
    assert {(one.score, one.cost) for one in left} == front


def test_a_front_reads_back(tmp_path: Path) -> None:
    left = unbeaten(points())
    write_front(tmp_path, "x86-64", left, 3)
    assert read_front(tmp_path, "x86-64") == left


@pytest.mark.parametrize("text", ["", "{}", '{"points": [{"score": 1}]}', "[1]"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    front_file(tmp_path, "x86-64").write_text(text)
    with pytest.raises(ArtifactError, match="--sweep"):
        read_front(tmp_path, "x86-64")


def test_page_and_table_show_every_point_and_escape_names() -> None:
    left = [dataclasses.replace(p, structure=f"<b>{p.structure}") for p in unbeaten(points())]
    left[0] = dataclasses.replace(left[0], chosen=True)
    page = sweep.page("x<y", left)
    assert "<b>" not in page
    assert page.count("<circle") == len(left)
    assert page.count("class=chosen") == 1
    assert "x&lt;y" in page
    screen = Console(width=200, record=True)
    screen.print(sweep.table("x86-64", left))
    shown = screen.export_text()
    assert all(p.structure in shown for p in left)
    assert shown.count("→") == 1


def test_a_front_of_one_point_is_drawn() -> None:
    assert "<circle" in sweep.page("x86-64", points(count=1))
