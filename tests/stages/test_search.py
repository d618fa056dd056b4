"""The search: which places it looks at, what it trains, and that it takes the cheapest that passes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import write_target
from searches import QUICK, narrow_target, search

from edgekit import data
from edgekit.artifact import LabelledData
from edgekit.search.estimate import Estimate
from edgekit.search.findings import knows_dev
from edgekit.search.limits import ROOM
from edgekit.search.request import wanted
from edgekit.search.structure import Structure
from edgekit.stages._trainer import SHALLOW, Trained, Trainer
from edgekit.stages.distill import Distill
from edgekit.stages.prune import Prune
from edgekit.stages.refine import Refine
from edgekit.stages.score import Score
from edgekit.stages.search import Search, about_as_near


@pytest.mark.parametrize(
    ("options", "searched"),
    [
        ({}, True),
        ({"search": {"enabled": True}}, True),
        ({"search": {"enabled": "true"}, "prune": {"learning_rate": 1e-3}}, True),
        ({"search": {"enabled": True}, "distill": {"layers": "2"}}, False),
        ({"search": {"enabled": True}, "distill": {"keep": "0,1"}}, False),
        ({"search": {"enabled": True}, "prune": {"heads": 0.5}}, False),
        ({"search": {"enabled": True}, "prune": {"layer_heads": "2", "layer_ffn": "32"}}, False),
        ({"search": {"enabled": "false"}}, False),
        ({"search": {"enabled": False}}, False),
    ],
)
def test_a_structure_that_is_given_is_not_searched(options: dict[str, dict[str, Any]], searched: bool) -> None:
    assert wanted(options) is searched


def test_the_plan_makes_the_student_that_was_trained(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    plan, ran = search(artifacts, tmp_path)
    options = plan.options
    assert set(options) == {"distill", "prune"}
    assert options["distill"]["epochs"] == 0
    assert options["prune"]["learning_rate"] == 3e-3
    assert options["prune"]["optimizer"] == "muon"
    chosen = [
        stage
        for stage in ran
        if isinstance(stage, Prune)
        and list(stage.layer_heads) == options["prune"]["layer_heads"]
        and list(stage.layer_ffn) == options["prune"]["layer_ffn"]
        and stage.epochs == options["prune"]["epochs"]
        and stage.optimizer == "muon"
    ]
    assert chosen, "the build finds what the search trained"
    points = plan.facts["points"]
    assert 1 <= len(points) <= QUICK["trainings"]
    assert [point["work"] for point in points] == sorted((point["work"] for point in points), reverse=True)
    assert plan.facts["structure"] in [point["structure"] for point in points]
    json.dumps(plan.facts)


def test_short_trainings_are_short_whatever_the_recipe_says(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.search.structure.NODES", 1)  # or each rung has one depth
    target = narrow_target(tmp_path)
    _, ran = search(artifacts, tmp_path, target, trainings=1, sweep=True, min_steps=60, max_steps=90)
    trainings = [stage for stage in ran if isinstance(stage, Prune)]
    short = [stage for stage in trainings if stage.epochs == QUICK["probe_epochs"]]
    assert 0 < len(short) < len(trainings)
    assert all(stage.learning_rate == 3e-3 for stage in short)
    assert max(stage.max_steps for stage in short) <= 90 / QUICK["epochs"]
    assert max(stage.min_steps for stage in short) <= 60 / QUICK["epochs"]


@pytest.mark.parametrize("better", [3e-3, 1e-3])
def test_all_are_trained_at_the_rate_that_a_short_training_shows_to_be_better(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: float
) -> None:
    ran: list[float] = []

    def short(
        self: Trainer, structure: Structure, options: Mapping[str, Mapping[str, Any]]
    ) -> tuple[np.ndarray, Mapping[str, Any]]:
        prune = options["prune"]
        assert len(options["distill"]["keep"]) <= SHALLOW
        ran.append(prune["learning_rate"])
        near = self.teacher if len(ran) > 2 or ran[-1] == pytest.approx(better) else np.zeros_like(self.teacher)
        return near, {"dev": 50.0, "steps": 7}

    monkeypatch.setattr(Trainer, "_trained", short)
    plan, _ = search(
        artifacts, tmp_path, given_options={"prune": {"min_steps": 0}}, learning_rates=(3e-3, 1e-3), trainings=2
    )
    assert plan.facts["short_learning_rate"] == better
    assert ran[:2] == pytest.approx([3e-3, 1e-3])
    whole = [one["options"]["prune"]["learning_rate"] for one in plan.facts["points"]]
    assert all(rate < better for rate in whole), "whole trainings have more steps"
    assert all(any(rate == pytest.approx(one) for one in (better, *whole)) for rate in ran[2:])
    assert len(ran) > 2
    assert "after 7 steps" in plan.facts["tried"][0]


def test_the_rate_does_not_depend_on_the_limits(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("search", "_trainer"):
        monkeypatch.setattr(f"edgekit.stages.{module}.START", 1.0)
    options: dict[str, Any] = {"given_options": {"prune": {"min_steps": 0}}, "trainings": 1}
    free, ran = search(artifacts, tmp_path / "free", **options)
    least = min(point["foretold"]["instructions"] for point in free.facts["points"])
    tight, others = search(
        artifacts, tmp_path / "tight", limited(tmp_path, "instructions", int(0.9 * least)), **options
    )
    assert tight.facts["structure"] != free.facts["structure"]
    first, second = (
        [(one.layer_heads, one.layer_ffn, one.learning_rate) for one in stages if isinstance(one, Prune)][:2]
        for stages in (ran, others)
    )
    assert first == second


def test_a_rate_that_the_recipe_gives_is_not_tried_against_others(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    plan, ran = search(artifacts, tmp_path / "two", trainings=1, learning_rates=(1e-3, 1e-4))
    one, other = search(artifacts, tmp_path / "one", trainings=1, learning_rates=(1e-3,))
    assert plan.facts["short_learning_rate"] == one.facts["short_learning_rate"] == 3e-3
    assert plan.facts["short_trainings"] == one.facts["short_trainings"]
    assert len(ran) == len(other)


@pytest.mark.parametrize("rates", [(), (1e-3, 0.0), (1e-4, 1e-3)])
def test_rates_are_positive_and_at_least_one(rates: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="learning_rates must be"):
        Search(learning_rates=rates)


def test_of_those_that_pass_the_cheapest_is_taken(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.stages._trainer.estimate", lambda *_: Estimate(1.0, 0.1, 0.0))
    monkeypatch.setattr("edgekit.stages.search.START", 1.0)
    plan, _ = search(artifacts, tmp_path)
    points = plan.facts["points"]
    assert len(points) > 1
    assert plan.facts["structure"] == min(points, key=lambda point: point["work"])["structure"]


def test_what_is_chosen_does_not_depend_on_a_sweep(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.stages._trainer.estimate", lambda *_: Estimate(1.0, 0.1, 0.0))
    plain, _ = search(artifacts, tmp_path / "plain", trainings=1)
    swept, _ = search(artifacts, tmp_path / "swept", trainings=1, sweep=True)
    assert len(swept.facts["points"]) > len(plain.facts["points"])
    assert plain.options == swept.options


@pytest.mark.parametrize(
    ("scheme", "families"),
    [("auto", ()), ("static", ("static",)), ("dynamic-int8", ("dynamic",)), ("weight-only-int4", ()), (None, ())],
)
def test_costs_are_those_of_the_form_that_the_recipe_names(scheme: str | None, families: tuple[str, ...]) -> None:
    assert Search().knowing({"quantize": {"scheme": scheme}} if scheme else {}).families == families


def leave_behind(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    """Has every student fall behind by fifty points, with an error of one, and by its first logit times `spread`."""

    def behind(teacher: Any, student: Any, expected: Any, known: bool) -> Estimate:
        return Estimate(apart(teacher, student), 1.0, 0.1)

    def apart(teacher: Any, student: Any) -> float:
        return 50.0 + spread * abs(float(student[0, 0]))

    monkeypatch.setattr("edgekit.stages._trainer.estimate", behind)
    monkeypatch.setattr("edgekit.stages._trainer.divergence", apart)


@pytest.mark.parametrize(
    ("divergences", "kept"),
    [
        ((0.0631, 0.0672, 0.0711), (0.0631, 0.0672)),  # half of the error, 0.1, is a tenth of the nearest one's drop
        ((0.0631, 0.0711), (0.0631,)),
        ((0.2, 0.1), (0.1,)),
    ],
)
def test_of_those_that_fail_the_ones_about_as_near_are_told_by_divergence(
    divergences: tuple[float, ...], kept: tuple[float, ...]
) -> None:
    structure = Structure((0,), (1,), (1,))
    drops = np.linspace(0.97, 3.0, len(divergences))  # the drops of the others, mostly chance, do not count
    order = np.argsort(np.argsort(divergences))
    trained = [
        Trained(structure, 1, {}, Estimate(float(drops[place]), 0.2, 0.1), divergence, 90.0)
        for place, divergence in zip(order, divergences, strict=True)
    ]
    assert sorted(one.divergence for one in about_as_near(trained, allowed=4.0)) == sorted(kept)


@pytest.mark.parametrize(
    ("near", "other", "kept"),
    [
        (Estimate(0.8, 0.4, 0.1), Estimate(1.7, 0.4, 0.1), True),
        (Estimate(0.8, 0.4, 0.1), Estimate(1.9, 0.4, 0.1), False),  # two errors off, it is still not allowed
        (Estimate(1.2, 0.4, 0.1), Estimate(1.9, 0.4, 0.1), True),  # neither is
        (Estimate(-0.2, 0.4, 0.1), Estimate(0.9, 0.4, 0.1), True),
    ],
)
def test_one_that_is_about_as_near_is_not_known_to_be_beyond_the_limit(
    near: Estimate, other: Estimate, kept: bool
) -> None:
    structure = Structure((0,), (1,), (1,))
    trained = [Trained(structure, 1, {}, near, 0.06, 90.0), Trained(structure, 1, {}, other, 0.068, 90.0)]
    assert len(about_as_near(trained, allowed=1.0)) == 1 + kept


def test_where_none_passes_the_nearest_is_taken(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(monkeypatch, spread=1000.0)
    plan, _ = search(artifacts, tmp_path)
    assert [one["check"] for one in plan.facts["findings"]] == ["no-structure-within-drop"]
    points = plan.facts["points"]
    assert plan.facts["drop"] == pytest.approx(min(point["drop"] for point in points), abs=1e-3)


def test_where_none_passes_a_dearer_one_must_be_nearer_by_more_than_chance(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(monkeypatch, spread=1e-6)
    plan, _ = search(artifacts, tmp_path, narrow_target(tmp_path))
    points = plan.facts["points"]
    assert len(points) > 1
    least = min(point["foretold"]["instructions"] for point in points)
    assert plan.facts["foretold"]["instructions"] == least


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"probe_epochs": 0},
        {"trainings": 0},
        {"effort": 0.0},
        {"min_steps": -1},
        {"max_steps": -1},
        {"margin": -1.0},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Search(**options)


def limited(folder: Path, key: str, value: float) -> str:
    """Writes a profile with a limit of the device."""
    return str(write_target(folder / "limited.toml", ("[budget]\n", f"[budget]\n{key} = {value}\n")))


def test_a_limit_is_kept_to_by_what_the_table_foretells(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    free, _ = search(artifacts, tmp_path / "free", trainings=1, sweep=True)
    costs = [point["foretold"]["instructions"] for point in free.facts["points"]]
    bound = int((min(costs) + max(costs)) / 2)
    assert max(costs) > bound > min(costs) / ROOM, "the limit leaves some and takes some"
    plan, _ = search(artifacts, tmp_path / "bound", limited(tmp_path, "instructions", bound), sweep=True)
    assert all(point["foretold"]["instructions"] <= bound for point in plan.facts["points"])
    assert "limits-out-of-reach" not in [one["check"] for one in plan.facts["findings"]]


def test_shapes_at_the_edge_of_a_limit_are_measured(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    free, ran = search(artifacts, tmp_path / "free", trainings=1, sweep=True)
    assert not any(isinstance(stage, Refine) for stage in ran), "nothing limits the cost"
    costs = {point["structure"]: point["foretold"]["instructions"] for point in free.facts["points"]}
    bound = int(max(costs.values()) / ROOM) - 1
    limit = limited(tmp_path, "instructions", bound)
    found, stages = search(artifacts, tmp_path / "as-told", limit, sweep=True)
    (refine,) = (stage for stage in stages if isinstance(stage, Refine))
    dearest = max((point for point in found.facts["points"]), key=lambda point: point["work"])
    widths = [(list(shape.heads), list(shape.ffn)) for shape in refine.shapes]
    given = dearest["options"]["prune"]
    assert (given["layer_heads"], given["layer_ffn"]) in widths, "the dearest that the limit allows"
    assert set(refine.families) == {"static", "dynamic"}
    assert refine.lengths == tuple(sorted(set(refine.lengths)))
    assert "limits-out-of-reach" not in [one["check"] for one in found.facts["findings"]]
    for factor, reached in ((1.5, True), (2 * max(costs.values()) / min(costs.values()), False)):
        dearer, _ = search(artifacts, tmp_path / f"{reached}", limit, factor=factor, sweep=True)
        for point in dearer.facts["points"]:
            told = point["foretold"]["instructions"]
            assert told == pytest.approx(factor * costs[point["structure"]])
            assert told <= ROOM * bound or not reached
        assert ("limits-out-of-reach" in [one["check"] for one in dearer.facts["findings"]]) is not reached
    assert len(dearer.facts["points"]) == 1, "the cheapest alone, of the rungs that were left by the table before"


def test_limits_that_nothing_meets_are_told_with_the_nearest(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    plan, _ = search(artifacts, tmp_path / "bound", limited(tmp_path, "instructions", 1000))
    (found,) = (one for one in plan.facts["findings"] if one["check"] == "limits-out-of-reach")
    assert "instructions" in found["detail"]
    assert "against 1,000" in found["detail"]
    assert len(plan.facts["points"]) == 1


def test_a_sweep_trains_every_rung_that_is_left(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    plain, _ = search(artifacts, tmp_path / "plain", trainings=1)
    swept, _ = search(artifacts, tmp_path / "swept", trainings=1, sweep=True)
    assert len(swept.facts["points"]) > len(plain.facts["points"])
    works = [point["work"] for point in swept.facts["points"]]
    assert works == sorted(works, reverse=True)
    assert all({"distill", "prune"} == set(point["options"]) for point in swept.facts["points"])
    assert len({point["structure"] for point in swept.facts["points"]}) == len(works)


def test_a_teacher_that_knows_dev_is_told_and_students_are_held_against_a_large_one(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.stages.search.knows_dev", lambda facts, rows: True)
    plain, _ = search(artifacts, tmp_path / "plain", trainings=1, epochs=12)
    assert "dev-known" not in [one["check"] for one in plain.facts["findings"]], "dev came with the data"
    dataset = data.read(artifacts[LabelledData].path)
    facts = {**dataset.facts, "dev_source": data.DRAWN}
    (tmp_path / "held-out").mkdir()
    data.write(dataclasses.replace(dataset, facts=facts), tmp_path / "held-out")
    artifacts = {**artifacts, LabelledData: LabelledData(tmp_path / "held-out", "")}
    plan, ran = search(artifacts, tmp_path / "known", trainings=1, epochs=12)
    assert "dev-known" in [one["check"] for one in plan.facts["findings"]]
    whole = [stage for stage in ran if isinstance(stage, Prune) and stage.epochs > QUICK["probe_epochs"]]
    assert len(whole) == 2, "the large one and the first of the search"


@pytest.mark.parametrize(
    ("train", "dev", "rows", "known"),
    [(97.9, 97.9, 1000, True), (97.9, 93.0, 1000, False), (99.9, 98.9, 547, False), (95.0, 84.8, 1045, False)],
)
def test_a_teacher_knows_dev_where_it_answers_it_as_train(train: float, dev: float, rows: int, known: bool) -> None:
    assert knows_dev({"accuracy_train": train, "accuracy_dev": dev}, rows) is known


def test_what_is_conducted_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Search().knowing({})
    for stage in (Prune, Score, Distill, Refine):
        with monkeypatch.context() as patch:
            patch.setattr(stage, "VERSION", 99)
            assert Search().knowing({}) != before
    assert Search().knowing({"profile": {"rounds": "20"}}).rounds == 20
    assert Search().knowing({"evaluate": {"examples": "50"}}) != before
