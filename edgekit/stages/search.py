"""Finds the cheapest structure of a student that stays within the allowed drop, by training a few.

Structures are tried on rungs of falling work. On a rung the widths of each depth are those that lose least
(`edgekit.search.structure`), and short trainings tell depths apart, and before that learning rates; the best one is
then trained whole, and its answers on dev decide whether the next rung is a cheaper or a dearer one, as long as there
is time (`edgekit.stages._trainer`). Nothing of this depends on the target but the limits that it sets and how many rows
of test it is judged by, so what is trained for one target is found by the next. Of what was trained the target takes
the one that costs least by its own table of costs, which is scaled first to what shapes at the edge of its limits take
(`edgekit.stages.refine`).

How far a student falls behind is estimated on dev (`edgekit.search.estimate`). A structure passes where the estimate is
within the limit by `margin` standard errors, of the estimate and of what the gate finds on test together: of many that
are tried the one that passes by luck would be taken. A teacher that was trained on dev has answers there that it has
nowhere else; the drop is then estimated against a large student, not against the teacher, and only by its
probabilities. Which of two students is nearer the teacher, the divergence of their answers says either way.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from edgekit import data
from edgekit.artifact import (
    FACTS,
    Costs,
    LabelledData,
    Plan,
    Teacher,
    TeacherOutline,
    TeacherOutputs,
    Vocabulary,
    write_json,
)
from edgekit.backends import load_backend, schemes
from edgekit.ir.buckets import choose
from edgekit.provenance import Provenance
from edgekit.quant.findings import Finding
from edgekit.recipe import make_stage
from edgekit.search.bisection import nearest
from edgekit.search.costs import FAMILIES, read_costs
from edgekit.search.estimate import cautious_drop, error_on_test, least_drop
from edgekit.search.findings import dev_known, few_rows, knows_dev, out_of_reach, too_far_behind
from edgekit.search.limits import SMALLER, Forecast, Limits, with_form, with_words
from edgekit.search.request import ENABLED, FIXES
from edgekit.search.structure import Outline, Structure, ladder, narrowest
from edgekit.stage import INTERNAL, Context, Inputs, Pass
from edgekit.stages._sweep import swept
from edgekit.stages._trainer import MOST_STEPS, START, Trained, Trainer
from edgekit.stages._word_rows import needed_rows, special_tokens, words_bytes
from edgekit.stages.distill import Distill
from edgekit.stages.evaluate import Evaluate, draw
from edgekit.stages.outline import read_outline
from edgekit.stages.profile import Profile
from edgekit.stages.prune import Prune
from edgekit.stages.quantize import LOOKUPS, Quantize
from edgekit.stages.refine import Refine
from edgekit.stages.score import Score
from edgekit.stages.teach import answered
from edgekit.stages.trim import Trim
from edgekit.tokenization import encode, load_tokenizer

LENGTH_ROWS = 500
"""Training rows whose lengths the cost of an inference is foretold for."""

COSTS = ("latency_p95_ms", "instructions")
"""Limits on what the table foretells."""

WORDS = ("word_rows", "word_rank")
"""Options of `prune` that say how much of the word table is left."""

STORED = {"weight-only-int8": 1.125, "weight-only-int4": 0.625, "weight-only": 1.125}
"""Bytes that a weight takes in forms with a scale for every 32 of them, by the scheme's name."""

QUANTILES = (5, 50, 95)
"""Of the lengths of rows, in percent, at which shapes at the edge of such a limit are measured."""

ROUNDING = 1e-9
"""Of sums that are equal in theory."""

ALIKE = 0.5
"""Standard errors that the drops of two students are to be expected to differ by for the dearer one to be worth it
where none passes."""

CLOSE = 0.5
"""Standard errors less than `margin` by which a student that fails all but passes: the next dearer one may do, and two
rungs on students cost twice as much."""

SURELY = 2.0
"""Standard errors that a drop is beyond what it is compared with to be surely beyond it."""


