"""Writes the student in integers: statically, dynamically and with weights alone, each in its best form.

Full-range int8 weights times uint8 activations overflow the 16-bit pair sums of x86 CPUs without VNNI, so such a file
answers differently from CPU to CPU. Bounded weights and unsigned weights both avoid it; which loses less depends on
the weights, so all are made and compared on dev, then range methods with the best signed one, then corrected biases.
The unsigned form is kept beside it.
These comparisons are of logits: they come out alike on every machine that builds. Which family is shipped is decided
on the device (`timing`, `select`).

Where the static form loses too much, products are given back to float one by one (`edgekit.search.fallback`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import (
    FACTS,
    Candidates,
    EqualisedStudent,
    Graph,
    LabelledData,
    Ranges,
    Teacher,
    TeacherOutputs,
    Vocabulary,
    write_json,
)
from edgekit.backends import EMBEDDINGS, Scheme, load_backend, schemes
from edgekit.checkpoint import read_labels
from edgekit.errors import RecipeError
from edgekit.quant.ranges import NAMES, read_ranges
from edgekit.search.fallback import climb, order
from edgekit.search.trials import Subject, Trial, Trials, as_facts, nearest, needed
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages._qat import trained
from edgekit.stages.evaluate import draw
from edgekit.stages.export import numbers
from edgekit.target import Target
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer
from edgekit.world import current_world

FAMILIES = ("static", "dynamic", "weight-only")
LOOKUPS = ("Gather", "EMBEDDING_LOOKUP", "GATHER")
"""What reads a word table, by the names of the formats."""
SHOWN_RUNGS = 6
"""Products left float up to which each one's share is told: it takes a candidate more for each."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Makes the integer candidates.

    Attributes:
        scheme: "auto" makes all; or a family, "static", "dynamic" or "weight-only"; or one scheme by its name.
        embedding: form of the word table: "int8", "int8-rows" (a scale for each row) or "int4-blocks".
        correct_bias: whether corrected biases are tried with the static form.
        max_loss: points on dev that a form may lose against the float student where that one is beyond the gate's limit
            itself, so that no precision would meet it.
        rows: dev rows that forms are compared on, drawn by the seed.
        qat_epochs: passes over the training split with rounded weights and activations before rounding for good.
        qat_rate: peak learning rate of those.
    """

    scheme: str = "auto"
    embedding: str = "int8"
    correct_bias: bool = True
    max_loss: float = 0.5
    rows: int = 500
    qat_epochs: int = 0
    qat_rate: float = 2e-5

    NAME: ClassVar[str] = "quantize"
    VERSION: ClassVar[int] = 12
    IN: ClassVar = (EqualisedStudent, Graph, Ranges, Vocabulary, LabelledData, Teacher, TeacherOutputs)
    OUT: ClassVar = Candidates
    READS: ClassVar[tuple[str, ...]] = (
        "runtime.name",
        "runtime.version",
        "quant",
        "shape.sequence_length",
        "gate.max_drop",
    )
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate", "tokenizers", "numpy")

    def __post_init__(self) -> None:
        known = ("auto", *FAMILIES, *schemes())
        if self.scheme not in known:
            raise ValueError(f"scheme is {self.scheme!r}; known: {', '.join(known)}")
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding is {self.embedding!r}; known: {', '.join(EMBEDDINGS)}")
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")
        for name, value in (("max_loss", self.max_loss), ("qat_epochs", self.qat_epochs)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must not be negative")
        family = {name: scheme.family for name, scheme in schemes().items()}.get(self.scheme, self.scheme)
        if self.qat_epochs and family not in ("auto", "static"):
            raise ValueError(f"qat_epochs trains the static form, but scheme is {self.scheme!r}")
        if self.qat_epochs and self.scheme in schemes() and kind_of(schemes()[self.scheme])[0] != 8:
            raise ValueError(f"qat_epochs trains for activations of 8 bits, but scheme is {self.scheme!r}")
        if self.qat_rate <= 0:
            raise ValueError(f"qat_rate is {self.qat_rate}; it must be positive")

    def check_target(self, target: Target) -> None:
        """Refuses options that a target, or this way of building, cannot serve."""
        quant = target.as_dict()["quant"]
        self._schemes(target.runtime.name, target.runtime.version, quant)
        ops, backend = quant["ops"], load_backend(target.runtime.name)
        if self.embedding not in backend.EMBEDDINGS:
            there = ", ".join(backend.EMBEDDINGS)
            raise RecipeError(f"quantize.embedding is {self.embedding!r}, but {target.runtime.name} has {there}")
        if self.embedding != "int8" and ops != "all" and not set(LOOKUPS) & set(ops):
            lacking = next(op for op in LOOKUPS if op in backend.OPS)
            raise RecipeError(f"quantize.embedding is {self.embedding!r}, but the target's quant.ops lack {lacking}")
        if self.qat_epochs and (quant["weight"]["granularity"] != "per-channel" or quant["activation"]["symmetric"]):
            raise RecipeError("quantize.qat_epochs needs a target with per-channel weights and asymmetric activations")
        if self.qat_epochs and current_world().size > 1:
            raise RecipeError("quantize.qat_epochs trains in one process: build without torchrun")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the candidates' files and what each form measured."""
        runtime, version = ctx.target["runtime.name"], ctx.target["runtime.version"]
        schemes, left_out = self._schemes(runtime, version, ctx.target["quant"])
        subject, teacher = self._subject(inputs, out_dir, ctx)
        trials = Trials(
            subject,
            lambda trial: ctx.progress(len(trials.done), len(trials.done), trial.name),
        )
        enough = needed(teacher, trials.float_score, ctx.target["gate.max_drop"], self.max_loss)
        kept: list[Trial] = []
        sensitivity: dict[str, float] = {}
        static = [scheme for scheme in schemes if scheme.family == "static"]
        if static:
            best, *others = self._static(trials, static)
            kept += [best, *others]
            if self.qat_epochs:
                learned = trained(self.qat_epochs, self.qat_rate, inputs, ctx, trials, best, scheme_of(best))
                # It takes the same time: of the two, the more accurate is the one to beat.
                kept.insert(0 if learned.score > best.score else 1, learned)
            if subject.backend.KEEPS_FLOAT and all(trial.score < enough for trial in kept):
                floats = alone(trials, best)
                sensitivity = {name: 1 - (one.logit_rmse / best.logit_rmse) ** 2 for name, one in floats.items()}
                kept += rungs(trials, best, floats, enough)
        kept += [trials.run(scheme) for scheme in schemes if scheme.family != "static"]
        families = [scheme.family for scheme in schemes]
        kept.sort(key=lambda trial: families.index(scheme_of(trial).family))
        trials.keep(kept)
        facts = {
            "candidates": [trial.file for trial in kept],
            "trials": as_facts([trial for trial in trials.done if trial in kept or not trial.keep_float]),
            "left_out": left_out,
            "sensitivity": sensitivity,
            "dev_rows": len(trials.subject.rows),
            "float_score": trials.float_score,
            "max_loss": self.max_loss,
            "teacher_score": teacher,
        }
        write_json(out_dir / FACTS, facts)

    def _schemes(self, name: str, has: str, quant: Mapping[str, Any]) -> tuple[list[Scheme], dict[str, str]]:
        """Returns the schemes that the option asks for, the target allows and its runtime loads; why others are not.

        Args:
            name, has: the target's runtime and its version.
            quant: the target's section of that name.

        Raises:
            RecipeError: none.
        """
        dtype, static_only = quant["weight"]["dtype"], quant["scheme"] == "static-qdq"
        backend = load_backend(name)
        wanted = [s for s in backend.SCHEMES if self.scheme in ("auto", s.family, s.name)]
        if not wanted:
            there = ", ".join(s.name for s in backend.SCHEMES)
            raise RecipeError(f"quantize.scheme is {self.scheme!r}, but {name} has {there}")
        found = [s for s in wanted if s.family == "static" or not static_only]
        found = [s for s in found if s.family != "static" or dtype in ("auto", s.weight)]
        if not found:
            allows = f"weights of {dtype}" if any(s.family == "static" for s in wanted) else "static quantization only"
            raise RecipeError(f"quantize.scheme is {self.scheme!r}, but the target allows {allows}")
        oldest = {s: backend.oldest(s) for s in found}
        loadable = [s for s in found if numbers(oldest[s]) <= numbers(has)]
        if not loadable:
            least = min(oldest.values(), key=numbers)
            raise RecipeError(
                f"quantize.scheme {self.scheme!r} needs {name} {least}, the target has {has}: raise 'runtime.version' "
                "in its profile if the device has a newer one, or take another"
            )
        return loadable, {s.name: f"needs {name} {oldest[s]}, the target has {has}" for s in found if s not in loadable}

    def _subject(self, inputs: Inputs, out_dir: Path, ctx: Context) -> tuple[Subject, float]:
        """Returns what trials are made of, and the teacher's score on the same rows."""
        vocabulary, ranges, task = inputs[Vocabulary], inputs[Ranges], load_task(ctx.task)
        dataset = data.read(inputs[LabelledData].path)
        classes = task.align(read_labels(inputs[Teacher].path), dataset.labels)
        drawn = draw(len(dataset.dev), self.rows, ctx.seed)  # not the first: dev may be in the order of its classes
        expected = np.array([classes[dataset.dev[i][1]] for i in drawn])
        teacher = np.load(inputs[TeacherOutputs].array("dev", "logits"), mmap_mode="r")[drawn]
        means = json.loads(ranges.means.read_text(encoding="utf-8"))
        subject = Subject(
            backend=load_backend(ctx.target["runtime.name"]),
            graph=inputs[Graph].model,
            ranges=read_ranges(ranges.file),
            means={name: np.array(values) for name, values in means.items()},
            quant=ctx.target["quant"],
            weight_method=ranges.facts["weight_method"],
            embedding=self.embedding,
            rows=encode(
                load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), [dataset.dev[i][0] for i in drawn]
            ),
            pad_id=vocabulary.facts["pad_token_id"],
            score=lambda logits: task.metric(logits, expected),
            folder=out_dir,
        )
        return subject, task.metric(np.array(teacher), expected)

    def _static(self, trials: Trials, schemes: Sequence[Scheme]) -> list[Trial]:
        """Returns the signed form of least logit error over bounds, methods and biases; then the unsigned one.

        They run through other kernels. The signed one is the one to beat: on AVX2 it is faster by a tenth, and a fixed
        order keeps builds from changing places between forms that are equally good. What method suits the activations
        does not depend on the weights' sign, so the unsigned form takes that of the signed one.
        """
        methods = [method for method in NAMES if method in trials.subject.ranges]
        found = [trials.run(scheme, methods[0]) for scheme in schemes]
        kinds = sorted({kind_of(scheme) for scheme in schemes})  # int8 before uint8, eight bits before sixteen
        best, *others = (nearest([t for t in found if kind_of(scheme_of(t)) == kind]) for kind in kinds)
        forms = [best, *(trials.run(scheme_of(best), method) for method in methods[1:])]
        if self.correct_bias:
            forms.append(trials.run(scheme_of(best), nearest(forms).method, corrected=True))
        chosen = nearest(forms)
        return [chosen, *(trials.run(scheme_of(t), chosen.method, chosen.corrected) for t in others)]


