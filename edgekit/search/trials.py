"""Integer forms of a graph, made and compared with the float graph on dev rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import Backend, Precision, Scheme
from edgekit.quant.ranges import Range

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
        ranges: of its activations, by method and tensor.
        means: of tensors that enter products, each channel's mean.
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
    ranges: Mapping[str, Mapping[str, Range]]
    means: Mapping[str, np.ndarray]
    quant: Mapping[str, Any]
    weight_method: str
    embedding: str
    rows: Sequence[np.ndarray]
    pad_id: int
    score: Callable[[np.ndarray], float]
    folder: Path


class Trials:
    """Makes integer forms one by one and measures each once; files that are not wanted need not stay."""

    def __init__(self, subject: Subject, made: Callable[[Trial], None]) -> None:
        self.subject, self._made = subject, made
        self.expected = subject.backend.logits(subject.graph, subject.rows, subject.pad_id)
        self.float_score = subject.score(self.expected)
        self._done: dict[tuple[Any, ...], Trial] = {}

    @property
    def done(self) -> list[Trial]:
        """What was measured so far, in order."""
        return list(self._done.values())

    def run(
        self,
        scheme: Scheme,
        method: str = NO_METHOD,
        corrected: bool = False,
        keep_float: Sequence[str] = (),
        graph: Path | None = None,
        weight_method: str = "",
        label: str = "",
    ) -> Trial:
        """Writes one form, and measures it on dev unless that was done.

        Args:
            scheme: how weights and activations become integers.
            method: of the ranges, one of the subject's; only a static scheme has one.
            corrected: whether biases are corrected by what the weights' rounding adds on average.
            keep_float: products that stay float.
            graph: another graph of the same tensors, in place of the subject's.
            weight_method: of the weights' scales, in place of the subject's.
            label: for the name, what is special about those.

        Raises:
            OSError: the file cannot be written.
        """
        subject, keep_float = self.subject, tuple(keep_float)
        key = (scheme, method, corrected, keep_float, weight_method, label)
        known = self._done.get(key)
        path = subject.folder / (known.file if known else f"{len(self._done):03}-{scheme.name}{subject.backend.SUFFIX}")
        if known and path.exists():
            return known
        subject.backend.quantize(
            graph or subject.graph,
            {} if method == NO_METHOD else subject.ranges[method],
            subject.quant,
            scheme,
            Precision(
                frozenset(keep_float),
                subject.means if corrected else {},
                weight_method or subject.weight_method,
                subject.embedding,
            ),
            path,
        )
        if known:
            return known
        logits = subject.backend.logits(path, subject.rows, subject.pad_id)
        parts = [scheme.name, "" if method == NO_METHOD else method, "biases corrected" if corrected else "", label]
        parts.append(f"float: {listed(keep_float)}" if keep_float else "")
        trial = Trial(
            name=", ".join(part for part in parts if part),
            family=scheme.family,
            scheme=scheme.name,
            method=method,
            corrected=corrected,
            keep_float=keep_float,
            file=path.name,
            logit_rmse=float(np.sqrt(np.mean((logits - self.expected) ** 2))),
            agreement=float(np.mean(logits.argmax(-1) == self.expected.argmax(-1)) * 100),
            score=subject.score(logits),
            bytes=path.stat().st_size,
            min_runtime=subject.backend.describe(path).min_runtime,
        )
        self._done[key] = trial
        self._made(trial)
        return trial

    def drop(self, trial: Trial) -> None:
        """Removes a trial's file; `run` writes it again where it is wanted after all."""
        (self.subject.folder / trial.file).unlink(missing_ok=True)

    def keep(self, trials: Sequence[Trial]) -> None:
        """Removes the files of all other trials."""
        kept = {trial.file for trial in trials}
        for trial in self.done:
            if trial.file not in kept:
                self.drop(trial)


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
