"""Exports the float teacher from transformers' own code: what the user would run without edgekit.

Every ratio has it as its numerator, so it gets no lean form of ours, which would be another model to explain, and no
handicap either: it runs unpadded, at the same thread count, in the same process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgekit.artifact import FACTS, Teacher, TeacherGraph, write_json
from edgekit.backends import load_backend
from edgekit.checkpoint import load_classifier, position_limit
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.export import check_logits


@dataclass(frozen=True)
class Baseline(Pass):
    """Exports the teacher."""

    NAME: ClassVar[str] = "baseline"
    VERSION: ClassVar[int] = 2
    IN: ClassVar = (Teacher,)
    OUT: ClassVar = TeacherGraph
    READS: ClassVar[tuple[str, ...]] = ("runtime.name",)
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the graph."""
        backend = load_backend(ctx.target["runtime.name"])
        model = load_classifier(inputs[Teacher].path)
        out = TeacherGraph(out_dir, "").model
        positions = position_limit(inputs[Teacher].path)
        backend.export_teacher(model, positions, out)
        check_logits(backend, out, model, positions)
        described = backend.describe(out)
        facts = {
            "architecture": model.config.model_type,
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": out.stat().st_size,
            "nodes": described.nodes,
            "min_runtime": described.min_runtime,
            "pad_token_id": model.config.pad_token_id or 0,
        }
        write_json(out_dir / FACTS, facts)