def alone(trials: Trials, best: Trial) -> dict[str, Trial]:
    """Measures a static form with each product alone given back to float; the files are not kept.

    Args:
        trials: gets what is tried.
        best: the form.
    """
    found = {}
    for name in trials.subject.backend.products(trials.subject.graph, trials.subject.quant["ops"]):
        found[name] = trials.run(scheme_of(best), best.method, best.corrected, (name,))
        trials.drop(found[name])
    return found


def rungs(trials: Trials, best: Trial, floats: Mapping[str, Trial], enough: float) -> list[Trial]:
    """Gives products of a static form back to float until its score on dev is enough.

    Args:
        trials: gets what is tried.
        best: the form, whose score is not enough.
        floats: what `alone` returned.
        enough: score in percent.

    Returns:
        The form that is enough, or the best there is; before it those with one product less each, where they are few,
        so that each product's share can be told. Empty where the graph has no product.
    """
    products = trials.subject.backend.products(trials.subject.graph, trials.subject.quant["ops"])

    def made(keep_float: Sequence[str]) -> Trial:
        return trials.run(scheme_of(best), best.method, best.corrected, keep_float)

    def attempt(keep_float: Sequence[str]) -> Trial:
        trial = made(keep_float)
        trials.drop(trial)
        return trial

    if not products:
        return []
    weights = {name: product.weights for name, product in products.items()}
    names = climb(attempt, order(best, floats, weights), enough).keep_float
    first = 1 if len(names) <= SHOWN_RUNGS else len(names)
    return [made(names[:count]) for count in range(first, len(names) + 1)]


def kind_of(scheme: Scheme) -> tuple[int, str]:
    """Returns what sets static schemes' kernels apart: bits of the activations, and type of the weights."""
    return (16 if scheme.activation.endswith("16") else 8), scheme.weight


def scheme_of(trial: Trial) -> Scheme:
    """Returns the scheme that a trial is of."""
    return schemes()[trial.scheme]
