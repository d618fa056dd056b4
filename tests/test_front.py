"""The front of a sweep: which points are left, and that what is written reads back and shows."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from manifests import accuracy, latency
from rich.console import Console

from edgekit.errors import ArtifactError
from edgekit.front import Point, front_file, point, read_front, unbeaten, write_front
from edgekit.measured import Instructions
from edgekit.provenance import Provenance
from edgekit.report import sweep


def points(seed: int = 0, count: int = 30) -> list[Point]:
    """Returns random points, some of them alike in one figure."""
    random = np.random.default_rng(seed)
    figures = zip(random.integers(80, 95, count), random.integers(1, 12, count), strict=True)
    return [
        Point(f"layers {i}", float(score), 1.0, 12 / ratio, "ms", float(ratio), 1000, "measured", False)
        for i, (score, ratio) in enumerate(figures)
    ]


def beats(a: Point, b: Point) -> bool:
    """Says whether a is no worse than b in both figures and better in one."""
    return a.score >= b.score and a.ratio >= b.ratio and (a.score > b.score or a.ratio > b.ratio)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_is_beaten_by_nothing_and_what_is_not_is(seed: int) -> None:
    every = points(seed)
    left = unbeaten(every)
    for a, b in itertools.product(every, left):
        assert not beats(a, b)
    for one in every:
        same = any((one.score, one.ratio) == (other.score, other.ratio) for other in left)
        assert one in left or same or any(beats(other, one) for other in left)
    assert [p.ratio for p in left] == sorted(p.ratio for p in left)


def test_a_ratio_that_the_cost_itself_does_not_bear_out_is_left_out() -> None:
    dearer, cheaper = (
        dataclasses.replace(points()[0], score=score, cost=cost, ratio=ratio)
        for score, cost, ratio in ((91.9, 48.6, 70.4), (91.7, 49.1, 74.8))
    )
    assert unbeaten([cheaper, dearer]) == [dearer]
    slower = dataclasses.replace(dearer, cost=49.5)
    assert unbeaten([cheaper, slower]) == [slower, cheaper]


def test_a_front_reads_back(tmp_path: Path) -> None:
    left = unbeaten(points())
    write_front(tmp_path, "x86-64", left, 3)
    assert read_front(tmp_path, "x86-64") == left


@pytest.mark.parametrize("text", ["", "{}", '{"points": [{"score": 1}]}', "[1]"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    front_file(tmp_path, "x86-64").write_text(text)
    with pytest.raises(ArtifactError, match="--sweep"):
        read_front(tmp_path, "x86-64")


def test_a_point_has_the_time_where_there_is_one_and_else_the_instructions() -> None:
    right = accuracy(lost=20, gained=10, examples=1000, right=900)
    counted = Instructions(2_000_000, 9_000_000, "qemu:cortex-a76", Provenance.SIMULATED, "")
    timed = point("s", right, latency(), counted, 7, True)
    assert timed is not None
    assert (timed.measure, timed.cost, timed.ratio) == ("ms", latency().p50_ms, latency().speedup)
    only = point("s", right, None, counted, 7, True)
    assert only is not None
    assert (only.measure, only.cost, only.ratio) == ("instructions", 2_000_000, 4.5)
    assert (only.score, only.drop) == (right.artifact, right.drop)
    assert point("s", right, None, None, 7, True) is None


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
