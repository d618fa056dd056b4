"""What a search trains whole on its way over the rungs, and what a short training spares it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builds import write_target
from searches import narrow_target, search

from edgekit.artifact import TeacherOutline
from edgekit.search.estimate import Estimate
from edgekit.search.structure import Outline, Structure, ladder
from edgekit.stages._trainer import FARTHER, LEAST_LEFT, LEAST_TOLD, Trained, Trainer, usual_work
from edgekit.stages.outline import read_outline
from edgekit.stages.prune import Prune
from edgekit.stages.search import Search
from edgekit.target import load_target


@dataclasses.dataclass
class Untrained:
    """Stands in for trainings: how far a structure is from the teacher goes by its work alone, and none passes.

    A target of tests allows thirty points.
    """

    nearest: float
    behind: Estimate = dataclasses.field(default_factory=lambda: Estimate(90.0, 0.5, 0.1))
    whole: list[float] = dataclasses.field(default_factory=list)

    def apart(self, trainer: Trainer, structure: Structure) -> float:
        """Returns how far a structure is from the teacher."""
        return float(abs(np.log(trainer._outline.work(structure) / self.nearest)))

    def take_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replaces both kinds of training."""

        def whole(trainer: Trainer, structure: Structure) -> Trained:
            work = float(trainer._outline.work(structure))
            self.whole.append(work)
            options = trainer._options(structure, 1, trainer.rate)
            return Trained(structure, 1, options, self.behind, self.apart(trainer, structure), 50.0)

        def probed(trainer: Trainer, structure: Structure, rate: float) -> float:
            trainer.probes[structure, rate] = np.zeros((3, 2)), LEAST_TOLD
            return self.apart(trainer, structure)

        monkeypatch.setattr(Trainer, "whole", whole)
        monkeypatch.setattr(Trainer, "_probed", probed)


def rungs_of(artifacts: dict[Any, Any]) -> list[float]:
    """Returns the work of each rung of the tiny teacher's ladder, the dearest first."""
    outline = read_outline(artifacts[TeacherOutline].file)
    return [float(outline.work(rung[-1])) for rung in ladder(outline, 1, 8)]


