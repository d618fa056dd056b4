"""Has students of a structure trained, short and whole, and says how far each falls behind the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import data
from edgekit.artifact import Artifact, LabelledData, Teacher, TeacherOutputs, Vocabulary, WideStudent
from edgekit.checkpoint import read_labels
from edgekit.recipe import make_stage
from edgekit.search.bisection import depths_to_try, nearest, valley
from edgekit.search.estimate import Estimate, divergence, estimate
from edgekit.search.structure import Outline, Structure, ladder
from edgekit.stage import Context, Inputs
from edgekit.stages.distill import Distill
from edgekit.stages.outline import SHORT
from edgekit.stages.prune import DEV_LOGITS, Prune
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from edgekit.stages.search import Search

START = 0.09
"""Share of the teacher's work on whose rung the search begins: two layers of six, half as wide."""

USUAL = 1.1e7
"""Work a token of a teacher of six layers 384 wide, for which the numbers of steps were found. Students of larger ones
take fewer steps, by half of what they are dearer (on a logarithmic scale), or none would be trained in minutes."""

REFERENCE = 0.3
"""Share of the work of the student that others are compared with where dev tells nothing of the teacher."""

SHALLOW = 2
"""Layers of a student up to which the whole learning rate is right (docs/log.md)."""

LENGTH = ("epochs", "min_steps", "max_steps")
"""Options that say how long a whole training takes; a short one has its own."""


@dataclass(frozen=True)
class Trained:
    """A structure that was trained whole.

    Attributes:
        structure: what was trained.
        epochs: passes.
        options: of the stages that make the student.
        behind: the drop that is to be expected, against the teacher or the student in its place.
        score: the task's metric on dev, in percent.
    """

    structure: Structure
    epochs: int
    options: Mapping[str, Mapping[str, Any]]
    behind: Estimate
    score: float


def usual_work(outline: Outline) -> float:
    """Returns the work up to which a student is trained for as many steps as there are; dearer ones take fewer."""
    work = outline.work(outline.whole(range(len(outline.head_loss))))
    return float(START * min(work, (USUAL * outline.tokens * work) ** 0.5))


class Trainer:
    """Has structures trained, short and whole, each once.

    Attributes:
        teacher: the teacher's logits on dev.
        rate: learning rate of all trainings, for students of up to `SHALLOW` layers.
        probes: how far each structure's answers were from the teacher's after a short training, by structure and rate.
    """

    def __init__(self, stage: Search, inputs: Inputs, ctx: Context, outline: Outline, dataset: data.Dataset) -> None:
        self._stage, self._inputs, self._ctx, self._outline = stage, inputs, ctx, outline
        outputs = inputs[TeacherOutputs]
        self.teacher = self._against = np.load(outputs.array("dev", "logits"))
        classes = load_task(ctx.task).align(read_labels(inputs[Teacher].path), dataset.labels)
        self._expected = np.array([classes[label] for _, label in dataset.dev])
        self._middle = usual_work(outline)
        self._depths: dict[int, int] = {}  # of the structure that was best on each rung
        self.rate: float = stage.learning_rates[0]
        self.probes: dict[tuple[Structure, float], float] = {}

    def settle_rate(self, rung: Sequence[Structure]) -> None:
        """Takes the rate by which the middle structure of a rung comes nearest the teacher in a short training.

        What is right for many classes, where a teacher's answer says much, has students learn by heart what little two
        say. A short training asks for no lower rate than a whole one (docs/log.md).
        """
        rates = self._stage.learning_rates
        if len(rates) > 1 and "learning_rate" not in self._stage.given.get("prune", {}):
            middle = rung[(len(rung) - 1) // 2]
            self.rate = min(rates, key=lambda rate: self._probed(middle, rate))

    def best(self, rungs: Sequence[Sequence[Structure]], place: int) -> Structure:
        """Returns the structure of a rung that is nearest the teacher after a short training."""
        depths = depths_to_try(self._depths, place, [len(one.layers) for one in rungs[place]])
        near = [one for one in rungs[place] if len(one.layers) in depths]
        found = near[valley(len(near), lambda at: self._probed(near[at], self.rate))] if len(near) > 1 else near[0]
        self._depths[place] = len(found.layers)
        return found

    def _probed(self, structure: Structure, rate: float) -> float:
        """Returns how far a structure's answers on dev are from the teacher's after a short training."""
        if (structure, rate) not in self.probes:
            logits, _ = self._trained(self._options(structure, self._stage.probe_epochs, rate, short=True))
            self.probes[structure, rate] = divergence(self.teacher, logits)
        return self.probes[structure, rate]

    def hold_against_a_large_one(self, head_multiple: int, ffn_multiple: int) -> Structure:
        """Puts a student in the teacher's place that is large enough to fall behind by little, whatever the limits."""
        every = ladder(self._outline, head_multiple, ffn_multiple)
        dearest = self._outline.work(every[0][-1])
        rung = every[nearest([self._outline.work(one[-1]) / dearest for one in every], REFERENCE)]
        structure = rung[len(rung) // 2]
        self._against, _ = self._trained(self._options(structure, self._epochs(structure), self.rate))
        return structure

    def whole(self, structure: Structure) -> Trained:
        """Trains a structure whole."""
        epochs = self._epochs(structure)
        options = self._options(structure, epochs, self.rate)
        logits, score = self._trained(options)
        known = self._against is not self.teacher
        return Trained(structure, epochs, options, estimate(self._against, logits, self._expected, known), score)

    def _epochs(self, structure: Structure) -> int:
        return max(2 * self._stage.probe_epochs, round(self._stage.epochs / self._dearer(structure)))

    def _dearer(self, structure: Structure) -> float:
        """Returns how many times the work of the first rung a structure takes, at least 1."""
        return max(1.0, float(self._outline.work(structure) / self._middle))

    def _options(
        self, structure: Structure, epochs: int, rate: float, short: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Returns the options of the stages that make a student of that structure; the recipe's own go before."""
        stage = self._stage
        share = (stage.probe_epochs / stage.epochs if short else 1.0) / self._dearer(structure)
        most = stage.max_steps * share / max(1.0, self._outline.tokens / SHORT)
        made: dict[str, dict[str, Any]] = {
            "distill": {"keep": list(structure.layers), "epochs": 0},
            "prune": {
                "layer_heads": list(structure.heads),
                "layer_ffn": list(structure.ffn),
                "word_rows": structure.word_rows,
                "word_rank": structure.word_rank,
                "epochs": epochs,
                "learning_rate": rate * min(1.0, SHALLOW / len(structure.layers)) ** 2,
                "embedding_rate": stage.embedding_rate,
                "min_steps": round(stage.min_steps * share),
                "max_steps": math.ceil(most),
            },
        }
        return {
            name: {**options, **{k: v for k, v in stage.given.get(name, {}).items() if not (short and k in LENGTH)}}
            for name, options in made.items()
        }

    def _trained(self, options: Mapping[str, Mapping[str, Any]]) -> tuple[np.ndarray, float]:
        """Returns the logits on dev of the student that the options make, and the task's metric of them."""
        kinds: tuple[type[Artifact], ...] = (Teacher, LabelledData, Vocabulary, TeacherOutputs)
        artifacts = {kind: self._inputs[kind] for kind in kinds}
        artifacts[WideStudent] = self._ctx.make(make_stage(Distill, options["distill"]), artifacts)
        student = self._ctx.make(make_stage(Prune, options["prune"]), artifacts)
        return np.load(student.path / DEV_LOGITS), student.facts["dev"]
