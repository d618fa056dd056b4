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


def made(name: str, score: float, ratio: float, cost: float) -> Point:
    """Returns a point of these figures."""
    return Point(name, score, 1.0, cost, "ms", ratio, 1000, "measured", False)


def points(seed: int = 0, count: int = 30) -> list[Point]:
    """Returns random points, some of them alike in one figure, whose ratios and costs are of different runs."""
    random = np.random.default_rng(seed)
    ratios, teacher = random.integers(1, 12, count), random.integers(9, 13, count)
    figures = zip(95 - ratios + random.integers(-4, 4, count), ratios, teacher, strict=True)
    return [made(f"layers {i}", float(score), float(x), float(of / x)) for i, (score, x, of) in enumerate(figures)]


def cheaper(a: Point, b: Point) -> bool:
    """Says whether a is cheaper than b by both figures."""
    return a.ratio > b.ratio and a.cost < b.cost


@pytest.mark.parametrize("seed", range(8))
def test_what_is_left_falls_in_accuracy_and_in_cost_and_beats_what_is_not(seed: int) -> None:
    every = points(seed)
    left = unbeaten(every)
    assert len(left) > 1
    for before, after in itertools.pairwise(left):
        assert before.score > after.score
        assert cheaper(after, before)
    for one in every:
        assert one in left or any(other.score >= one.score and not cheaper(one, other) for other in left)
    fixed = [dataclasses.replace(one, cost=10 / one.ratio) for one in every]  # all of one run
    front = {
        (one.score, one.ratio)
        for one in fixed
        if not any(
            a.score >= one.score and a.ratio >= one.ratio and (a.score, a.ratio) != (one.score, one.ratio)
            for a in fixed
        )
    }
    assert {(one.score, one.ratio) for one in unbeaten(fixed)} == front


@pytest.mark.parametrize(
    ("figures", "names"),
    [
        ({"a": (91.9, 70.4, 48.6), "b": (91.7, 74.8, 49.1)}, "a"),
        ({"a": (91.9, 70.4, 49.5), "b": (91.7, 74.8, 49.1)}, "ab"),
        ({"a": (92.0, 72.0, 50.0), "b": (91.9, 70.0, 48.6), "c": (91.7, 75.0, 49.1)}, "ac"),
        ({"a": (91.9, 70.0, 49.0), "b": (91.7, 75.0, 50.0), "c": (91.65, 74.0, 48.0)}, "ac"),
        ({"a": (91.9, 70.0, 49.0), "b": (91.9, 71.0, 50.0)}, "b"),
    ],
)
def test_a_ratio_that_the_cost_itself_does_not_bear_out_is_left_out(
    figures: dict[str, tuple[float, float, float]], names: str
) -> None:
    left = unbeaten(made(name, *of) for name, of in figures.items())
    assert "".join(one.structure for one in left) == names


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