def test_where_none_passes_what_lies_beside_the_nearest_is_trained_too(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = rungs_of(artifacts)
    monkeypatch.setattr("edgekit.stages.search.START", works[-1] / works[0])
    for place in range(1, len(works) - 1):
        untrained = Untrained(nearest=works[place])
        untrained.take_over(monkeypatch)
        plan, _ = search(artifacts, tmp_path / str(place), narrow_target(tmp_path), trainings=20)
        looked = [int(np.argmin(np.abs(np.array(works) - work))) for work in untrained.whole]
        best = min(looked, key=lambda at: abs(np.log(works[at] / works[place])))
        cheaper = min((at for at in looked if at > best), default=best)
        assert len(looked) > 1
        assert cheaper - best <= 1, "nothing is left between the nearest and the next cheaper one"
        chosen = min(plan.facts["points"], key=lambda one: abs(one["work"] - works[best]))
        assert plan.facts["structure"] == chosen["structure"]


@pytest.mark.parametrize(("errors", "stride"), [(0.5, 1), (0.1, 2)])
def test_from_one_that_all_but_passes_the_way_goes_a_single_rung(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: float, stride: int
) -> None:
    works, first = rungs_of(artifacts), 3
    monkeypatch.setattr("edgekit.stages.search.START", works[first] / works[0])
    monkeypatch.setattr("edgekit.stages.search.least_drop", lambda rows, margin: 0.0)
    target = narrow_target(tmp_path)
    limit, error = load_target(target).gate.max_drop, 0.5
    untrained = Untrained(nearest=works[0], behind=Estimate(limit - errors * error, error, 0.0))
    untrained.take_over(monkeypatch)
    search(artifacts, tmp_path, target, trainings=2)
    looked = [int(np.argmin(np.abs(np.log(np.array(works) / work)))) for work in untrained.whole]
    assert looked == [first, first - stride]


def test_a_dearer_structure_that_a_short_training_shows_to_be_farther_is_not_trained_whole(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = rungs_of(artifacts)
    monkeypatch.setattr("edgekit.stages.search.START", works[2] / works[0])
    untrained = Untrained(nearest=works[2])
    untrained.take_over(monkeypatch)
    search(artifacts, tmp_path, narrow_target(tmp_path), trainings=20)
    assert len(works) > 3, "there are cheaper ones"
    assert max(untrained.whole) == pytest.approx(works[2], rel=0.3)


def test_a_structure_that_is_lost_after_a_short_training_is_not_trained_whole(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = rungs_of(artifacts)
    monkeypatch.setattr("edgekit.stages.search.START", works[-1] / works[0])
    untrained = Untrained(nearest=works[0])
    untrained.take_over(monkeypatch)
    monkeypatch.setattr(Trainer, "lost", lambda trainer, structure, limit: True)
    plan, _ = search(artifacts, tmp_path / "all", narrow_target(tmp_path), trainings=2)
    assert untrained.whole == pytest.approx([works[0]], rel=0.3), "the dearest, though it was not come to"
    assert len(plan.facts["points"]) == 1


@pytest.mark.parametrize(
    ("drop", "steps", "lost"),
    [
        (1.0 / LEAST_LEFT + 0.4, LEAST_TOLD, False),
        (1.0 / LEAST_LEFT + 0.6, LEAST_TOLD, True),
        (1.0 / LEAST_LEFT + 0.6, LEAST_TOLD - 1, False),
    ],
)
def test_it_is_lost_where_a_share_of_its_drop_is_surely_beyond_the_limit(drop: float, steps: int, lost: bool) -> None:
    structure, other = (Structure((0,), (heads,), (8,)) for heads in (1, 2))
    rates = 1e-3, 3e-4
    trainer = SimpleNamespace(
        rate=rates[0],
        # At the other rate, which was not taken, it may have been as far behind as it likes.
        probes={
            (structure, rates[0]): (np.full((3, 2), drop), steps),
            (structure, rates[1]): (np.full((3, 2), 99.0), steps),
        },
        _behind=lambda logits: Estimate(float(logits[0, 0]), 0.5, 0.1),
    )
    assert Trainer.lost(trainer, structure, 1.0) is lost  # type: ignore[arg-type]
    assert not Trainer.lost(trainer, other, 1.0), "nothing is known of it"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("apart", "steps", "farther"),
    [(FARTHER - 0.01, LEAST_TOLD, False), (FARTHER + 0.01, LEAST_TOLD, True), (FARTHER + 0.01, LEAST_TOLD - 1, False)],
)
def test_a_dearer_one_is_farther_where_short_trainings_say_so_clearly(apart: float, steps: int, farther: bool) -> None:
    dearer, cheaper = (Structure((0,), (heads,), (8,)) for heads in (2, 1))
    trainer = SimpleNamespace(
        rate=1e-3,
        probes={(dearer, 1e-3): (None, steps), (cheaper, 1e-3): (None, LEAST_TOLD)},
        _probed=lambda structure, rate: apart if structure is dearer else 1.0,
    )
    assert Trainer._farther(trainer, dearer, cheaper) is farther  # type: ignore[arg-type]


def test_trainings_end_with_the_time_that_they_may_take(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    none = str(write_target(tmp_path / "none.toml", ("max_drop = 30.0", "max_drop = 0.0")))
    plan, ran = search(artifacts, tmp_path / "free", none)
    trained = sum(isinstance(stage, Prune) for stage in ran)
    assert len(plan.facts["points"]) > 1
    few, ran = search(artifacts, tmp_path / "bounded", none, effort=1e-9)
    assert len(few.facts["points"]) == 1, "the first is trained whatever the short ones took"
    assert sum(isinstance(stage, Prune) for stage in ran) < trained


def outline(layers: int, hidden: int, ffn: int, tokens: int) -> Outline:
    """Returns the outline of a teacher of a shape; nothing is known of what its parts are worth."""
    head_dim = 64 if hidden > 384 else 32
    loss = ((0.0,) * (hidden // head_dim + 1),) * layers, ((0.0,) * (ffn + 1),) * layers
    return Outline(hidden, hidden, head_dim, 77, tokens, *loss, depths={})


def trainer_of(outline: Outline, **options: Any) -> Trainer:
    """Returns what plans the trainings of students of such a teacher."""
    trainer = Trainer.__new__(Trainer)
    trainer._stage, trainer._outline, trainer._middle = Search(**options), outline, usual_work(outline)
    return trainer


@pytest.mark.parametrize("tokens", [4, 14, 24, 100])
@pytest.mark.parametrize("size", [(6, 384, 1536), (12, 384, 1536), (12, 768, 3072), (24, 1024, 4096)])
def test_no_training_takes_longer_than_its_part_of_all_the_time(tokens: int, size: tuple[int, int, int]) -> None:
    trainer = trainer_of(outline(*size, tokens))
    layers = range(size[0])
    for kept in (layers[:1], layers[: size[0] // 2], layers):
        structure = trainer._outline.whole(kept)
        steps = trainer._options(structure, 20, 1e-3)["prune"]["max_steps"]
        assert trainer._time(structure, steps - 1) <= Search.effort / 3
        short = trainer._options(structure, 3, 1e-3, short=True)["prune"]["max_steps"]
        assert short == pytest.approx(3 / 20 * steps, abs=1)


def test_dearer_students_take_fewer_steps_by_the_root_of_their_work_until_that_is_too_long() -> None:
    trainer = trainer_of(outline(6, 384, 1536, 10))
    for depth, heads, ffn in ((1, 4, 256), (2, 6, 256), (3, 8, 512), (4, 8, 1024), (6, 12, 1536)):
        structure = Structure(tuple(range(depth)), (heads,) * depth, (ffn,) * depth)
        times = max(1.0, trainer._outline.work(structure) / usual_work(trainer._outline))
        share = min(times**-0.5, Search.effort / 3 / times)
        found = trainer._options(structure, 20, 1e-3)["prune"]["max_steps"]
        assert found == pytest.approx(Search.max_steps * share, rel=0.12)
    half = trainer_of(outline(6, 384, 1536, 20))._options(structure, 20, 1e-3)["prune"]["max_steps"]
    assert half == pytest.approx(found / 2, rel=0.1), "of texts twice as long"


@pytest.mark.parametrize("rate", [1e-3, 3e-4])
def test_deep_students_get_lower_rates_and_in_whole_trainings_lower_ones_still(rate: float) -> None:
    trainer = trainer_of(outline(6, 384, 1536, 10))
    trainer._texts, trainer.rate = 1_000_000, rate  # so many that `max_steps` is what bounds both
    for depth, deeper in ((1, 1), (2, 1), (3, 1.5**0.5), (4, 2**0.5), (6, 3**0.5)):
        structure = Structure(tuple(range(depth)), (4,) * depth, (256,) * depth)
        short, whole = (
            one["prune"] for one in (trainer._short_options(structure, rate), trainer._whole_options(structure))
        )
        assert short["learning_rate"] == pytest.approx(rate / deeper)
        assert whole["learning_rate"] == pytest.approx(rate / deeper * (3 / 20) ** 0.5, rel=0.01)
    trainer._texts = 320  # ten batches: 3 passes in a short training and 20 in a whole one, but no steps are asked for
    trainer._stage = Search(max_steps=0, min_steps=0)
    few = Structure((0,), (1,), (32,))
    whole = trainer._whole_options(few)["prune"]
    assert whole["learning_rate"] == pytest.approx(rate * (3 / whole["epochs"]) ** 0.5)
