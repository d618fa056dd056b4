"""Finds the cheapest structure of a student that stays within the allowed drop, by training a few.

Structures are tried on rungs of falling work. On a rung the widths of each depth are those that lose least
(`edgekit.search.structure`), and short trainings tell depths apart; the best one is then trained whole, and its answers
on dev decide whether the next rung is a cheaper or a dearer one. Nothing of this depends on the target but the limits
that it sets, so what is trained for one target is found by the next. Of what was trained the target takes the one that
costs least by its own table of costs, which is scaled first to what shapes at the edge of its limits take
(`edgekit.stages.refine`).

How far a student falls behind is estimated on dev (`edgekit.search.estimate`). A structure passes where the estimate is
within the limit by part of its standard error: of many that are tried the one that passes by luck would be taken. A
teacher that was trained on dev has answers there that it has nowhere else; students are then held against a large
student, not against the teacher, and only by its probabilities.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from edgekit import data
from edgekit.artifact import (
    FACTS,
    Artifact,
    Costs,
    LabelledData,
    Plan,
    Teacher,
    TeacherOutline,
    TeacherOutputs,
    Vocabulary,
    WideStudent,
    write_json,
)
from edgekit.checkpoint import read_labels
from edgekit.provenance import Provenance
from edgekit.quant.findings import Finding
from edgekit.recipe import make_stage
from edgekit.search.bisection import bisection, depths_to_try, nearest
from edgekit.search.costs import FAMILIES, read_costs
from edgekit.search.estimate import Estimate, confidence_width, divergence, estimate
from edgekit.search.findings import dev_known, knows_dev, out_of_reach, too_far_behind
from edgekit.search.limits import Forecast, Limits, ladder, with_words
from edgekit.search.request import ENABLED, FIXES
from edgekit.search.structure import Outline, Structure
from edgekit.stage import INTERNAL, Context, Inputs, Pass
from edgekit.stages.distill import Distill
from edgekit.stages.evaluate import draw
from edgekit.stages.outline import SHORT, read_outline
from edgekit.stages.prune import DEV_LOGITS, Prune
from edgekit.stages.quantize import SCHEMES
from edgekit.stages.refine import Refine
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

START = 0.09
"""Share of the teacher's work on whose rung the search begins: two layers of six, half as wide."""

REFERENCE = 0.3
"""Share of the work of the student that others are compared with where dev tells nothing of the teacher."""

SHALLOW = 2
"""Layers of a student up to which the whole learning rate is right (docs/log.md)."""

LENGTH_ROWS = 500
"""Training rows whose lengths the cost of an inference is foretold for."""

COSTS = ("latency_p95_ms", "instructions")
"""Limits on what the table foretells."""

WORDS = ("word_rows", "word_rank")
"""Options of `prune` that say how much of the word table is left."""

QUANTILES = (5, 50, 95)
"""Of the lengths of rows, in percent, at which shapes at the edge of such a limit are measured."""

SWEPT = 0.5
"""Share of the work from which on `sweep` trains all rungs."""

LENGTH = ("epochs", "min_steps", "max_steps")
"""Options that say how long a whole training takes; a short one has its own."""


