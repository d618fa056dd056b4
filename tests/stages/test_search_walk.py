"""What a search trains whole on its way over the rungs, and what a short training spares it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from searches import narrow_target, search

from edgekit.artifact import TeacherOutline
from edgekit.search.estimate import Estimate
from edgekit.search.structure import Structure, ladder
from edgekit.stages._trainer import LEAST_LEFT, Trained, Trainer
from edgekit.stages.outline import read_outline


@dataclasses.dataclass
class Untrained:
    """Stands in for trainings: how far a structure is from the teacher goes by its work alone, and none passes."""

    nearest: float
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
            behind = Estimate(9.0, 0.5, 0.1)
            return Trained(structure, 1, options, behind, self.apart(trainer, structure), 50.0)

        monkeypatch.setattr(Trainer, "whole", whole)
        monkeypatch.setattr(Trainer, "_probed", lambda trainer, structure, rate: self.apart(trainer, structure))


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
        assert cheaper - best <= 1, "nothing is left between the nearest and the next cheaper one"
        chosen = min(plan.facts["points"], key=lambda one: abs(one["work"] - works[best]))
        assert plan.facts["structure"] == chosen["structure"]


def test_a_dearer_structure_that_a_short_training_shows_to_be_no_nearer_is_not_trained_whole(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = rungs_of(artifacts)
    monkeypatch.setattr("edgekit.stages.search.START", works[3] / works[0])
    untrained = Untrained(nearest=works[3])
    untrained.take_over(monkeypatch)
    search(artifacts, tmp_path, narrow_target(tmp_path), trainings=20)
    assert len(untrained.whole) == 1
    assert untrained.whole[0] == pytest.approx(works[3], rel=0.3)


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


@pytest.mark.parametrize(("drop", "lost"), [(1.0 / LEAST_LEFT - 0.1, False), (1.0 / LEAST_LEFT + 0.1, True)])
def test_it_is_lost_where_a_share_of_its_drop_is_beyond_the_limit(drop: float, lost: bool) -> None:
    structure, other = (Structure((0,), (heads,), (8,)) for heads in (1, 2))
    rates = 1e-3, 3e-4
    trainer = SimpleNamespace(
        rate=rates[0],
        # At the other rate, which was not taken, it may have been as far behind as it likes.
        probes={(structure, rates[0]): np.full((3, 2), drop), (structure, rates[1]): np.full((3, 2), 99.0)},
        _behind=lambda logits: Estimate(float(logits[0, 0]), 0.1, 0.1),
    )
    assert Trainer.lost(trainer, structure, 1.0) is lost  # type: ignore[arg-type]
    assert not Trainer.lost(trainer, other, 1.0), "nothing is known of it"  # type: ignore[arg-type]
