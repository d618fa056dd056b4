"""Takes the ranges of the activations that quantization needs, on training rows that a policy draws."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, Graph, LabelledData, Ranges, TeacherOutputs, Vocabulary, file_digest, write_json
from edgekit.backends import Backend, load_backend
from edgekit.calibration import Policy, draw, entropy_of, load_policy, policy_file
from edgekit.errors import DataError, RecipeError, TargetError
from edgekit.quant.findings import Finding, constant_tensors, in_order, unsteady_ranges
from edgekit.quant.range_file import read_range_file
from edgekit.quant.ranges import AUTO, COMPARED, observe, ranges_of, write_observed, write_ranges
from edgekit.source import shown
from edgekit.stage import INTERNAL, Context, Inputs, Pass
from edgekit.stages.teach import answered
from edgekit.target import Target
from edgekit.tokenization import count_longer, encode, load_tokenizer

MANIFEST = "calibration.json"
AHEAD_BYTES = 16 << 20
"""Of tensors that are made ahead of those that are counted."""


@dataclass(frozen=True)
class Calibrate(Pass):
    """Runs the float graph over calibration rows, one at a time and unpadded.

    Attributes:
        policy: a file of `calibration/` by its name, or the user's own by its path (ending in .toml).
        rows: overrides the policy's number of rows; 0 leaves it.
        ranges: a file that `edgekit calibrate --out` wrote for this very graph, taken in place of a pass over rows.
        policy_digest, ranges_digest: of those files, filled in by `resolved`, so that an edited one is another action.
    """

    policy: str = "default"
    rows: int = 0
    ranges: str = ""
    policy_digest: str = dataclasses.field(default="", metadata=INTERNAL)
    ranges_digest: str = dataclasses.field(default="", metadata=INTERNAL)

    NAME: ClassVar[str] = "calibrate"
    VERSION: ClassVar[int] = 8
    IN: ClassVar = (Graph, Vocabulary, LabelledData, TeacherOutputs)
    OUT: ClassVar = Ranges
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "quant.ops")
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ValueError(f"rows is {self.rows}; it must not be negative")
        load_policy(self.policy)
        if self.ranges:
            read_range_file(Path(self.ranges))
            if self.rows or self.policy != Calibrate.policy:
                raise ValueError("ranges are given; rows and policy are for taking them anew")

    def resolved(self, target: Target) -> Calibrate:
        """Returns the stage with the digests of its files, so that an edited file is taken anew."""
        policy, ranges = file_digest(policy_file(self.policy)), ""
        if self.ranges:
            ranges = file_digest(Path(self.ranges))
        return dataclasses.replace(self, policy_digest=policy, ranges_digest=ranges)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the ranges of each method, what they are made of, and calibration.json, which says of which rows."""
        policy = load_policy(self.policy)
        if self.rows:
            policy = dataclasses.replace(policy, rows=self.rows)
        backend = load_backend(ctx.target["runtime.name"])
        if self.ranges:
            self._take(backend, inputs[Graph].model, out_dir, ctx)
            return
        vocabulary, outputs = inputs[Vocabulary], inputs[TeacherOutputs]
        dataset = answered(data.read(inputs[LabelledData].path), outputs)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        teacher = np.load(outputs.array("train", "logits"), mmap_mode="r")
        lengths = [len(row) for row in encode(tokenizer, [text for text, _ in dataset.train])]
        drawn = _drawn(dataset, lengths, teacher, policy)
        texts = [dataset.train[i][0] for i in drawn.rows]
        rows, graph = encode(tokenizer, texts), inputs[Graph].model
        tensors = backend.quantized_tensors(graph, ctx.target["quant.ops"])
        if not tensors:
            raise TargetError(
                f"the model has none of the operators that the target quantizes: {ctx.target['quant.ops']}"
            )
        pad_id = vocabulary.facts["pad_token_id"]

        def counted() -> Iterator[Mapping[str, np.ndarray]]:
            for done, tensor in enumerate(ahead(backend.activations(graph, tensors, rows, pad_id)), 1):
                yield tensor
                ctx.progress(done, len(rows), "rows")

        observed = observe(counted(), backend.input_weights(graph, ctx.target["quant.ops"]))
        made, methods = Ranges(out_dir, ""), COMPARED if policy.method == AUTO else (policy.method,)
        write_observed(made.statistics, observed)
        write_ranges(made.file, {method: ranges_of(observed, method) for method in methods})
        write_json(made.means, {name: one.means.tolist() for name, one in observed.items() if len(one.means)})
        products = backend.products(graph, ctx.target["quant.ops"])
        readers = {product.entering: name for name, product in products.items()}
        cut = count_longer(vocabulary.tokenizer, texts, vocabulary.max_length)
        found = [
            *_findings_of_rows(policy, bool(self.rows), len(rows), cut, vocabulary.max_length),
            *_findings_of_classes(dataset, drawn.rows, lengths, teacher, policy),
            *unsteady_ranges(observed, readers),
            *constant_tensors(observed),
        ]
        facts = {
            "policy": policy.name,
            "method": policy.method,
            "weight_method": policy.weight_method,
            "rows": len(rows),
            "rows_asked": policy.rows,
            "classes": len({dataset.train[i][1] for i in drawn.rows}),
            "length_median": float(np.median([len(row) for row in rows])),
            "length_max": max(len(row) for row in rows),
            "rows_cut": cut,
            "left_out_in_test": drawn.left_out,
            "tensors": len(observed),
            "findings": [dataclasses.asdict(finding) for finding in in_order(found)],
        }
        counts = Counter(len(row) for row in rows)
        of_rows = {
            "train_rows": drawn.rows,
            "row_sha256": [hashlib.sha256(text.strip().encode()).hexdigest() for text in texts],
            "length_histogram": {str(length): counts[length] for length in sorted(counts)},
        }
        write_json(out_dir / MANIFEST, facts | of_rows | {"seed": policy.seed})
        write_json(out_dir / FACTS, facts)

    def _take(self, backend: Backend, graph: Path, out_dir: Path, ctx: Context) -> None:
        """Takes the ranges of a file over."""
        given = read_range_file(Path(self.ranges))
        if given.graph_sha256 != file_digest(graph):
            raise RecipeError(
                f"{self.ranges} holds the ranges of another graph, made with another model, data, target, option, seed "
                "or version; take them anew with `edgekit calibrate`"
            )
        lacking = set(backend.quantized_tensors(graph, ctx.target["quant.ops"])) - set(given.ranges)
        if lacking:
            raise RecipeError(f"{self.ranges} lacks {shown(sorted(lacking))}; take them anew with `edgekit calibrate`")
        for name, weights in backend.input_weights(graph, ctx.target["quant.ops"]).items():
            if len(given.means.get(name, ())) != len(weights):
                raise RecipeError(
                    f"{self.ranges} has {len(given.means.get(name, ()))} means of {name!r}, which has {len(weights)} "
                    "channels; take them anew with `edgekit calibrate`"
                )
        made = Ranges(out_dir, "")
        write_ranges(made.file, given.methods)
        write_json(made.means, given.means)
        facts = {
            "policy": given.policy,
            "method": given.method,
            "weight_method": given.weight_method,
            "rows": given.rows,
            "tensors": len(given.ranges),
            "given_sha256": self.ranges_digest,
            "findings": [dataclasses.asdict(finding) for finding in given.findings],
        }
        write_json(out_dir / MANIFEST, {**given.drawn, **facts})
        write_json(out_dir / FACTS, facts)


