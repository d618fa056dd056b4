"""Arm's Ethos-U NPUs: LiteRT's files in integers throughout, compiled ahead of time by vela.

The NPU has no floats, so words and biases are gathered from integer tables and logits come out as integers with a
scale; the rest is LiteRT's. vela replaces what the NPU runs by one operator of the driver's own and leaves everything
else to the CPU, with a reason: that is the coverage. Its cycles are an estimate by its model of the memory; the same
file in LiteRT's operators is kept beside the program, and answers for it on a CPU.

What vela prints as operators of the CPU is not that: it counts gathers so (5.2.0), which are transfers by index in the
NPU's own program. So the program itself is read.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import Compiled, Request, Scheme, lacking, litert
from edgekit.backends import _litert_export as export
from edgekit.backends import _litert_file as file
from edgekit.backends._litert_quantize import LOOKUP, SECOND_PRODUCTS, Floatless
from edgekit.backends._litert_quantize import quantize as _quantize
from edgekit.backends.litert import (
    PADS,
    RUNS_ON,
    SUFFIX,
    activations,
    describe,
    export_teacher,
    input_weights,
    logits,
    oldest,
    products,
    quantized_tensors,
    self_test,
)
from edgekit.errors import TargetError, suggestion
from edgekit.ir.form import Form
from edgekit.measured import Coverage, Cycles
from edgekit.provenance import Provenance
from edgekit.quant.findings import Finding

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification

TOOLS = (*litert.TOOLS, "ethos-u-vela")
OPS = tuple(op for op in litert.OPS if op != LOOKUP)
EMBEDDINGS = ("int8",)
CARRIES_WORDS = False
KEEPS_FLOAT = False
SCHEMES = (Scheme("ethosu-static-int8", "static", "int8", "full", "int8"),)
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
"""As vela names them: the family, and the products that it adds a cycle."""

DRIVER = "custom ethos-u"
"""The operator that stands for what the NPU runs."""

KIB = 1024
FORM = Form(gather=export.gathered, gathered_words=True, gathered_bias=True, spelled_norms=True)

__all__ = [
    "CARRIES_WORDS",
    "EMBEDDINGS",
    "KEEPS_FLOAT",
    "OPS",
    "PADS",
    "RUNS_ON",
    "SCHEMES",
    "SUFFIX",
    "TOOLS",
    "activations",
    "check",
    "compile",
    "describe",
    "estimates",
    "export_student",
    "export_teacher",
    "findings",
    "input_weights",
    "logits",
    "missing",
    "oldest",
    "products",
    "quantize",
    "quantized_tensors",
    "self_test",
]

FORM_OF_INTEGERS = Floatless(frozenset({"ADD", "SUB", "MUL", "MEAN", "RSQRT"}), SECOND_PRODUCTS)
"""Layer norms and residual sums of eight bits would be most of the error: one channel of twenty times the others leaves
them three bits, and its square takes all of them (docs/log.md). That channel comes from an FFN's second product."""

quantize = partial(_quantize, floatless=FORM_OF_INTEGERS)


def missing() -> str | None:
    """Says which of LiteRT's packages and vela is not installed."""
    return lacking({**litert.PACKAGES, "ethosu": "ethos-u-vela"}, "ethosu")


def findings(graph: Path, arch: str, isa: Sequence[str], ops: Sequence[str]) -> list[Finding]:
    """Finds nothing in a file that can be read: what is left to the CPU, `compile` says.

    Raises:
        ModelError: it cannot be read.
    """
    file.read(graph)
    return []


def export_student(model: EdgekitForSequenceClassification, length: int | str, max_length: int, out: Path) -> None:
    """Writes the lean form of the student without anything that needs a float; see `edgekit.ir.form`."""
    export.export_student(model, "buckets" if length == "dynamic" else length, max_length, out, FORM)


def estimates() -> str:
    """Names vela, which estimates cycles by its model of the NPU."""
    return f"ethos-u-vela {metadata.version('ethos-u-vela')}"


