"""Takes the ranges of the activations that quantization needs, on training rows that a policy draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, Graph, LabelledData, Ranges, Vocabulary, file_digest, write_json
from edgekit.backends import load_backend
from edgekit.calibration import AUTO, draw, load_policy, policy_file
from edgekit.errors import TargetError
from edgekit.quant.ranges import observe, ranges_of, write_observed, write_ranges
from edgekit.stage import Context, Inputs, Pass
from edgekit.target import Target
from edgekit.tokenization import encode, load_tokenizer


@dataclass(frozen=True)
class Calibrate(Pass):
    """Runs the float graph over calibration rows, one at a time and unpadded.

    Attributes:
        policy: a file of `calibration/` by its name, or the user's own by its path (ending in .toml).
        rows: overrides the policy's number of rows; 0 leaves it.
        policy_digest: of the policy's file, filled in by `resolved`, so that an edited policy is another action.
    """

    policy: str = "default"
    rows: int = 0
    policy_digest: str = ""

    NAME: ClassVar[str] = "calibrate"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Graph, Vocabulary, LabelledData)
    OUT: ClassVar = Ranges
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "quant.ops")
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ValueError(f"rows is {self.rows}; it must not be negative")
        load_policy(self.policy)

    def resolved(self, target: Target) -> Calibrate:
        """Returns the stage with the digest of its policy's file."""
        return dataclasses.replace(self, policy_digest=file_digest(policy_file(self.policy)))

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes ranges.json and which rows they are from."""
        policy = load_policy(self.policy)
        if self.rows:
            policy = dataclasses.replace(policy, rows=self.rows)
        backend = load_backend(ctx.target["runtime.name"])
        vocabulary, dataset = inputs[Vocabulary], data.read(inputs[LabelledData].path)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        encoded = encode(tokenizer, [text for text, _ in dataset.train])
        classes = [dataset.labels.index(label) for _, label in dataset.train]
        chosen = draw([len(row) for row in encoded], classes, policy)
        graph = inputs[Graph].model
        tensors = backend.quantized_tensors(graph, ctx.target["quant.ops"])
        if not tensors:
            raise TargetError(
                f"the model has none of the operators that the target quantizes: {ctx.target['quant.ops']}"
            )
        pad_id = vocabulary.facts["pad_token_id"]

        def counted() -> Iterator[dict[str, np.ndarray]]:
            rows = [encoded[i] for i in chosen]
            for done, tensor in enumerate(backend.activations(graph, tensors, rows, pad_id), 1):
                yield tensor
                ctx.progress(done, len(chosen), "rows")

        observed = observe(counted())
        ranges = ranges_of(observed, "minmax" if policy.method == AUTO else policy.method)
        write_observed(out_dir / "statistics.npz", observed)
        write_ranges(out_dir / "ranges.json", ranges)
        lengths = [len(encoded[i]) for i in chosen]
        facts = {
            "policy": policy.name,
            "method": policy.method,
            "rows": len(chosen),
            "rows_asked": policy.rows,
            "classes": len({classes[i] for i in chosen}),
            "length_median": float(np.median(lengths)),
            "length_max": max(lengths),
            "tensors": len(ranges),
            "train_rows": chosen,
        }
        write_json(out_dir / FACTS, facts)
