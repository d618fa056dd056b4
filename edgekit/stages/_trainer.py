"""Has students of a structure trained, short and whole, and says how far each falls behind the teacher.

How long that takes is foretold in multiply-adds, not measured: the same is then trained on every machine, and the next
target finds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgekit import data
from edgekit.artifact import Artifact, LabelledData, Scores, Teacher, TeacherOutputs, Vocabulary, WideStudent
from edgekit.checkpoint import read_labels
from edgekit.recipe import make_stage
from edgekit.search.bisection import beside, bisection, depths_to_try, nearest, valley
from edgekit.search.estimate import Estimate, divergence, estimate
from edgekit.search.structure import NODES, Outline, Structure, ladder
from edgekit.stage import Context, Inputs
from edgekit.stages.distill import Distill, schedule_of
from edgekit.stages.prune import DEV_LOGITS, Prune
from edgekit.stages.quantize import Quantize
from edgekit.stages.score import Score
from edgekit.stages.teach import USUAL_WEIGHTS
from edgekit.tasks import load_task

START = 0.13
"""Share of the teacher's work on whose rung the search begins: three narrow layers of MiniLM's six."""

USUAL_SHARE = 0.1
"""Share of the teacher's work that the usual student takes, by which steps and efforts are told."""

USUAL = USUAL_WEIGHTS + 6 * 384 * NODES
"""Work a token of a teacher of six layers 384 wide, for which the numbers of steps were found."""

REFERENCE = 0.3
"""Share of the work of the student that others are compared with where dev tells nothing of the teacher."""

SHALLOW = 2
"""Layers of a student up to which a learning rate is taken as it is; deeper ones get less by the root (docs/log.md)."""

SHORT = 10
"""Tokens of a text up to which a student may take all steps; of longer ones fewer, so that they take no longer."""

LONGEST = 1 / 3
"""Of the time that all trainings may take, what one takes at most."""

LEAST_LEFT = 0.3
"""Share of a short training's drop that a whole one leaves at least: 0.31 to 0.79 were seen (docs/log.md)."""

FARTHER = 1.1
"""Times as far from the teacher as a cheaper student that a dearer one is after a short training, from which it is not
trained whole. A little farther says nothing: its short training has fewer steps. What whole trainings leave of a short
one's divergence is much the same for all (docs/log.md)."""

LEAST_TOLD = 100
"""Steps of a short training from which on it says how a whole one will end."""

MOST_STEPS = 8000
"""Steps of the usual student's whole training, where the recipe sets no other bound."""

LENGTH = ("epochs", "min_steps", "max_steps")
"""Options that say how long a whole training takes; a short one has its own."""


