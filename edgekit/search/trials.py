"""Integer forms of a graph, made and compared with the float graph on dev rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import Backend, Precision, Scheme
from edgekit.quant.ranges import GIVEN, Observed, Range, ranges_of

NO_METHOD = "none"
"""Range method of schemes that take no ranges."""

SHOWN = 3
"""Products that a name lists."""


@dataclass(frozen=True)
class Trial:
    """One integer form and what it measured on dev.

    Attributes:
        name: for reports.
        family, scheme: see `edgekit.backends.Scheme`.
        method: of the ranges; "none" where activations have none.
        corrected: whether biases are corrected.
        keep_float: products that stay float.
        file: name of the model file in the folder of trials.
        logit_rmse: against the float graph.
        agreement: answers like the float graph's, in percent.
        score: the task's metric on dev, in percent.
        bytes: of the file.
        min_runtime: oldest runtime that loads it.
    """

    name: str
    family: str
    scheme: str
    method: str
    corrected: bool
    keep_float: tuple[str, ...]
    file: str
    logit_rmse: float
    agreement: float
    score: float
    bytes: int
    min_runtime: str


@dataclass(frozen=True)
class Subject:
    """What trials are made of.

    Attributes:
        backend: of the target's runtime.
        graph: the float model file.
        observed: statistics of its activations; empty where the ranges are given.
        given: ranges that the user gave, used for the method of that name.
        quant: the target's section of that name.
        weight_method: of the weights' scales.
        embedding: form of the word table (`edgekit.backends.EMBEDDINGS`).
        rows: dev rows, token ids.
        pad_id: of the tokenizer.
        score: the task's metric of logits on these rows.
        folder: where files are written.
    """

    backend: Backend
    graph: Path
    observed: Mapping[str, Observed]
    given: Mapping[str, Range]
    quant: Mapping[str, Any]
    weight_method: str
    embedding: str
    rows: Sequence[np.ndarray]
    pad_id: int
    score: Callable[[np.ndarray], float]
    folder: Path


class Trials:
    """Makes integer forms one by one, each once."""

    def __init__(self, subject: Subject, made: Callable[[Trial], None]) -> None:
        self.subject, self._made = subject, made
        self._ranges: dict[str, Mapping[str, Range]] = {NO_METHOD: {}, GIVEN: subject.given}
        self.expected = subject.backend.logits(subject.graph, subject.rows, subject.pad_id)
        self.float_score = subject.score(self.expected)
        self.done: list[Trial] = []

    def run(
        self,
        scheme: Scheme,
        method: str = NO_METHOD,
        corrected: bool = False,
        keep_float: Sequence[str] = (),
        graph: Path | None = None,
        label: str = "",
    ) -> Trial:
        """Writes one form and measures it on dev.

        Args:
            scheme: how weights and activations become integers.
            method: of the ranges, one of `edgekit.quant.ranges.NAMES`; only a static scheme has one.
            corrected: whether biases are corrected by what the weights' rounding adds on average.
            keep_float: products that stay float.
            graph: another graph of the same tensors, in place of the subject's.
            label: for the name, what is special about that.
        """
        subject = self.subject
        ranges = self.ranges(method)
        parts = [scheme.name, "" if method == NO_METHOD else method, "biases corrected" if corrected else "", label]
        parts.append(f"float: {listed(keep_float)}" if keep_float else "")
        name = ", ".join(part for part in parts if part)
        path = subject.folder / f"{len(self.done):03}-{scheme.name}.onnx"
        means = {n: o.means for n, o in subject.observed.items() if len(o.means)} if corrected else {}
        precision = Precision(frozenset(keep_float), means, subject.weight_method, subject.embedding)
        subject.backend.quantize(graph or subject.graph, ranges, subject.quant, scheme, precision, path)
        logits = subject.backend.logits(path, subject.rows, subject.pad_id)
        trial = Trial(
            name=name,
            family=scheme.family,
            scheme=scheme.name,
            method=method,
            corrected=corrected,
            keep_float=tuple(keep_float),
            file=path.name,
            logit_rmse=float(np.sqrt(np.mean((logits - self.expected) ** 2))),
            agreement=float(np.mean(logits.argmax(-1) == self.expected.argmax(-1)) * 100),
            score=subject.score(logits),
            bytes=path.stat().st_size,
            min_runtime=subject.backend.describe(path).min_runtime,
        )
        self.done.append(trial)
        self._made(trial)
        return trial

    def ranges(self, method: str) -> Mapping[str, Range]:
        """Returns the ranges that a method makes, by tensor."""
        if method not in self._ranges:
            self._ranges[method] = ranges_of(self.subject.observed, method)
        return self._ranges[method]

    def keep(self, trials: Sequence[Trial]) -> None:
        """Removes the files of all other trials."""
        kept = {trial.file for trial in trials}
        for trial in self.done:
            if trial.file not in kept:
                (self.subject.folder / trial.file).unlink(missing_ok=True)


def listed(products: Sequence[str]) -> str:
    """Returns the names of a few products, and how many more there are."""
    shown = ", ".join(spoken(name) for name in products[:SHOWN])
    return shown + (f" and {len(products) - SHOWN} more" if len(products) > SHOWN else "")


def spoken(product: str) -> str:
    """Returns a product's name in words, such as "layer 3 FFN up" (layers counted from 0)."""
    words = {"qkv": "query, key and value", "output": "attention output", "up": "FFN up", "down": "FFN down"}
    parts = product.split(".")
    if parts[0] == "layers" and len(parts) == 3:
        return f"layer {parts[1]} {words.get(parts[2], parts[2])}"
    return " ".join(parts)


def nearest(trials: Sequence[Trial]) -> Trial:
    """Returns the trial whose logits are nearest the float graph's; of equals the first by name."""
    return min(trials, key=lambda trial: (trial.logit_rmse, trial.name))


def needed(teacher: float, floats: float, max_drop: float, max_loss: float) -> float:
    """Returns the score on dev from which an integer form passes.

    Where the float model itself is beyond the limit no precision would meet it: then its own score counts.

    Args:
        teacher, floats: scores of the teacher and of the float student on the same rows, in percent.
        max_drop: the gate's limit against the teacher, in points.
        max_loss: points that may be lost against the float student in that case.
    """
    least = teacher - max_drop
    return least if floats >= least else floats - max_loss


def as_facts(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Returns trials as JSON values."""
    return [dataclasses.asdict(trial) for trial in trials]


def from_facts(facts: Sequence[Mapping[str, Any]]) -> list[Trial]:
    """Returns the trials that `as_facts` wrote."""
    return [Trial(**{**one, "keep_float": tuple(one["keep_float"])}) for one in facts]