@dataclass(frozen=True)
class Search(Pass):
    """Searches the student's structure.

    Attributes:
        enabled: whether to search. Where not, or where options of `distill` or `prune` give a structure, those decide.
        epochs: passes of a whole training over the training texts; structures of more than a tenth of the work of a
            teacher like MiniLM, six layers 384 wide, get fewer, by the root of how many times that they take, but twice
            `probe_epochs` at least: they begin nearer to the teacher.
        probe_epochs: passes of a short training.
        min_steps, max_steps: bounds of a whole training's steps; of dearer structures and of short trainings less,
            likewise, and of long texts at most as many as take as long as those of 10 tokens, even if that is less than
            `min_steps`; 0 for `max_steps` is no bound.
        learning_rates: peaks to choose among by short trainings, for all but the word table, highest first, of one or
            two layers. Deeper students get less, by the root of how much deeper they are, and whole trainings less
            than short ones, by the root of how many times as many steps they have.
        embedding_rate: factor on the learning rate of the word table; 0 freezes it.
        trainings: whole trainings at most; a `sweep` comes on top.
        effort: how long all trainings together may take, short ones too, in whole ones of a student of a tenth of
            MiniLM's work, on texts of 10 tokens; one takes a third of it at most. The first whole one is made whatever
            the short ones took.
        margin: standard errors that the estimated drop must be within the limit by: of the estimate and of the rows of
            test together, since the gate judges by those (`edgekit.search.estimate.cautious_drop`). Where the gate asks
            for a confidence, what that takes on the rows of test is kept free too. Where dev has so few rows that not
            even a student that answers as the teacher does would pass, such a one does, and no other.
        sweep: whether to train whole what lies around too (`edgekit.stages._sweep`), for a front of all that can be
            had; what is chosen does not depend on it.
        given: options of `distill`, `score` and `prune` that the recipe sets, filled in by the pipeline.
        conducted: versions and defaults of the stages that it has run, likewise: what the search finds depends on them.
        rounds: of the table of costs, likewise: shapes at the edge of a limit are measured in as many.
        judging: the stage that chooses the rows of test, likewise.
        families: of integer forms that `quantize` may ship, likewise, where the recipe names one; all by default. Of
            weights alone the table has no costs: those of the others stand for them.
        weight_bytes: that a weight takes in the form that it names, likewise.
        word_forms: of the word table, likewise: the one that it names, or the default and a smaller one.
        coverage: share of dev's tokens that rows of their own stay for before words take a smaller form, likewise.
    """

    enabled: bool = ENABLED
    epochs: int = 20
    probe_epochs: int = 3
    min_steps: int = 3000
    max_steps: int = MOST_STEPS
    learning_rates: tuple[float, ...] = (6e-4, 3e-4)
    embedding_rate: float = 1.0
    trainings: int = 8
    effort: float = 6.0
    margin: float = 0.7
    sweep: bool = False
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=INTERNAL)
    conducted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=INTERNAL)
    rounds: int = field(default=Profile.rounds, metadata=INTERNAL)
    judging: Evaluate = field(default_factory=Evaluate, metadata=INTERNAL)
    families: tuple[str, ...] = field(default=(), metadata=INTERNAL)
    weight_bytes: float = field(default=1.0, metadata=INTERNAL)
    word_forms: tuple[str, ...] = field(default=("int8", SMALLER), metadata=INTERNAL)
    coverage: float = field(default=Trim.coverage, metadata=INTERNAL)

    NAME: ClassVar[str] = "search"
    VERSION: ClassVar[int] = 34
    IN: ClassVar = (Teacher, LabelledData, Vocabulary, TeacherOutputs, TeacherOutline, Costs)
    OUT: ClassVar = Plan
    READS: ClassVar[tuple[str, ...]] = (
        "runtime.name",
        "shape.sequence_length",
        "shape.buckets",
        "shape.head_multiple",
        "shape.ffn_multiple",
        "gate.max_drop",
        "gate.confidence",
        "budget",
        "quant.ops",
    )
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "accelerate", "optimum", "numpy")
    PARALLEL: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("epochs", "probe_epochs", "trainings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.effort <= 0:
            raise ValueError(f"effort is {self.effort}; it must be positive")
        if min(self.min_steps, self.max_steps, self.embedding_rate, self.margin) < 0:
            raise ValueError("min_steps, max_steps, embedding_rate and margin must not be negative")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError("learning_rates must be at least one, all positive")
        if list(self.learning_rates) != sorted(self.learning_rates, reverse=True):
            raise ValueError("learning_rates must be given highest first")

    def knowing(self, options: Mapping[str, Mapping[str, Any]]) -> Search:
        """Returns the stage knowing what the recipe sets of the stages that it has run."""
        stages = {one.NAME: {"version": one.VERSION, **dataclasses.asdict(one())} for one in (Distill, Score, Prune)}
        stages[Refine.NAME] = {"version": Refine.VERSION}
        given = {name: dict(options.get(name, {})) for name in (*FIXES, Score.NAME)}
        form = make_stage(Quantize, options.get("quantize", {}))
        family = {name: one.family for name, one in schemes().items()}.get(form.scheme, form.scheme)
        words = "int8-rows" if form.embedding == "int8" and family == "weight-only" else form.embedding
        named = "embedding" in options.get("quantize", {})
        return dataclasses.replace(
            self,
            given=given,
            conducted=stages,
            rounds=make_stage(Profile, options.get("profile", {})).rounds,
            judging=make_stage(Evaluate, options.get("evaluate", {})),
            families=(family,) if family in FAMILIES else (),
            weight_bytes=STORED.get(form.scheme, 1.0),
            word_forms=(words,) if named else (words, SMALLER),
            coverage=make_stage(Trim, options.get("trim", {})).coverage,
        )

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes plan.json: the options of `distill` and `prune` that make the chosen student."""
        outline = read_outline(inputs[TeacherOutline].file)
        dataset, limit = data.read(inputs[LabelledData].path), ctx.target["gate.max_drop"]
        forecast, rungs, findings = self._reachable(outline, dataset, inputs, ctx)
        shares = [outline.share(rung[-1]) for rung in rungs]
        trainer = Trainer(self, inputs, ctx, outline, dataset)
        trainer.settle_rate(*_multiples(ctx))
        held_out = dataset.facts["dev_source"] == data.DRAWN and not (inputs[Teacher].path / FACTS).exists()
        if held_out and knows_dev(inputs[TeacherOutputs].facts, len(trainer.teacher)):
            findings.append(dev_known(inputs[TeacherOutputs].facts, trainer.hold_against_a_large_one(*_multiples(ctx))))
        least = least_drop(len(trainer.teacher), self.margin)
        if least > limit:
            findings.append(few_rows(len(trainer.teacher), limit, self.margin))
        allowed = max(limit, least) + ROUNDING
        test_rows = self.judging.rows(len(dataset.test), forecast.table.provenance)

        def within(one: Trained, margin: float) -> bool:
            return bool(cautious_drop(one.behind, test_rows, margin, ctx.target["gate.confidence"]) <= allowed)

        def passes(one: Trained) -> bool:
            return within(one, self.margin)

        def close(one: Trained) -> bool:
            return within(one, self.margin - CLOSE)

        whole = trainer.walk(rungs, nearest(shares, START), passes, close, limit)
        # Chosen before a sweep adds more: of many that are tried one passes by luck.
        passing = [one for one in whole.values() if passes(one)]
        chosen = min(passing or about_as_near(whole.values(), allowed), key=lambda one: forecast.cost(one.structure))
        if not passing:
            rows = len(trainer.teacher)
            findings.append(too_far_behind(chosen.structure, chosen.behind, limit, rows, test_rows))
        found = [whole[place] for place in sorted(whole)]
        if self.sweep:
            fitting = partial(self._fitting, forecast, _limits(ctx.target["budget"]))
            found = swept(trainer, outline, rungs, whole, _multiples(ctx), fitting)
        write_json(out_dir / "plan.json", chosen.options)
        facts = {
            "structure": str(chosen.structure),
            "drop": chosen.behind.drop,
            "error": chosen.behind.error,
            "test_error": error_on_test(chosen.behind.flipped, test_rows),
            "limit": limit,
            "short_learning_rate": trainer.rate,
            "short_trainings": len(trainer.probes),
            "effort": round(trainer.spent, 2),
            "foretold": forecast.foretold(chosen.structure),
            "tried": [
                f"{one.structure}: {one.behind.drop:.2f} points behind after {one.steps:,} steps" for one in found
            ],
            "points": [_point(one, forecast) for one in found],
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        write_json(out_dir / FACTS, facts)

    def _reachable(
        self, outline: Outline, dataset: data.Dataset, inputs: Inputs, ctx: Context
    ) -> tuple[Forecast, list[list[Structure]], list[Finding]]:
        """Returns what is foretold, the rungs within the limits, and a finding where none is.

        Where a limit is on what the table foretells, shapes at its edge are measured first.
        """
        forecast, limits = self._forecast(inputs, outline, dataset, ctx), _limits(ctx.target["budget"])
        rungs = self._within(forecast, limits, _multiples(ctx))
        if set(COSTS) & set(forecast.misses(outline.whole(range(len(outline.head_loss))), limits)):
            forecast = _refined(forecast, rungs[0], self.rounds, inputs, ctx)
            rungs = self._within(forecast, limits, _multiples(ctx))
        cheapest = rungs[-1][0]
        findings = [out_of_reach(forecast, limits, cheapest)] if forecast.misses(cheapest, limits) else []
        return forecast, rungs, findings

    def _forecast(self, inputs: Inputs, outline: Outline, dataset: data.Dataset, ctx: Context) -> Forecast:
        vocabulary, table, ops = inputs[Vocabulary], read_costs(inputs[Costs].file), ctx.target["quant.ops"]
        owners, judged = vocabulary.row_owners, table.provenance is not Provenance.ESTIMATED
        # Costs that are estimates do not decide between forms.
        backend = load_backend(ctx.target["runtime.name"])
        known = tuple(form for form in self.word_forms if form in backend.EMBEDDINGS)
        families = self.families or (() if judged or "static" not in table.families else ("static",))
        return Forecast(
            table,
            outline,
            _lengths(dataset.train, vocabulary, ctx),
            tokens=len(owners),
            rows=len(set(owners)),
            needed_rows=_needed_rows(dataset, inputs, self.coverage),
            positions=vocabulary.max_length,
            judged=judged,
            families=[family for family in families if family in table.families],
            weight_bytes=self.weight_bytes,
            carried_bytes=words_bytes(vocabulary.tokenizer) if backend.CARRIES_WORDS else 0,
            word_forms=known if ops == "all" or set(LOOKUPS) & set(ops) else ("float32",),
        )

    def _within(self, forecast: Forecast, limits: Limits, multiples: tuple[int, int]) -> list[list[Structure]]:
        """Returns the rungs of structures within the limits; the cheapest alone where there are none."""

        def fits(structure: Structure) -> bool:
            return self._fitting(forecast, limits, structure) is not None

        outline = forecast.outline
        least = narrowest(outline, outline.depths[min(outline.depths)], *multiples)
        within = ladder(outline, *multiples, fits) or [[least]]
        return [[self._fitted(forecast, limits, one) for one in rung] for rung in within]

    def _fitting(self, forecast: Forecast, limits: Limits, structure: Structure) -> Structure | None:
        """Returns a structure with a word table that fits the limits; None where it does not fit them with any."""
        fitted = self._fitted(forecast, limits, structure)
        return None if forecast.misses(fitted, limits) else fitted

    def _fitted(self, forecast: Forecast, limits: Limits, structure: Structure) -> Structure:
        """Returns a structure with the word table that the recipe gives, or else the largest within the limits."""
        given = self.given.get("prune", {})
        if not set(WORDS) & set(given):
            return with_words(forecast, limits, structure)
        rows, rank = (int(given.get(name, 0)) for name in WORDS)
        return with_form(forecast, limits, dataclasses.replace(structure, word_rows=rows, word_rank=rank))


def about_as_near(trained: Collection[Trained], allowed: float) -> list[Trained]:
    """Returns the student that is nearest the teacher, and those that are to be expected to fall behind no farther.

    By divergence, which chance moves less than a drop: two students of one divergence differ by as much in their
    drops as the estimate of each is off (docs/log.md). What a divergence that is larger by some share adds to the
    drop is about that share of it; nobody would pay for part of a standard error. One whose own drop is surely beyond
    both the nearest one's and what is allowed is none of them.
    """
    nearest = min(trained, key=lambda one: one.divergence)
    drop, error = nearest.behind.drop, nearest.behind.error
    most, worst = nearest.divergence * (1 + ALIKE * error / max(drop, error)), max(allowed, drop)
    return [one for one in trained if one.divergence <= most and one.behind.drop - SURELY * one.behind.error <= worst]


def _refined(forecast: Forecast, edge: Sequence[Structure], rounds: int, inputs: Inputs, ctx: Context) -> Forecast:
    """Returns the forecast by a table that is scaled to what the given structures take."""
    table, fixed = forecast.table, forecast.table.setting.sequence_length
    rows = [fixed] if isinstance(fixed, int) else np.percentile(forecast.lengths, QUANTILES, method="nearest")
    lengths = tuple(sorted({int(length) for length in rows}))
    shapes = tuple(forecast.shape(structure) for structure in edge)
    stage = Refine(shapes, lengths, tuple(forecast.families) or table.families, rounds)
    refined = cast("Costs", ctx.make(stage, {Costs: inputs[Costs]}))
    return dataclasses.replace(forecast, table=read_costs(refined.file))


def _lengths(train: data.Pairs, vocabulary: Vocabulary, ctx: Context) -> list[int]:
    """Returns the tokens of a draw of training rows, padded where the target's inputs have lengths of their own."""
    tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
    drawn = [train[i][0] for i in draw(len(train), LENGTH_ROWS, ctx.seed)]
    lengths = [len(row) for row in encode(tokenizer, drawn)]
    if ctx.target["shape.sequence_length"] != "buckets":
        return lengths
    inputs = choose(lengths, vocabulary.max_length, ctx.target["shape.buckets"])
    return [inputs[bisect_left(inputs, length)] for length in lengths]


def _needed_rows(dataset: data.Dataset, inputs: Inputs, coverage: float) -> int:
    """Returns how many rows of the word table stay where it is cut to those that texts need."""
    vocabulary, outputs = inputs[Vocabulary], inputs[TeacherOutputs]
    tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
    train, dev = ([text for text, _ in pairs] for pairs in (answered(dataset, outputs).train, dataset.dev))
    learned = np.concatenate(encode(tokenizer, [*train, *outputs.unlabelled, *outputs.views]))
    asked = np.concatenate(encode(tokenizer, dev))
    owners = np.array(vocabulary.row_owners)
    return needed_rows(owners, special_tokens(vocabulary.tokenizer), learned, asked, coverage)


def _multiples(ctx: Context) -> tuple[int, int]:
    return ctx.target["shape.head_multiple"], ctx.target["shape.ffn_multiple"]


def _limits(budget: Mapping[str, Any]) -> Limits:
    return Limits(**{field.name: budget[field.name] for field in dataclasses.fields(Limits)})


def _point(trained: Trained, forecast: Forecast) -> dict[str, Any]:
    """Returns what is told of a structure that was trained whole, and the options that make it."""
    return {
        "structure": str(trained.structure),
        "work": round(forecast.outline.work(trained.structure)),
        "foretold": forecast.foretold(trained.structure),
        "steps": trained.steps,
        "drop": round(trained.behind.drop, 3),
        "error": round(trained.behind.error, 3),
        "dev": round(trained.score, 3),
        "options": trained.options,
    }