class Training(Protocol):
    """The options by which students are trained, as `Search` has them."""

    @property
    def epochs(self) -> int: ...
    @property
    def probe_epochs(self) -> int: ...
    @property
    def trainings(self) -> int: ...
    @property
    def effort(self) -> float: ...
    @property
    def min_steps(self) -> int: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def learning_rates(self) -> tuple[float, ...]: ...
    @property
    def embedding_rate(self) -> float: ...
    @property
    def given(self) -> Mapping[str, Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Trained:
    """A structure that was trained whole.

    Attributes:
        structure: what was trained.
        steps: that it was trained for.
        options: of the stages that make the student.
        behind: the drop that is to be expected, against the teacher or the student in its place.
        divergence: of its answers on dev from the teacher's, in nats.
        score: the task's metric on dev, in percent.
    """

    structure: Structure
    steps: int
    options: Mapping[str, Mapping[str, Any]]
    behind: Estimate
    divergence: float
    score: float


def usual_work(outline: Outline) -> float:
    """Returns the work up to which a student is trained for as many steps as there are; dearer ones take fewer."""
    work = outline.work(outline.whole(range(len(outline.head_loss))))
    return float(USUAL_SHARE * min(work, (USUAL * outline.tokens * work) ** 0.5))


class Trainer:
    """Has structures trained, short and whole, each once.

    Attributes:
        teacher: the teacher's logits on dev.
        rate: learning rate of short trainings of students of up to `SHALLOW` layers; deeper ones and whole trainings
            get less.
        probes: each structure's logits on dev after a short training, and its steps, by structure and rate.
        spent: time of all trainings, in whole ones of the usual student, on texts of `SHORT` tokens.
    """

    def __init__(self, stage: Training, inputs: Inputs, ctx: Context, outline: Outline, dataset: data.Dataset) -> None:
        self._stage, self._inputs, self._ctx, self._outline = stage, inputs, ctx, outline
        outputs = inputs[TeacherOutputs]
        self.teacher = self._against = np.load(outputs.array("dev", "logits"))
        classes = load_task(ctx.task).align(read_labels(inputs[Teacher].path), dataset.labels)
        self._expected = np.array([classes[label] for _, label in dataset.dev])
        self._middle = usual_work(outline)
        self._depths: dict[int, int] = {}  # of the structure that was best on each rung
        self._texts = len(outputs.rows) + len(outputs.unlabelled)
        self.rate: float = stage.learning_rates[0]
        self.probes: dict[tuple[Structure, float], tuple[np.ndarray, int]] = {}
        self.spent = 0.0

    def settle_rate(self, head_multiple: int, ffn_multiple: int) -> None:
        """Takes the rate by which a shallow structure comes nearest the teacher in a short training, whatever limits.

        What is right for many classes, where a teacher's answer says much, has students learn by heart what little two
        say. Whole trainings get less by the root of how many more steps they have (docs/log.md).
        """
        rates = self._stage.learning_rates
        if (given := self._stage.given.get("prune", {}).get("learning_rate")) is not None:
            self.rate = float(given)
        elif len(rates) > 1:
            rung = self._rung(START, head_multiple, ffn_multiple)
            shallow = min(rung, key=lambda one: abs(len(one.layers) - SHALLOW))
            self.rate = min(rates, key=lambda rate: self._probed(shallow, rate))

    def best(self, rungs: Sequence[Sequence[Structure]], place: int) -> Structure:
        """Returns the structure of a rung that short trainings bring nearest the teacher."""
        depths = depths_to_try(self._depths, place, [len(one.layers) for one in rungs[place]])
        near = [one for one in rungs[place] if len(one.layers) in depths]
        found = near[valley(len(near), lambda at: self._probed(near[at], self.rate))] if len(near) > 1 else near[0]
        self._depths[place] = len(found.layers)
        return found

    def nearest(self, structures: Sequence[Structure]) -> Structure:
        """Returns the one that a short training brings nearest the teacher."""
        return min(structures, key=lambda one: self._probed(one, self.rate)) if len(structures) > 1 else structures[0]

    def walk(
        self,
        rungs: Sequence[Sequence[Structure]],
        first: int,
        passes: Callable[[Trained], bool],
        close: Callable[[Trained], bool],
        limit: float,
    ) -> dict[int, Trained]:
        """Trains structures whole, from one rung towards the last that passes, as long as there is time.

        Args:
            rungs: structures of falling work.
            first: rung to begin on.
            passes: whether a structure is near enough to the teacher.
            close: whether one is all but near enough, so that the next dearer one probably is.
            limit: of the drop, in points.

        Returns:
            What was trained, by its rung, at least one.
        """
        whole: dict[int, Trained] = {}
        looked: list[int] = []

        def passed(place: int) -> bool:
            return place in whole and passes(whole[place])

        def nearer(dearer: int, cheaper: int) -> bool:
            if cheaper not in whole:  # it was lost
                return True
            return dearer in whole and whole[dearer].divergence < whole[cheaper].divergence

        def almost(place: int) -> bool:
            return place in whole and close(whole[place])

        for place in bisection(first, len(rungs), passed, nearer, almost):
            looked.append(place)
            structure = self.best(rungs, place)
            cheaper = None if any(map(passed, whole)) else min((at for at in whole if at > place), default=None)
            if cheaper is not None and self._farther(structure, whole[cheaper].structure):
                continue
            if cheaper is None and self.lost(structure, limit):
                continue
            if whole and not self._affords(structure, whole):
                break
            whole[place] = self.whole(structure)
        if not whole:  # all that was looked at is lost: the dearest is what is left
            looked.append(0)
            whole[0] = self.whole(self.best(rungs, 0))
        while (between := _between(whole, looked, passed)) is not None:
            structure = self.best(rungs, between)
            if not self._affords(structure, whole):
                break
            whole[between] = self.whole(structure)
        return whole

    def lost(self, structure: Structure, limit: float) -> bool:
        """Says whether a structure is so far behind after a short training, if it had one, that no whole one helps."""
        logits, steps = self.probes.get((structure, self.rate), (None, 0))
        if logits is None or steps < LEAST_TOLD:
            return False
        behind = self._behind(logits)
        return LEAST_LEFT * (behind.drop - behind.error) > limit

    def _farther(self, structure: Structure, cheaper: Structure) -> bool:
        """Says whether a structure is so much farther from the teacher than a cheaper one that it stays so."""
        away, near = self._probed(structure, self.rate), self._probed(cheaper, self.rate)
        steps = min(self.probes[one, self.rate][1] for one in (structure, cheaper))
        return steps >= LEAST_TOLD and away > FARTHER * near

    def _affords(self, structure: Structure, whole: Collection[int]) -> bool:
        """Says whether the stage allows to train one more structure whole."""
        time = self._time(structure, self._steps(self._whole_options(structure)))
        return len(whole) < self._stage.trainings and self.spent + time <= self._stage.effort

    def _probed(self, structure: Structure, rate: float) -> float:
        """Returns how far a structure's answers on dev are from the teacher's after a short training."""
        if (structure, rate) not in self.probes:
            logits, facts = self._trained(structure, self._short_options(structure, rate))
            self.probes[structure, rate] = logits, facts.get("steps", 0)
        return divergence(self.teacher, self.probes[structure, rate][0])

    def hold_against_a_large_one(self, head_multiple: int, ffn_multiple: int) -> Structure:
        """Puts a student in the teacher's place that is large enough to fall behind by little, whatever the limits."""
        rung = self._rung(REFERENCE, head_multiple, ffn_multiple)
        structure = rung[len(rung) // 2]
        self._against, _ = self._trained(structure, self._whole_options(structure))
        return structure

    def _rung(self, share: float, head_multiple: int, ffn_multiple: int) -> Sequence[Structure]:
        """Returns structures of each depth that take that share of the teacher's work, limits left aside."""
        every = ladder(self._outline, head_multiple, ffn_multiple)
        dearest = self._outline.work(every[0][-1])
        return every[nearest([self._outline.work(one[-1]) / dearest for one in every], share)]

    def whole(self, structure: Structure) -> Trained:
        """Trains a structure whole."""
        options = self._whole_options(structure)
        logits, facts = self._trained(structure, options)
        apart = divergence(self.teacher, logits)
        return Trained(structure, facts.get("steps", 0), options, self._behind(logits), apart, facts["dev"])

    def _behind(self, logits: np.ndarray) -> Estimate:
        """Estimates the drop of a student by its logits on dev, against the teacher or the student in its place."""
        known = self._against is not self.teacher
        return estimate(self._against, logits, self._expected, known)

    def _whole_options(self, structure: Structure) -> dict[str, dict[str, Any]]:
        """Returns the options of a whole training.

        Its rate is less than that of a short one, by the root of how many times as many steps it has: what brings a
        student farthest in few steps keeps it from coming near in many (docs/log.md).
        """
        epochs = self._epochs(structure)
        few = self._steps(self._short_options(structure, self.rate))
        many = max(1, self._steps(self._options(structure, epochs, self.rate)))  # 0 where the recipe wants no training
        return self._options(structure, epochs, self.rate * min(1.0, few / many) ** 0.5)

    def _short_options(self, structure: Structure, rate: float) -> dict[str, dict[str, Any]]:
        return self._options(structure, self._stage.probe_epochs, rate, short=True)

    def _epochs(self, structure: Structure) -> int:
        return max(2 * self._stage.probe_epochs, round(self._stage.epochs / self._dearer(structure)))

    def _dearer(self, structure: Structure) -> float:
        """Returns what the steps of a structure are divided by: the root of how many times the usual work it takes.

        Four times dearer then takes twice as long. To take no longer it would be trained a quarter as long, and be no
        nearer the teacher than a cheaper one (docs/log.md). Where that is more than its part of all the time
        (`LONGEST`), `_options` bounds it.
        """
        return max(1.0, math.sqrt(self._outline.work(structure) / self._middle))

    def _options(
        self, structure: Structure, epochs: int, rate: float, short: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Returns the options of the stages that make a student of that structure; the recipe's own go before."""
        stage = self._stage
        share = (stage.probe_epochs / stage.epochs if short else 1.0) / self._dearer(structure)
        most = stage.max_steps * share / max(1.0, self._outline.tokens / SHORT)
        if most:  # a bound there is
            whole = LONGEST * stage.effort / self._time(structure, 1)
            most = min(most, whole * (stage.probe_epochs / stage.epochs if short else 1.0))
        deeper = max(1.0, len(structure.layers) / SHALLOW)
        made: dict[str, dict[str, Any]] = {
            "distill": {"keep": list(structure.layers), "epochs": 0},
            "prune": {
                "layer_heads": list(structure.heads),
                "layer_ffn": list(structure.ffn),
                "word_rows": structure.word_rows,
                "word_rank": structure.word_rank,
                "epochs": epochs,
                "learning_rate": rate / deeper**0.5,
                "embedding_rate": stage.embedding_rate,
                "optimizer": "muon",
                "min_steps": round(stage.min_steps * share),
                "max_steps": math.ceil(most),
            },
        }
        if structure.word_form:
            made[Quantize.NAME] = {"embedding": structure.word_form}
        return {
            name: {**options, **{k: v for k, v in stage.given.get(name, {}).items() if not (short and k in LENGTH)}}
            for name, options in made.items()
        }

    def _time(self, structure: Structure, steps: int) -> float:
        """Returns how long so many steps take, in whole trainings of the usual student."""
        usual = USUAL_SHARE * USUAL * SHORT * (self._stage.max_steps or MOST_STEPS)
        return steps * self._outline.work(structure) / usual

    def _steps(self, options: Mapping[str, Mapping[str, Any]]) -> int:
        """Returns the steps that a training with these options will take."""
        stage: Prune = make_stage(Prune, options["prune"])
        return schedule_of(stage).steps_on(self._texts)

    def _trained(
        self, structure: Structure, options: Mapping[str, Mapping[str, Any]]
    ) -> tuple[np.ndarray, Mapping[str, Any]]:
        """Returns the logits on dev of the student that the options make, and its facts."""
        kinds: tuple[type[Artifact], ...] = (Teacher, LabelledData, Vocabulary, TeacherOutputs)
        artifacts = {kind: self._inputs[kind] for kind in kinds}
        artifacts[WideStudent] = self._ctx.make(make_stage(Distill, options["distill"]), artifacts)
        artifacts[Scores] = self._ctx.make(make_stage(Score, self._stage.given.get(Score.NAME, {})), artifacts)
        student = self._ctx.make(make_stage(Prune, options["prune"]), artifacts)
        self.spent += self._time(structure, student.facts.get("steps", 0))
        return np.load(student.path / DEV_LOGITS), student.facts


def _between(whole: Mapping[int, Trained], looked: Sequence[int], passed: Callable[[int], bool]) -> int | None:
    """Returns the rung to train next after the walk: one between the cheapest that passes and what is beyond it.

    Where none passes, one between the nearest to the teacher and the next cheaper one that was trained.
    """
    passing = [place for place in whole if passed(place)]
    if passing:
        return beside(max(passing), {*whole, *looked})
    return beside(min(whole, key=lambda at: whole[at].divergence), whole)