def check(device: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    """Refuses an accelerator that vela does not know, and lengths that are open.

    Raises:
        TargetError: with those that it knows.
    """
    if device["accelerator"] not in ACCELERATORS:
        known = suggestion(str(device["accelerator"]), ACCELERATORS)
        raise TargetError(f"'device.accelerator' is {device['accelerator']!r}, which vela does not know{known}")
    if shape["sequence_length"] == "dynamic":
        raise TargetError("'shape.sequence_length' is dynamic, but Ethos-U has fixed lengths: \"buckets\", or a number")


def compile(graph: Path, request: Request, out: Path) -> Compiled:
    """Writes vela's program and, beside it, the graph itself for a CPU.

    Raises:
        TargetError: as `check`, or vela refuses the graph.
    """
    check(request.device, request.shape)
    accelerator = str(request.device["accelerator"])
    model = file.read(graph)
    portable, program = out / graph.name, out / f"{graph.stem}_vela{SUFFIX}"
    with tempfile.TemporaryDirectory() as made:
        said = _vela(graph, accelerator, Path(made))
        shutil.copyfile(Path(made) / program.name, program)
        (summary,) = Path(made).glob("*_summary_*.csv")
        with summary.open(encoding="utf-8", newline="") as rows:
            (figures,) = csv.DictReader(rows)
    shutil.copyfile(graph, portable)
    return Compiled(
        program.name,
        program.stat().st_size,
        (litert.length_of(model),),
        portable=portable.name,
        coverage=_coverage(graph, program, said, accelerator),
        cycles=_cycles(figures, accelerator),
    )


def _vela(graph: Path, accelerator: str, out: Path) -> str:
    """Runs vela in a process of its own; returns what it says.

    Raises:
        TargetError: it fails.
    """
    command = [sys.executable, "-m", "ethosu.vela", "--accelerator-config", accelerator, "--show-cpu-operations"]
    command += ["--output-dir", str(out), str(graph.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    said = done.stdout + done.stderr
    if done.returncode or not list(out.glob(f"*{SUFFIX}")):
        lines = [line for line in said.splitlines() if line.strip()] or ["it says nothing"]
        raise TargetError(f"vela cannot compile {graph.name} for {accelerator}: {lines[-1].strip()}")
    return said


def _coverage(graph: Path, program: Path, said: str, accelerator: str) -> Coverage:
    """Returns what of a graph's operators is left in vela's program, and why."""
    before, after = ([op for op, _ in file.operators(file.read(path))] for path in (graph, program))
    left = Counter(op for op in after if op != DRIVER)
    reasons = _reasons(said)
    fallback = [f"{op} ({count}): {reasons.get(op, 'vela gives no reason')}" for op, count in sorted(left.items())]
    nodes = len(before)
    return Coverage(
        delegate=accelerator,
        nodes=nodes,
        delegated=max(nodes - left.total(), 0),
        fallback=tuple(fallback),
        provenance=Provenance.SIMULATED,  # the target's own program says it, whatever its cycles will be
        reason=f"operators outside the NPU's program, as vela {metadata.version('ethos-u-vela')} made it",
    )


def _reasons(said: str) -> dict[str, str]:
    """Returns the reason of each kind of operator that vela leaves to the CPU, as it says them."""
    found: dict[str, str] = {}
    for op, reason in re.findall(r"operator: (\w+), ofm: [^\n]*\nReason: ([^\n]*)", said):
        found.setdefault(op, re.sub(r"\s*\([^()]*\)$", "", reason))
    return found


def _cycles(figures: Mapping[str, Any], accelerator: str) -> Cycles:
    memory = f"{figures['system_config']}, {figures['memory_mode']}"
    return Cycles(
        per_inference=round(float(figures["cycles_total"])),
        clock_hz=round(float(figures["core_clock"])),
        sram_bytes=round(float(figures["sram_memory_used"]) * KIB),
        dram_bytes=round(float(figures["dram_memory_used"]) * KIB),
        device=accelerator,
        provenance=Provenance.ESTIMATED,
        reason=f"vela {metadata.version('ethos-u-vela')} by its model of {memory}",
    )