@dataclass(frozen=True)
class Search(Pass):
    """Searches the student's structure.

    Attributes:
        enabled: whether to search. Where not, or where options of `distill` or `prune` give a structure, those decide.
        epochs: passes of a whole training over the training texts; structures dearer than that of the first rung get
            fewer, so that all take equally long, but twice `probe_epochs` at least: they begin nearer to the teacher.
        probe_epochs: passes of a short training.
        min_steps, max_steps: bounds of a whole training's steps; of dearer structures and of short trainings less,
            likewise, and of long texts at most as many as take as long as those of 16 tokens; 0 for `max_steps` is no
            bound.
        learning_rate: peak, for all but the word table, of one or two layers; deeper students get less, by the square
            of how much deeper: more of the teacher is left in them, and soon unlearned at that rate.
        embedding_rate: factor on the learning rate of the word table; 0 freezes it.
        trainings: whole trainings at most.
        margin: standard errors of the estimated drop that it must be within the limit by. Where the gate asks for a
            confidence, what that takes on the rows of test is kept free too.
        sweep: whether to train the best structure of every rung whole, for a front of all that can be had.
        given: options of `distill` and `prune` that the recipe sets, filled in by the pipeline.
        conducted: their versions and defaults, likewise: what the search finds depends on them.
        families: of integer forms that `quantize` may ship, likewise, where the recipe names one; all by default.
    """

    enabled: bool = ENABLED
    epochs: int = 20
    probe_epochs: int = 3
    min_steps: int = 3000
    max_steps: int = 8000
    learning_rate: float = 1e-3
    embedding_rate: float = 1.0
    trainings: int = 5
    margin: float = 0.5
    sweep: bool = False
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=INTERNAL)
    conducted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=INTERNAL)
    families: tuple[str, ...] = field(default=(), metadata=INTERNAL)

    NAME: ClassVar[str] = "search"
    VERSION: ClassVar[int] = 5
    IN: ClassVar = (Teacher, LabelledData, Vocabulary, TeacherOutputs, TeacherOutline, Costs)
    OUT: ClassVar = Plan
    READS: ClassVar[tuple[str, ...]] = (
        "shape.head_multiple",
        "shape.ffn_multiple",
        "gate.max_drop",
        "gate.confidence",
        "budget",
    )
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "accelerate", "optimum", "numpy")
    PARALLEL: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("epochs", "probe_epochs", "trainings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if min(self.min_steps, self.max_steps, self.embedding_rate, self.margin) < 0:
            raise ValueError("min_steps, max_steps, embedding_rate and margin must not be negative")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")

    def knowing(self, options: Mapping[str, Mapping[str, Any]]) -> Search:
        """Returns the stage knowing what the recipe sets of the stages that it has run."""
        stages = {stage.NAME: {"version": stage.VERSION, **dataclasses.asdict(stage())} for stage in (Distill, Prune)}
        given = {name: dict(options.get(name, {})) for name in FIXES}
        scheme = str(options.get("quantize", {}).get("scheme", ""))
        family = {one.name: one.family for one in SCHEMES}.get(scheme, scheme)
        families = (family,) if family in FAMILIES else ()
        return dataclasses.replace(self, given=given, conducted=stages, families=families)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes plan.json: the options of `distill` and `prune` that make the chosen student."""
        outline = read_outline(inputs[TeacherOutline].file)
        multiples = ctx.target["shape.head_multiple"], ctx.target["shape.ffn_multiple"]
        dataset = data.read(inputs[LabelledData].path)
        lengths = _lengths(dataset.train, inputs[Vocabulary], ctx.seed)
        forecast, limits = _forecast(inputs, outline, lengths, self.families), _limits(ctx.target["budget"])
        dearest = outline.work(outline.whole(range(len(outline.head_loss))))

        rungs_within = self._within(forecast, limits, multiples)
        if set(COSTS) & set(forecast.misses(outline.whole(range(len(outline.head_loss))), limits)):
            forecast = _refined(forecast, rungs_within[0], inputs, ctx)
            rungs_within = self._within(forecast, limits, multiples)
        findings: list[Finding] = []
        if forecast.misses(rungs_within[-1][0], limits):
            findings.append(out_of_reach(forecast, limits, rungs_within[-1][0]))
        shares = [outline.work(rung[-1]) / dearest for rung in rungs_within]
        trainer, limit = _Trainer(self, inputs, ctx, outline, dataset), ctx.target["gate.max_drop"]
        held_out = dataset.facts["dev_source"] == data.DRAWN and not (inputs[Teacher].path / FACTS).exists()
        if held_out and knows_dev(inputs[TeacherOutputs].facts, len(trainer.teacher)):
            findings.append(dev_known(inputs[TeacherOutputs].facts, trainer.hold_against_a_large_one(*multiples)))
        whole: dict[int, Trained] = {}

        def passes(place: int) -> bool:
            behind = whole[place].behind
            asked = confidence_width(behind.disagreeing, len(dataset.test), ctx.target["gate.confidence"])
            return bool(behind.drop + self.margin * behind.error + asked <= limit)

        for place in bisection(nearest(shares, START), len(shares), passes, self.trainings):
            whole[place] = trainer.whole(trainer.best(rungs_within, place))
        for place in range(nearest(shares, SWEPT), len(shares)) if self.sweep else ():
            if place not in whole:
                whole[place] = trainer.whole(trainer.best(rungs_within, place))
        passing = [one for place, one in whole.items() if passes(place)]
        if passing:
            chosen = min(passing, key=lambda one: forecast.cost(one.structure))
        else:
            chosen = min(whole.values(), key=lambda one: (one.behind.drop, one.behind.error))
            findings.append(too_far_behind(chosen.structure, chosen.behind, limit, len(trainer.teacher)))
        write_json(out_dir / "plan.json", trainer.options(chosen.structure, chosen.epochs))
        facts = {
            "structure": str(chosen.structure),
            "drop": chosen.behind.drop,
            "error": chosen.behind.error,
            "limit": limit,
            "short_trainings": len(trainer.probes),
            "foretold": forecast.foretold(chosen.structure),
            "tried": [
                f"{one.structure}: {one.behind.drop:.2f} points behind after {one.epochs} passes".replace(",", "")
                for one in (whole[place] for place in sorted(whole))
            ],
            "points": [_point(whole[place], forecast, trainer) for place in sorted(whole)],
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        write_json(out_dir / FACTS, facts)

    def _within(self, forecast: Forecast, limits: Limits, multiples: tuple[int, int]) -> list[list[Structure]]:
        """Returns the rungs of structures within the limits; the cheapest alone where there are none."""

        def fitted(structure: Structure) -> Structure:
            given = self.given.get("prune", {})
            if not set(WORDS) & set(given):
                return with_words(forecast, limits, structure)
            rows, rank = (int(given.get(name, 0)) for name in WORDS)
            return dataclasses.replace(structure, word_rows=rows, word_rank=rank)

        def fits(structure: Structure) -> bool:
            return not forecast.misses(fitted(structure), limits)

        within = ladder(forecast.outline, *multiples, fits) or [ladder(forecast.outline, *multiples)[-1]]
        return [[fitted(one) for one in rung] for rung in within]


def _refined(forecast: Forecast, edge: Sequence[Structure], inputs: Inputs, ctx: Context) -> Forecast:
    """Returns the forecast by a table that is scaled to what the given structures take."""
    table, fixed = forecast.table, forecast.table.setting.sequence_length
    rows = np.percentile(forecast.lengths, QUANTILES, method="nearest") if fixed == "dynamic" else [fixed]
    lengths = tuple(sorted({int(length) for length in rows}))
    shapes = tuple(forecast.shape(structure) for structure in edge)
    stage = Refine(shapes, lengths, tuple(forecast.families) or table.families)
    refined = cast("Costs", ctx.make(stage, {Costs: inputs[Costs]}))
    return dataclasses.replace(forecast, table=read_costs(refined.file))


def _lengths(train: data.Pairs, vocabulary: Vocabulary, seed: int) -> list[int]:
    """Returns the tokens of a draw of training rows."""
    tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
    return [len(row) for row in encode(tokenizer, [train[i][0] for i in draw(len(train), LENGTH_ROWS, seed)])]


def _forecast(inputs: Inputs, outline: Outline, lengths: Sequence[int], families: Sequence[str]) -> Forecast:
    vocabulary, table = inputs[Vocabulary], read_costs(inputs[Costs].file)
    judged = table.provenance is not Provenance.ESTIMATED
    owners = vocabulary.row_owners
    known = [family for family in families if family in table.families]
    return Forecast(table, outline, lengths, len(owners), len(set(owners)), vocabulary.max_length, judged, known)


def _limits(budget: Mapping[str, Any]) -> Limits:
    return Limits(**{field.name: budget[field.name] for field in dataclasses.fields(Limits)})


def _point(trained: Trained, forecast: Forecast, trainer: _Trainer) -> dict[str, Any]:
    """Returns what is told of a structure that was trained whole, and the options that make it."""
    return {
        "structure": str(trained.structure),
        "work": round(forecast.outline.work(trained.structure)),
        "foretold": forecast.foretold(trained.structure),
        "epochs": trained.epochs,
        "drop": round(trained.behind.drop, 3),
        "error": round(trained.behind.error, 3),
        "dev": round(trained.score, 3),
        "options": trainer.options(trained.structure, trained.epochs),
    }


@dataclass(frozen=True)
class Trained:
    """A structure that was trained whole.

    Attributes:
        structure: what was trained.
        epochs: passes.
        behind: the drop that is to be expected, against the teacher or the student in its place.
        score: the task's metric on dev, in percent.
    """

    structure: Structure
    epochs: int
    behind: Estimate
    score: float


class _Trainer:
    """Has structures trained, short and whole, each once."""

    def __init__(self, stage: Search, inputs: Inputs, ctx: Context, outline: Outline, dataset: data.Dataset) -> None:
        self._stage, self._inputs, self._ctx, self._outline = stage, inputs, ctx, outline
        outputs = inputs[TeacherOutputs]
        self.teacher = self._against = np.load(outputs.array("dev", "logits"))
        classes = load_task(ctx.task).align(read_labels(inputs[Teacher].path), dataset.labels)
        self._expected = np.array([classes[label] for _, label in dataset.dev])
        self._middle = START * outline.work(outline.whole(range(len(outline.head_loss))))
        self._depths: dict[int, int] = {}  # of the structure that was best on each rung
        self.probes: dict[Structure, float] = {}

    def best(self, rungs: Sequence[Sequence[Structure]], place: int) -> Structure:
        """Returns the structure of a rung that is nearest the teacher after a short training."""
        depths = depths_to_try(self._depths, place, [len(one.layers) for one in rungs[place]])
        near = [one for one in rungs[place] if len(one.layers) in depths]
        for structure in near if len(near) > 1 else ():
            if structure not in self.probes:
                logits, _ = self._trained(structure, self._stage.probe_epochs, short=True)
                self.probes[structure] = divergence(self.teacher, logits)
        found = min(near, key=lambda structure: self.probes.get(structure, 0.0))
        self._depths[place] = len(found.layers)
        return found

    def hold_against_a_large_one(self, head_multiple: int, ffn_multiple: int) -> Structure:
        """Puts a student in the teacher's place that is large enough to fall behind by little, whatever the limits."""
        every = ladder(self._outline, head_multiple, ffn_multiple)
        dearest = self._outline.work(every[0][-1])
        rung = every[nearest([self._outline.work(one[-1]) / dearest for one in every], REFERENCE)]
        structure = rung[len(rung) // 2]
        self._against, _ = self._trained(structure, self._epochs(structure), short=False)
        return structure

    def whole(self, structure: Structure) -> Trained:
        """Trains a structure whole."""
        epochs = self._epochs(structure)
        logits, score = self._trained(structure, epochs, short=False)
        known = self._against is not self.teacher
        return Trained(structure, epochs, estimate(self._against, logits, self._expected, known), score)

    def _epochs(self, structure: Structure) -> int:
        return max(2 * self._stage.probe_epochs, round(self._stage.epochs / self._dearer(structure)))

    def _dearer(self, structure: Structure) -> float:
        """Returns how many times the work of the first rung a structure takes, at least 1."""
        return max(1.0, self._outline.work(structure) / self._middle)

    def options(self, structure: Structure, epochs: int, short: bool = False) -> dict[str, dict[str, Any]]:
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
                "learning_rate": stage.learning_rate * min(1.0, SHALLOW / len(structure.layers)) ** 2,
                "embedding_rate": stage.embedding_rate,
                "min_steps": round(stage.min_steps * share),
                "max_steps": math.ceil(most),
            },
        }
        return {
            name: {**options, **{k: v for k, v in stage.given.get(name, {}).items() if not (short and k in LENGTH)}}
            for name, options in made.items()
        }

    def _trained(self, structure: Structure, epochs: int, short: bool) -> tuple[np.ndarray, float]:
        """Returns the student's logits on dev, and the task's metric of them."""
        kinds: tuple[type[Artifact], ...] = (Teacher, LabelledData, Vocabulary, TeacherOutputs)
        artifacts = {kind: self._inputs[kind] for kind in kinds}
        options = self.options(structure, epochs, short)
        artifacts[WideStudent] = self._ctx.make(make_stage(Distill, options["distill"]), artifacts)
        student = self._ctx.make(make_stage(Prune, options["prune"]), artifacts)
        return np.load(student.path / DEV_LOGITS), student.facts["dev"]