@dataclass(frozen=True)
class _Drawn:
    """Rows to calibrate on.

    Attributes:
        rows: indices in the training split.
        left_out: training rows that were not drawn from because test has them too.
    """

    rows: list[int]
    left_out: int


def _usable(dataset: data.Dataset) -> list[int]:
    """Returns the training rows that test does not have."""
    test = {text.strip() for text, _ in dataset.test}
    return [i for i, (text, _) in enumerate(dataset.train) if text.strip() not in test]


def _drawn(dataset: data.Dataset, lengths: Sequence[int], teacher: np.ndarray, policy: Policy) -> _Drawn:
    """Draws rows of train that test does not have: what is gated must not have set the ranges.

    Args:
        dataset: in normal form.
        lengths: tokens of each training row.
        teacher: its logits on train, (rows or more, classes).
        policy: how to draw.

    Raises:
        DataError: there is no such row.
    """
    usable = _usable(dataset)
    if not usable:
        raise DataError(
            "the calibration set is empty: every training row is also a row of test; take those rows out of either"
        )
    classes = [dataset.labels.index(dataset.train[i][1]) for i in usable]
    hardness = entropy_of(np.array(teacher[usable])) if policy.hard_share else None
    chosen = draw([lengths[i] for i in usable], classes, policy, None if hardness is None else hardness.tolist())
    return _Drawn([usable[i] for i in chosen], len(dataset.train) - len(usable))


