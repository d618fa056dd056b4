"""Writes the float student in the target's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgekit.artifact import FACTS, EqualisedStudent, Graph, Vocabulary, write_json
from edgekit.backends import Backend, load_backend
from edgekit.errors import StageContractError, TargetError
from edgekit.inference import run_rows
from edgekit.stage import Context, Inputs, Pass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_TOLERANCE = 1e-3
"""Far above the rounding of float32 (1e-5 on real rows), far below what a wrong graph does to random tokens."""


@dataclass(frozen=True)
class Export(Pass):
    """Exports the student for one row at a time, in its lean form."""

    NAME: ClassVar[str] = "export"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (EqualisedStudent, Vocabulary)
    OUT: ClassVar = Graph
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "runtime.version", "shape.sequence_length")
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the graph and checks that its logits are the student's."""
        from edgekit.ir.encoder import EdgekitForSequenceClassification

        backend = load_backend(ctx.target["runtime.name"])
        model = EdgekitForSequenceClassification.from_pretrained(
            inputs[EqualisedStudent].path, local_files_only=True
        ).eval()
        length = ctx.target["shape.sequence_length"]
        max_length = inputs[Vocabulary].max_length
        out = out_dir / f"model{backend.SUFFIX}"
        backend.export_student(model, length, max_length, out)
        check_logits(backend, out, model, max_length)
        described = backend.describe(out)
        has = ctx.target["runtime.version"]
        if numbers(has) < numbers(described.min_runtime):
            raise TargetError(
                f"the model needs {ctx.target['runtime.name']} {described.min_runtime}, the target has {has}: raise "
                "'runtime.version' in its profile if the device has a newer one"
            )
        facts = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": out.stat().st_size,
            "nodes": described.nodes,
            "opset": described.opset,
            "ir_version": described.ir_version,
            "min_runtime": described.min_runtime,
            "max_length": min(length, max_length) if isinstance(length, int) else max_length,
        }
        write_json(out_dir / FACTS, facts)


def check_logits(backend: Backend, path: Path, model: PreTrainedModel, max_length: int) -> None:
    """Runs a short and a long row through the graph and the model it was exported from.

    Raises:
        StageContractError: their logits differ by more than float rounding.
    """
    random = np.random.Generator(np.random.PCG64(0))
    rows = [random.integers(0, model.config.vocab_size, size=length) for length in (2, min(max_length, 24))]
    pad_id = model.config.pad_token_id or 0
    difference = float(
        np.abs(backend.logits(path, rows, pad_id) - run_rows(model, rows, pad_id, lambda *_: None)).max()
    )
    if difference > LOGITS_TOLERANCE:
        raise StageContractError(
            f"{path.name}: the exported graph's logits differ from the model's by {difference:.2g}"
        )


def numbers(version: str) -> tuple[int, ...]:
    """Returns a release's numbers, to compare releases by."""
    return tuple(int(part) for part in version.split("."))
