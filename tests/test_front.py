"""The front of a sweep: which points are left, and that what is written reads back and shows."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from rich.console import Console

from edgekit.errors import ArtifactError
from edgekit.front import Basis, Front, Point, front_file, read_front, unbeaten, write_front
from edgekit.provenance import Provenance
from edgekit.report import sweep


def points(seed: int = 0, count: int = 30) -> list[Point]:
    """Returns random points, some of them alike in one figure or in both."""
    random = np.random.default_rng(seed)
    costs = random.integers(1, 12, count)
    scores = 84 + costs + random.integers(-4, 4, count)
    return [
        Point(f"layers {i}", float(score), 1.0, float(cost), 24 / cost, 1000, chosen=False)
        for i, (score, cost) in enumerate(zip(scores, costs, strict=True))
    ]


def front(
    points: Sequence[Point], target: str = "x86-64", measure: Literal["ms", "instructions"] = "ms", unsteady: int = 0
) -> Front:
    """Returns a front of these points, as if three were left out."""
    basis = Basis("qemu:cortex-a76", Provenance.SIMULATED, "as the test says", measure, 24.0, unsteady)
    return Front(target, basis, tuple(points), beaten=tuple(points)[:3])


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


def test_of_equals_the_one_in_the_bundle_is_left() -> None:
    one = Point("layer 5", 90.0, 1.0, 2.0, 12.0, 1000, chosen=False)
    bundled = dataclasses.replace(one, structure="layer 4", chosen=True)
    assert unbeaten([one, bundled]) == unbeaten([bundled, one]) == (bundled,)


def test_a_front_reads_back(tmp_path: Path) -> None:
    written = front(unbeaten(points()))
    write_front(tmp_path, written)
    assert read_front(tmp_path, "x86-64") == written


@pytest.mark.parametrize("text", ["", "{}", '{"points": [{"score": 1}]}', "[1]", "null"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    front_file(tmp_path, "x86-64").write_text(text)
    with pytest.raises(ArtifactError, match="--sweep"):
        read_front(tmp_path, "x86-64")


def test_a_ratio_of_nothing_is_refused(tmp_path: Path) -> None:
    write_front(tmp_path, front(points(count=1)))
    path = front_file(tmp_path, "x86-64")
    path.write_text(re.sub(r'"ratio": [\d.]+', '"ratio": 0', path.read_text()))
    with pytest.raises(ArtifactError, match="ratio"):
        read_front(tmp_path, "x86-64")


def shown(of: Front) -> str:
    """Returns the table as a terminal shows it."""
    screen = Console(width=240, record=True)
    screen.print(sweep.table(of))
    return screen.export_text()


def test_page_and_table_show_every_point_and_escape_names() -> None:
    left = [dataclasses.replace(p, structure=f"<b>{p.structure}") for p in unbeaten(points())]
    left[0] = dataclasses.replace(left[0], chosen=True)
    page = sweep.page(front(left, "x<y"))
    assert "<b>" not in page
    assert page.count("<circle") == len(left)
    assert page.count("class=chosen") == 1
    assert "x&lt;y" in page
    table = shown(front(left))
    assert all(p.structure in table for p in left)
    assert table.count("→") == 1
    assert "The one in the bundle" not in table
    assert "The one in the bundle is not among them" in " ".join(shown(front(left[1:])).split())


@pytest.mark.parametrize(
    ("measure", "told"),
    [("ms", ["Times are of one run of", "24.0 ms"]), ("instructions", ["Counted of", "24 instr.", "proxy for time"])],
)
def test_both_say_what_costs_are_of(measure: Literal["ms", "instructions"], told: list[str]) -> None:
    of = front(unbeaten(points()), measure=measure)
    said = [f"{len(of.points) + 3} students and the teacher", "qemu:cortex-a76; as the test says", "◐ simulated"]
    for text in (sweep.page(of), shown(of)):
        assert all(part in text for part in (*said, *told))
        assert ("proxy" in text) is (measure == "instructions")
        assert "disagree" not in text


def test_both_say_where_the_order_may_not_hold() -> None:
    of = front(unbeaten(points()), unsteady=4)
    for text in (sweep.page(of), shown(of)):
        assert "The rounds disagree on 4 of them" in text


def test_a_front_of_one_point_is_drawn() -> None:
    assert "<circle" in sweep.page(front(points(count=1)))