def _missing(dataset: data.Dataset, rows: Sequence[int]) -> list[str]:
    """Returns the classes that are not among the rows."""
    seen = {dataset.train[i][1] for i in rows}
    return [label for label in dataset.labels if label not in seen]


def _findings_of_classes(
    dataset: data.Dataset, rows: Sequence[int], lengths: Sequence[int], teacher: np.ndarray, policy: Policy
) -> Iterator[Finding]:
    """Yields that a class is not among the rows, and what brings each in: more rows of the policy, or new ones."""
    missing = _missing(dataset, rows)
    if missing:
        usable, cures = _usable(dataset), []
        never = _missing(dataset, usable)
        if len(never) < len(missing):
            more = policy
            while len(never) < len(_missing(dataset, _drawn(dataset, lengths, teacher, more).rows)):
                more = dataclasses.replace(more, rows=2 * more.rows)
            balance = "" if policy.class_balance else ", or fewer by a policy with class_balance"
            cures.append(f"--set calibrate.rows={min(more.rows, len(usable))}{balance}")
        if never:
            cures.append(f"training rows of {shown(never)} that test does not have")
        yield Finding(
            "classes-missing",
            "calibration set",
            f"{len(rows):,} rows have {len(dataset.labels) - len(missing)} of {len(dataset.labels)} classes; "
            f"{shown(missing)} not",
            "what only such rows reach is clipped",
            "; ".join(cures),
        )


def _findings_of_rows(policy: Policy, asked: bool, rows: int, cut: int, max_length: int) -> Iterator[Finding]:
    """Yields what is to be said of the rows themselves."""
    if rows < policy.rows:
        yield Finding(
            "few-rows",
            "calibration set",
            f"{'calibrate.rows' if asked else f'policy {policy.name}'} asks for {policy.rows:,} rows, there are "
            f"{rows:,}: all of them are used",
            "none but that there are no more to take",
            "more training rows",
        )
    if cut == rows:
        yield Finding(
            "all-rows-cut",
            "calibration set",
            f"all {rows:,} rows are longer than {max_length} tokens and were cut there",
            "what follows is not seen, here or on the device",
            "a longer input, with --set trim.max_length=N",
        )


def ahead(rows: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields rows' tensors while the next ones are being made: the runtime runs while what it gave before is counted.

    A few rows at a time: with single ones the two threads would wait for each other, in Python, longer than they work.

    Args:
        rows: tensors of each row, by name; run in another thread, and not past the first fault.

    Raises:
        Exception: what `rows` raises, where its row would have come.
    """
    iterator = iter(rows)

    def some() -> list[Mapping[str, np.ndarray]]:
        made: list[Mapping[str, np.ndarray]] = []
        size = 0
        while size < AHEAD_BYTES and (row := next(iterator, None)) is not None:
            made.append(row)
            size += sum(values.nbytes for values in row.values())
        return made

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(some)
        while ready := waiting.result():
            waiting = pool.submit(some)
            yield from ready
