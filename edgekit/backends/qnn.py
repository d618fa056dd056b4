"""ONNX for Qualcomm's HTP, the NPU of Snapdragon phones: contexts made ahead of time, and the file that a CPU runs.

The student is exported with its length dynamic and the mask as an input, so that one Q/DQ file serves every length: a
CPU runs it as it is, as the reference, and the compiler (`_qnn_compile`) is given it with the length fixed. All
operators are integers there (`_qnn_quantize`). Apps load a context by ONNX Runtime's QNN provider.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import Compiled, Request, Scheme, lacking
from edgekit.backends import onnxruntime as plain
from edgekit.backends._onnx_selftest import write as self_test
from edgekit.backends._onnx_versions import oldest_of
from edgekit.backends._qnn_compile import Context, compile_context, soc_of
from edgekit.backends._qnn_quantize import OPS, OPSET_OF_16_BITS, quantize, quantized_tensors
from edgekit.backends.onnxruntime import activations, describe, export_teacher, input_weights, logits, products
from edgekit.errors import TargetError
from edgekit.ir.buckets import choose
from edgekit.provenance import Provenance

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.measured import Coverage
    from edgekit.quant.findings import Finding

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-qnn")
SUFFIX = ".onnx"
CARRIES_WORDS = False
KEEPS_FLOAT = False
EMBEDDINGS = ("int8",)
PADS = False
RUNS_ON = "onnxruntime"
PACKAGE = "onnxruntime_qnn"
ACCELERATOR, DELEGATE = "hexagon-htp", "QNN HTP"
SCHEMES = (
    # HTP has no pairs to overflow, but the x86 CPUs have that run the same file as its reference.
    Scheme("htp-uint8-activations", "static", "int8", "pairs", "uint8"),
    Scheme("htp-uint16-activations", "static", "int8", "full", "uint16"),
)
OF_CPUS = ("float-operator", "saturation")
"""Checks of the lint that hold for CPU kernels: HTP has integers for the first, and nothing that saturates."""
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


def missing() -> str | None:
    """Says that Qualcomm's compiler is missing, or None."""
    found = lacking({PACKAGE: "onnxruntime-qnn"}, "qnn")
    return found and f"{found} on x86-64 Linux"


def oldest(scheme: Scheme) -> str:
    """Returns the oldest ONNX Runtime that loads a scheme's portable file."""
    return oldest_of(OPSET_OF_16_BITS) if scheme.activation == "uint16" else plain.oldest(scheme)


def estimates() -> str:
    """Names no compiler: nothing estimates cycles here."""
    return ""


def check(device: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    """Refuses another accelerator, chips that are not known, none, and lengths that are open.

    Raises:
        TargetError: with what is known.
    """
    if device["accelerator"] != ACCELERATOR:
        raise TargetError(f"'device.accelerator' is {device['accelerator']!r}; this runtime is for {ACCELERATOR!r}")
    if not device["socs"]:
        raise TargetError("'device.socs' is empty; name the chips to compile for, such as SM8650")
    for soc in device["socs"]:
        soc_of(soc)
    if shape["sequence_length"] == "dynamic":
        raise TargetError("'shape.sequence_length' is dynamic, but HTP has fixed lengths: \"buckets\", or a number")


def export_student(model: EdgekitForSequenceClassification, length: int | str, max_length: int, out: Path) -> None:
    """Writes the lean form with the mask, of any length: which ones are compiled is chosen later, by the data."""
    plain.export_masked(model, max_length, out)


def findings(graph: Path, arch: str, isa: Sequence[str], ops: Sequence[str]) -> list[Finding]:
    """Lints a model file, but for what only CPU kernels mind."""
    return [one for one in plain.findings(graph, arch, isa, ops) if one.check not in OF_CPUS]


def compile(graph: Path, request: Request, out: Path) -> Compiled:
    """Writes a context for each chip and input length, and the graph itself as the portable file.

    Raises:
        TargetError: as `check`, or the compiler is missing or refuses the graph.
    """
    if (lacks := missing()) is not None:
        raise TargetError(lacks)
    check(request.device, request.shape)
    socs, lengths = list(request.device["socs"]), _lengths(request)
    made: dict[tuple[str, int], Context] = {}
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=out) as name:
        for soc in socs:
            (Path(name) / soc).mkdir()
            for length in lengths:
                made[soc, length] = compile_context(
                    graph, length, soc, Path(name) / soc / f"{graph.stem}-{length}{SUFFIX}"
                )
        for soc in socs:
            os.replace(Path(name) / soc, out / soc)
    shutil.copyfile(graph, out / graph.name)
    files = {length: f"{socs[0]}/{graph.stem}-{length}{SUFFIX}" for length in lengths}
    worst = min(made.values(), key=lambda one: one.delegated - one.nodes)
    return Compiled(
        model=files[lengths[-1]],
        bytes=max(sum(file.stat().st_size for file in (out / soc).iterdir()) for soc in socs),
        lengths=lengths,
        files=files,
        portable=graph.name,
        coverage=_coverage(worst, socs),
        findings=worst.findings,
    )


def _lengths(request: Request) -> tuple[int, ...]:
    length = request.shape["sequence_length"]
    if length == "buckets":
        return choose(request.lengths, request.max_length, request.shape["buckets"])
    return (int(length),)


def _coverage(context: Context, socs: Sequence[str]) -> Coverage:
    """Returns what the compiler took, of several contexts the one of which it took the least."""
    from importlib.metadata import version

    from edgekit.measured import Coverage

    return Coverage(
        DELEGATE,
        context.nodes,
        context.delegated,
        context.fallback,
        # Not an estimate: what the compiler wrote is what the chips run.
        Provenance.SIMULATED,
        f"operators in the contexts that onnxruntime-qnn {version('onnxruntime-qnn')} wrote for {', '.join(socs)}",
    )
