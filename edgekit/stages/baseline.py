"""Exports the float teacher from transformers' own code: what the user would run without edgekit.

Every ratio has it as its numerator, so it gets no lean form of ours, which would be another model to explain, and no
handicap either: it runs unpadded, at the same thread count, in the same process. Where the runtime takes fixed lengths
alone it is padded to the longest input, as the student is; where it does not, but the converter leaves no length open,
so is the teacher alone, and a finding says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgekit.artifact import FACTS, Teacher, TeacherGraph, Vocabulary, write_json
from edgekit.backends import load_backend
from edgekit.checkpoint import load_classifier, position_limit
from edgekit.quant.findings import Finding
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.export import check_logits


def padded_teacher(tokens: int) -> Finding:
    """Says that a teacher whose file has one length is compared with a student that is run at any."""
    return Finding(
        "padded-teacher",
        "teacher",
        f"its file takes rows of {tokens} tokens alone, since the converter leaves no length open",
        "ratios to the teacher hold what its padding costs",
        "compare with the teacher of another target, such as arm64",
    )


@dataclass(frozen=True)
class Baseline(Pass):
    """Exports the teacher."""

    NAME: ClassVar[str] = "baseline"
    VERSION: ClassVar[int] = 4
    IN: ClassVar = (Teacher, Vocabulary)
    OUT: ClassVar = TeacherGraph
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "shape.sequence_length")
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the graph."""
        backend = load_backend(ctx.target["runtime.name"])
        model = load_classifier(inputs[Teacher].path)
        out = out_dir / f"teacher{backend.SUFFIX}"
        positions = position_limit(inputs[Teacher].path)
        longest = min(positions, inputs[Vocabulary].max_length) if backend.PADS else positions
        backend.export_teacher(model, longest, out)
        check_logits(backend, out, model, longest)
        described = backend.describe(out)
        facts = {
            "architecture": model.config.model_type,
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": out.stat().st_size,
            "nodes": described.nodes,
            "min_runtime": described.min_runtime,
            "pad_token_id": model.config.pad_token_id or 0,
            "longest": longest,
        }
        if backend.PADS and ctx.target["shape.sequence_length"] == "dynamic":
            facts["findings"] = [dataclasses.asdict(padded_teacher(longest))]
        write_json(out_dir / FACTS, facts)
