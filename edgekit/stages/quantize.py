"""Writes the student in integers: statically, dynamically and with weights alone, each in its best form.

Full-range int8 weights times uint8 activations overflow the 16-bit pair sums of x86 CPUs without VNNI, so such a file
answers differently from CPU to CPU. Bounded weights and unsigned weights both avoid it; which loses less depends on
the weights, so all are made and compared on dev, then range methods with the best signed one, then corrected biases.
The unsigned form is kept beside it.
These comparisons are of logits: they come out alike on every machine that builds. Which family is shipped is decided
on the device (`timing`, `select`).

Where the static form loses too much, products are given back to float one by one (`edgekit.search.ladder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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
from edgekit.backends import EMBEDDINGS, Scheme, load_backend
from edgekit.calibration import AUTO
from edgekit.checkpoint import read_labels
from edgekit.errors import RecipeError
from edgekit.quant.ranges import GIVEN, read_observed, read_ranges
from edgekit.search.ladder import climb, order
from edgekit.search.trials import Subject, Trial, Trials, as_facts, nearest, needed
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages._qat import trained
from edgekit.stages.export import numbers
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

STATIC = (
    Scheme("int8-pair-bounded", "static", "int8", "pairs"),
    Scheme("int8-reduced-range", "static", "int8", "seven-bit"),
    Scheme("uint8-weights", "static", "uint8", None),
)
OTHERS = (
    Scheme("dynamic-int8", "dynamic", "int8", "pairs"),
    Scheme("weight-only-int8", "weight-only", "int8", None),
    Scheme("weight-only-int4", "weight-only", "int4", None),
)
SCHEMES = (*STATIC, *OTHERS)
FAMILIES = ("static", "dynamic", "weight-only")
METHODS = ("minmax", "mse", "mse-weighted", "percentile-99.999", "percentile-99.99")
"""Range methods that "auto" tries. Entropy is not among them: it clips what is rare and large (docs/log.md)."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Makes the integer candidates.

    Attributes:
        scheme: "auto" makes all; or a family, "static", "dynamic" or "weight-only"; or one scheme by its name.
        embedding: form of the word table: "int8", "int8-rows" (a scale for each row) or "int4-blocks".
        correct_bias: whether corrected biases are tried.
        max_loss: points on dev that a form may lose against the float student where that one is beyond the gate's limit
            itself, so that no precision would meet it.
        rows: dev rows that forms are compared on.
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
    VERSION: ClassVar[int] = 4
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
        known = ("auto", *FAMILIES, *(s.name for s in SCHEMES))
        if self.scheme not in known:
            raise ValueError(f"scheme is {self.scheme!r}; known: {', '.join(known)}")
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding is {self.embedding!r}; known: {', '.join(EMBEDDINGS)}")
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")
        if self.max_loss < 0 or self.qat_epochs < 0 or self.qat_rate <= 0:
            raise ValueError("max_loss and qat_epochs must not be negative, qat_rate must be positive")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the candidates' files and what each form measured."""
        method, teacher = inputs[Ranges].facts["method"], self._teacher_score(inputs, ctx)
        schemes = self._schemes(ctx)
        trials = Trials(
            self._subject(inputs, out_dir, ctx),
            lambda trial: ctx.progress(len(trials.done), len(trials.done), trial.name),
        )
        kept: list[Trial] = []
        static = [scheme for scheme in schemes if scheme.family == "static"]
        if static:
            best, *others = self._static(trials, static, METHODS if method == AUTO else (method,))
            kept += [best, *others]
            if self.qat_epochs:
                kept.append(trained(self.qat_epochs, self.qat_rate, inputs, ctx, trials, best, scheme_of(best)))
            enough = needed(teacher, trials.float_score, ctx.target["gate.max_drop"], self.max_loss)
            kept += rungs(trials, best, enough) if best.score < enough else []
        kept += [trials.run(scheme) for scheme in schemes if scheme.family != "static"]
        loadable = self._loadable(kept, ctx)
        trials.keep(loadable)
        facts = {
            "candidates": [trial.file for trial in loadable],
            "trials": as_facts(trials.done),
            "dev_rows": len(trials.subject.rows),
            "float_score": trials.float_score,
            "max_loss": self.max_loss,
            "teacher_score": teacher,
        }
        write_json(out_dir / FACTS, facts)

    def _schemes(self, ctx: Context) -> list[Scheme]:
        """Returns the schemes that the option asks for and the target allows.

        Raises:
            RecipeError: none.
        """
        dtype, static_only = ctx.target["quant"]["weight"]["dtype"], ctx.target["quant"]["scheme"] == "static-qdq"
        wanted = [s for s in SCHEMES if self.scheme in ("auto", s.family, s.name)]
        found = [s for s in wanted if s.family == "static" or not static_only]
        found = [s for s in found if s.family != "static" or dtype in ("auto", s.weight)]
        if not found:
            allows = f"weights of {dtype}" if any(s.family == "static" for s in wanted) else "static quantization only"
            raise RecipeError(f"quantize.scheme is {self.scheme!r}, but the target allows {allows}")
        return found

    def _expected(self, inputs: Inputs, ctx: Context) -> np.ndarray:
        """Returns the classes of the dev rows that forms are compared on."""
        dataset = data.read(inputs[LabelledData].path)
        classes = load_task(ctx.task).align(read_labels(inputs[Teacher].path), dataset.labels)
        return np.array([classes[label] for _, label in dataset.dev[: self.rows]])

    def _teacher_score(self, inputs: Inputs, ctx: Context) -> float:
        expected = self._expected(inputs, ctx)
        logits = np.load(inputs[TeacherOutputs].array("dev", "logits"), mmap_mode="r")[: len(expected)]
        return load_task(ctx.task).metric(np.array(logits), expected)

    def _subject(self, inputs: Inputs, out_dir: Path, ctx: Context) -> Subject:
        vocabulary, ranges, expected = inputs[Vocabulary], inputs[Ranges], self._expected(inputs, ctx)
        tokenizer, task = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), load_task(ctx.task)
        dev = data.read(inputs[LabelledData].path).dev[: self.rows]
        given = ranges.facts["method"] == GIVEN
        return Subject(
            backend=load_backend(ctx.target["runtime.name"]),
            graph=inputs[Graph].model,
            observed={} if given else read_observed(ranges.statistics),
            given=read_ranges(ranges.file) if given else {},
            quant=ctx.target["quant"],
            weight_method=ranges.facts["weight_method"],
            embedding=self.embedding,
            rows=encode(tokenizer, [text for text, _ in dev]),
            pad_id=vocabulary.facts["pad_token_id"],
            score=lambda logits: task.metric(logits, expected),
            folder=out_dir,
        )

    def _loadable(self, trials: Sequence[Trial], ctx: Context) -> list[Trial]:
        """Returns the trials that the target's runtime loads.

        Raises:
            RecipeError: none.
        """
        has = ctx.target["runtime.version"]
        found = [trial for trial in trials if numbers(trial.min_runtime) <= numbers(has)]
        if not found:
            oldest = min((trial.min_runtime for trial in trials), key=numbers)
            raise RecipeError(
                f"quantize.scheme {self.scheme!r} needs {ctx.target['runtime.name']} {oldest}, the target has {has}: "
                "raise 'runtime.version' in its profile if the device has a newer one, or take another scheme"
            )
        return found

    def _static(self, trials: Trials, schemes: Sequence[Scheme], methods: Sequence[str]) -> list[Trial]:
        """Returns the signed form of least logit error over bounds, methods and biases; then the unsigned one.

        They run through other kernels. The signed one is the one to beat: on AVX2 it is faster by a tenth, and a fixed
        order keeps builds from changing places between forms that are equally good.
        """
        found = [trials.run(scheme, methods[0]) for scheme in schemes]
        weights = sorted({scheme.weight for scheme in schemes})  # int8 before uint8
        best, *others = (nearest([t for t in found if scheme_of(t).weight == weight]) for weight in weights)
        forms = [best, *(trials.run(scheme_of(best), method) for method in methods[1:])]
        if self.correct_bias and scheme_of(best).bound is not None and trials.subject.observed:
            forms.append(trials.run(scheme_of(best), nearest(forms).method, corrected=True))
        chosen = nearest(forms)
        return [chosen, *(_of(trials, other, chosen.method) for other in others)]


def _of(trials: Trials, trial: Trial, method: str) -> Trial:
    """Returns the trial of the same scheme with another method; runs it unless that is the trial's own."""
    return trial if trial.method == method else trials.run(scheme_of(trial), method)


def rungs(trials: Trials, best: Trial, enough: float) -> list[Trial]:
    """Gives products of a static form back to float until its score on dev is enough.

    Args:
        trials: gets what is tried.
        best: the form, whose score is not enough.
        enough: score in percent.
    """
    products = trials.subject.backend.products(trials.subject.graph)
    scheme = scheme_of(best)

    def attempt(keep_float: Sequence[str]) -> Trial:
        return trials.run(scheme, best.method, best.corrected, keep_float)

    alone = {name: attempt([name]) for name in products}
    weights = {name: product.weights for name, product in products.items()}
    return climb(attempt, order(best, alone, weights), enough)


def scheme_of(trial: Trial) -> Scheme:
    """Returns the scheme that a trial is of."""
    return next(scheme for scheme in SCHEMES if scheme.name == trial.scheme)
