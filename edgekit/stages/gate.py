"""Holds the artifact's figures against the target's limits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from edgekit import manifest, measured
from edgekit.artifact import FACTS, Accuracy, Floor, Latency, Program, Verdict, write_json
from edgekit.quant.findings import Finding
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.compile import COVERAGE
from edgekit.stages.evaluate import AGREEMENT, ROWS
from edgekit.stages.floor import RIGHT
from edgekit.verdict import judge, limits_of

T = TypeVar("T")


@dataclass(frozen=True)
class Gate(Pass):
    """Judges; a failed check is a verdict, not an error, so that the bundle and its report are there to look at."""

    NAME: ClassVar[str] = "gate"
    VERSION: ClassVar[int] = 4
    IN: ClassVar = (Program, Accuracy, Latency, Floor)
    OUT: ClassVar = Verdict
    READS: ClassVar[tuple[str, ...]] = ("budget", "gate")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes gate.json."""
        latency = inputs[Latency].path
        accuracy = read_figure(measured.Accuracy, inputs[Accuracy].path / "accuracy.json")
        judged = judge(
            limits_of(ctx.target["budget"], ctx.target["gate"]),
            accuracy=accuracy,
            latency=read_figure(measured.Latency, latency / "latency.json"),
            instructions=read_figure(measured.Instructions, latency / "instructions.json"),
            memory=read_figure(measured.Memory, latency / "memory.json"),
            coverage=read_figure(measured.Coverage, inputs[Program].path / COVERAGE),
            agreement=read_figure(measured.Agreement, inputs[Accuracy].path / AGREEMENT),
            model_bytes=inputs[Program].facts["bytes"],
            unmeasured=json.loads((latency / "unmeasured.json").read_text(encoding="utf-8")),
        )
        write_json(out_dir / "gate.json", manifest.encode(judged))
        facts: dict[str, object] = {"verdict": str(judged.verdict), "checks": len(judged.checks)}
        if accuracy is not None:
            rows = np.load(inputs[Accuracy].path / ROWS)
            right = np.load(inputs[Floor].path / RIGHT)[rows]
            found = linear_is_enough(inputs[Floor].facts["model"], right, accuracy, ctx.target["gate"]["max_drop"])
            facts["findings"] = [asdict(finding) for finding in found]
        write_json(out_dir / FACTS, facts)


def linear_is_enough(model: str, right: np.ndarray, accuracy: measured.Accuracy, max_drop: float) -> list[Finding]:
    """Finds that a linear model would pass too.

    Args:
        model: what it is.
        right: which of the rows that the artifact was judged on it answers right, (rows,) of bool.
        accuracy: of the artifact and the teacher.
        max_drop: the gate's limit, in points.
    """
    reached = 100 * float(np.mean(right))
    if reached < accuracy.teacher - max_drop:
        return []
    return [
        Finding(
            "linear-is-enough",
            "task",
            f"a {model} reaches {reached:.2f} % on test, the teacher {accuracy.teacher:.2f} %",
            "a transformer is more than the task needs, as far as this data tells",
            "the linear model, or data that is harder",
        )
    ]


def read_figure(kind: type[T], path: Path) -> T | None:
    """Reads one figure that a measuring stage wrote; None where it was not taken."""
    value = json.loads(path.read_text(encoding="utf-8"))
    return None if value is None else manifest.decode(kind, value)
