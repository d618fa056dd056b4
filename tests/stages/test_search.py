"""The search: which places it looks at, what it trains, and that it takes the cheapest that passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from builds import TinyBuild, made

from edgekit.artifact import Plan, TeacherOutline
from edgekit.stage import Inputs
from edgekit.stages.outline import Outlining
from edgekit.stages.prune import Prune
from edgekit.stages.search import Search, bisection, wanted

QUICK: dict[str, Any] = {"epochs": 3, "probe_epochs": 1, "min_steps": 0, "trainings": 4}
GIVEN = {"prune": {"learning_rate": 3e-3}}


@pytest.mark.parametrize("last", range(-1, 12))
@pytest.mark.parametrize("first", [0, 4, 11])
def test_bisection_finds_the_last_place_that_passes(first: int, last: int) -> None:
    looked: list[int] = []
    for place in bisection(first, 12, lambda at: at <= last, 12):
        looked.append(place)
    assert len(looked) == len(set(looked)), "none twice"
    assert all(0 <= place < 12 for place in looked)
    passed = [place for place in looked if place <= last]
    assert max(passed, default=-1) == last
    assert last == 11 or last + 1 in looked, "the next one was seen to fail"


def test_bisection_stops_after_so_many() -> None:
    assert list(bisection(5, 12, lambda at: at <= 8, 2)) == [5, 7]


@pytest.mark.parametrize(
    ("options", "searched"),
    [
        ({}, True),
        ({"prune": {"learning_rate": 1e-3}}, True),
        ({"distill": {"layers": "2"}}, False),
        ({"distill": {"keep": "0,1"}}, False),
        ({"prune": {"heads": 0.5}}, False),
        ({"prune": {"layer_heads": "2", "layer_ffn": "32"}}, False),
        ({"search": {"enabled": "false"}}, False),
        ({"search": {"enabled": False}}, False),
    ],
)
def test_a_structure_that_is_given_is_not_searched(options: dict[str, dict[str, Any]], searched: bool) -> None:
    assert wanted(options) is searched


@pytest.fixture(scope="module")
def artifacts(tiny_build: TinyBuild, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Returns what a search takes."""
    found = {kind: made(tiny_build, kind) for kind in Search.IN if kind is not TeacherOutline}
    given = [found[kind] for kind in Outlining.IN]
    found[TeacherOutline] = tiny.run_stage(Outlining(rows=60), given, tmp_path_factory.mktemp("outline"))
    return found


def search(artifacts: dict[Any, Any], folder: Path, **options: Any) -> tuple[Plan, list[Any]]:
    """Runs a search; returns its plan and the stages that it had run."""
    stage = Search(**{**QUICK, **options}).knowing(GIVEN)
    out, ran = folder / "out", []
    out.mkdir(parents=True)
    ctx = tiny.context(folder / "resume", stage)

    def make(other: Any, given: Any) -> Any:
        ran.append(other)
        inputs = [given[kind] for kind in other.IN]
        return tiny.run_stage(other, inputs, folder / f"{len(ran)}-{other.NAME}")

    import dataclasses

    ctx = dataclasses.replace(ctx, make=make)
    stage.run(Inputs(artifacts, stage.IN), out, ctx)
    return Plan(out, ""), ran


def test_the_plan_makes_the_student_that_was_trained(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    plan, ran = search(artifacts, tmp_path)
    options = plan.options
    assert set(options) == {"distill", "prune"}
    assert options["distill"]["epochs"] == 0
    assert options["prune"]["learning_rate"] == 3e-3
    chosen = [
        stage
        for stage in ran
        if isinstance(stage, Prune)
        and list(stage.layer_heads) == options["prune"]["layer_heads"]
        and list(stage.layer_ffn) == options["prune"]["layer_ffn"]
        and stage.epochs == options["prune"]["epochs"]
    ]
    assert chosen, "the build finds what the search trained"
    points = plan.facts["points"]
    assert 1 <= len(points) <= QUICK["trainings"]
    assert [point["work"] for point in points] == sorted((point["work"] for point in points), reverse=True)
    assert plan.facts["structure"] in [point["structure"] for point in points]
    json.dumps(plan.facts)


def test_short_trainings_are_short_whatever_the_recipe_says(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    _, ran = search(artifacts, tmp_path, trainings=1)
    short = [stage for stage in ran if isinstance(stage, Prune) and stage.epochs == QUICK["probe_epochs"]]
    assert short
    assert all(stage.learning_rate == 3e-3 for stage in short)


def test_where_none_passes_the_nearest_is_taken(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.stages.search.shortfall", lambda teacher, student: 50.0 + float(student[0, 0]))
    plan, _ = search(artifacts, tmp_path)
    points = plan.facts["points"]
    assert plan.facts["shortfall"] == pytest.approx(min(point["shortfall"] for point in points), abs=1e-3)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"probe_epochs": 0}, {"trainings": 0}, {"min_steps": -1}, {"max_steps": -1}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Search(**options)
