"""Holds the artifact's figures against the target's limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from edgekit import manifest, measured
from edgekit.artifact import FACTS, Accuracy, Latency, QuantizedGraph, Verdict, write_json
from edgekit.stage import Context, Inputs, Pass
from edgekit.verdict import judge, limits_of

T = TypeVar("T")


@dataclass(frozen=True)
class Gate(Pass):
    """Judges; a failed check is a verdict, not an error, so that the bundle and its report are there to look at."""

    NAME: ClassVar[str] = "gate"
    VERSION: ClassVar[int] = 1
    IN: ClassVar = (QuantizedGraph, Accuracy, Latency)
    OUT: ClassVar = Verdict
    READS: ClassVar[tuple[str, ...]] = ("budget", "gate")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes gate.json."""
        latency = inputs[Latency].path
        judged = judge(
            limits_of(ctx.target["budget"], ctx.target["gate"]),
            accuracy=read_figure(measured.Accuracy, inputs[Accuracy].path / "accuracy.json"),
            latency=read_figure(measured.Latency, latency / "latency.json"),
            instructions=read_figure(measured.Instructions, latency / "instructions.json"),
            memory=read_figure(measured.Memory, latency / "memory.json"),
            coverage=None,
            model_bytes=inputs[QuantizedGraph].model.stat().st_size,
            unmeasured=json.loads((latency / "unmeasured.json").read_text(encoding="utf-8")),
        )
        write_json(out_dir / "gate.json", manifest.encode(judged))
        write_json(out_dir / FACTS, {"verdict": str(judged.verdict), "checks": len(judged.checks)})


def read_figure(kind: type[T], path: Path) -> T | None:
    """Reads one figure that a measuring stage wrote; None where it was not taken."""
    value = json.loads(path.read_text(encoding="utf-8"))
    return None if value is None else manifest.decode(kind, value)
