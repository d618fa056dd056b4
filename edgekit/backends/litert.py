"""LiteRT for phones and boards: export by litert-torch, integers by ai-edge-quantizer, runs on this machine.

What stages compare gives logits. What ships gives probabilities, because MediaPipe's text classifier takes what it
reads for scores: `compile` adds the softmax, in float, so that integers do not round it to 256 steps, and the metadata
by which the classifier works from raw text. From an output named "probabilities" whoever wants logits takes their
logarithm: each row's logits less a constant, which changes no answer and no difference between classes. `logits` does
so here, `edgekit.devices.runner_litert` on a device; golden rows, `edgekit verify` and evaluation read either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import Compiled, Description, Request, Scheme, Tensor, check_no_accelerator, lacking
from edgekit.backends import _litert_file as file
from edgekit.backends._litert_export import export_student, export_teacher
from edgekit.backends._litert_metadata import accents_kept, finding_of, packed
from edgekit.backends._litert_quantize import OPS, input_weights, products, quantize, quantized_tensors
from edgekit.backends._litert_run import PROBABILITIES, activations, logits
from edgekit.backends._litert_selftest import write as self_test
from edgekit.errors import ModelError
from edgekit.quant.findings import Finding

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

TOOLS = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")
PACKAGES = {
    "litert_torch": "litert-torch",
    "ai_edge_quantizer": "ai-edge-quantizer",
    "ai_edge_litert": "ai-edge-litert",
}
"""By the modules that they bring."""

SUFFIX = ".tflite"
EMBEDDINGS = ("int8",)
CARRIES_WORDS = True
KEEPS_FLOAT = True
PADS = True
RUNS_ON = "litert"
SCHEMES = (
    Scheme("litert-dynamic-int8", "dynamic", "int8", "full"),
    Scheme("litert-static-int8", "static", "int8", "full", "int8"),
)
"""A static product gives integers too, of one scale for all channels; a dynamic one floats, in about the same time."""

OLDEST = "2.3"
"""The release that edgekit's files were run by; whether an older one loads them nobody has tried."""

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
    """Says which of the converter, the quantizer and the runtime is not installed."""
    return lacking(PACKAGES, "litert")


def oldest(scheme: Scheme) -> str:
    """Returns the oldest release that loads a scheme's files: one for all."""
    return OLDEST


def estimates() -> str:
    """Names no compiler: nothing estimates cycles here."""
    return ""


def check(device: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    """Refuses an accelerator; files are for any CPU and length.

    Raises:
        TargetError: there is one.
    """
    check_no_accelerator(device, RUNS_ON)


def compile(graph: Path, request: Request, out: Path) -> Compiled:
    """Writes the graph with probabilities for logits, and what MediaPipe's text classifier needs to know of it.

    Raises:
        ModelError: the graph is no .tflite file.
        TargetError: it has operators that LiteRT lacks, which are named.
    """
    model = file.read(graph)
    _give_probabilities(model)
    finding = finding_of(request.tokenizer, request.labels)
    written = out / graph.name
    if finding is None:
        written.write_bytes(packed(model, request.tokenizer, request.labels))
        finding = accents_kept(request.tokenizer, request.texts)
    else:
        file.write(model, written)
    return Compiled(
        written.name,
        written.stat().st_size,
        () if length_of(model) < 0 else (length_of(model),),
        findings=() if finding is None else (finding,),
    )


def length_of(model: ModelT) -> int:
    """Returns the tokens that a graph's input has; -1 where rows are run as long as they are."""
    graph = model.subgraphs[0]
    return file.shape_of(graph.tensors[graph.inputs[0]])[1]


def _give_probabilities(model: ModelT) -> None:
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    (given,) = graph.outputs
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    shape = file.shape_of(graph.tensors[given])
    place = file.added_tensor(model, PROBABILITIES, schema.TensorType.FLOAT32, shape)
    file.added_operator(model, "SOFTMAX", [int(given)], place, options)
    graph.outputs = [place]
    (entry,) = model.signatureDefs[0].outputs
    entry.name, entry.tensorIndex = PROBABILITIES.encode(), place


def findings(graph: Path, arch: str, isa: Sequence[str], ops: Sequence[str]) -> list[Finding]:
    """Finds whether rows are filled up to one length, which LiteRT need not.

    Raises:
        ModelError: the file cannot be read.
    """
    length = length_of(file.read(graph))
    if length < 0:
        return []
    return [
        Finding(
            "fixed-length",
            "input",
            f"rows are filled up to {length} tokens",
            "a short one takes as long as the longest",
            'sequence_length = "dynamic" in the [shape] of the target\'s profile',
        )
    ]


def describe(graph: Path) -> Description:
    """Reads a model file's interface.

    Raises:
        ModelError: the file is no .tflite file of one signature.
    """
    model = file.read(graph)
    if len(model.signatureDefs or ()) != 1:
        raise ModelError(f"{graph} has {len(model.signatureDefs or ())} signatures, expected one")
    tensors, (signature,) = model.subgraphs[0].tensors, model.signatureDefs
    names = {entry.tensorIndex: entry.name for entry in (*signature.inputs, *signature.outputs)}

    def tensor(place: int) -> Tensor:
        name = names[place]
        one = tensors[place]
        shape = tuple("sequence" if size < 0 else size for size in file.shape_of(one))
        return Tensor(name.decode() if isinstance(name, bytes) else name, file.dtype_of(one), shape)

    return Description(
        format="tflite",
        inputs=tuple(tensor(int(place)) for place in model.subgraphs[0].inputs),
        outputs=tuple(tensor(int(place)) for place in model.subgraphs[0].outputs),
        opset=int(model.version),
        ir_version=int(model.version),
        min_runtime=OLDEST,
        nodes=len(model.subgraphs[0].operators),
    )
