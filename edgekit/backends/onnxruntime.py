"""ONNX for ONNX Runtime on CPUs: export, quantization (`_onnx_quantize`), lint, and runs on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.backends import EMBEDDINGS, Compiled, Description, Request, Tensor, check_no_accelerator
from edgekit.backends._onnx_lint import findings
from edgekit.backends._onnx_quantize import OPS, PRODUCTS, outputs_axis, products, quantize
from edgekit.backends._onnx_schemes import SCHEMES
from edgekit.backends._onnx_selftest import write as self_test
from edgekit.backends._onnx_versions import IR_OF_OPSET, OPSET, oldest, oldest_runtime, opset_of
from edgekit.errors import StageContractError, TargetError

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from transformers import PreTrainedModel

    from edgekit.ir.encoder import EdgekitForSequenceClassification

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")
SUFFIX = ".onnx"
CARRIES_WORDS = False
KEEPS_FLOAT = True
PADS = False
RUNS_ON = "onnxruntime"
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
    """Says that nothing is missing: what the backend needs comes with edgekit."""


def estimates() -> str:
    """Names no compiler: nothing estimates cycles here."""
    return ""


def check(device: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    """Refuses an accelerator, and input lengths by the data: rows are run as long as they are.

    Raises:
        TargetError: with what to give instead.
    """
    check_no_accelerator(device, RUNS_ON)
    if shape["sequence_length"] == "buckets":
        raise TargetError("'shape.sequence_length' is buckets, but onnxruntime takes \"dynamic\", or a number")


def compile(graph: Path, request: Request, out: Path) -> Compiled:
    """Copies the graph: the runtime compiles it when it loads."""
    shutil.copyfile(graph, out / graph.name)
    fixed = request.shape["sequence_length"]
    return Compiled(graph.name, graph.stat().st_size, () if fixed == "dynamic" else (int(fixed),))


def export_student(model: EdgekitForSequenceClassification, length: int | str, max_length: int, out: Path) -> None:
    """Writes the lean form of the student; see `edgekit.ir.lean`."""
    import torch

    from edgekit.ir.lean import LeanClassifier

    lean = LeanClassifier(model, max_length).eval()
    if length == "dynamic":
        sequence = torch.export.Dim("sequence", min=2, max=max_length)
        _export(lean, (torch.zeros(1, 7, dtype=torch.int64),), ["input_ids"], {"input_ids": {1: sequence}}, out)
    else:
        row = torch.zeros(1, int(length), dtype=torch.int64)
        _export(lean, (row, torch.ones_like(row)), ["input_ids", "attention_mask"], None, out)


def export_masked(model: EdgekitForSequenceClassification, max_length: int, out: Path) -> None:
    """Writes the lean form of any length with the mask: what becomes a graph of one length later."""
    import torch

    from edgekit.ir.lean import LeanClassifier

    sequence = torch.export.Dim("sequence", min=2, max=max_length)
    row = torch.zeros(1, 7, dtype=torch.int64)
    shapes = {name: {1: sequence} for name in ("input_ids", "attention_mask")}
    _export(LeanClassifier(model, max_length).eval(), (row, torch.ones_like(row)), list(shapes), shapes, out)


def export_teacher(model: PreTrainedModel, max_length: int, out: Path) -> None:
    """Writes the teacher as transformers' own code exports, with batch and length dynamic and the mask as an input."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits

    batch, sequence = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("sequence", min=2, max=max_length)
    example = torch.ones(2, 7, dtype=torch.int64)
    shapes = {name: {0: batch, 1: sequence} for name in ("input_ids", "attention_mask")}
    # Two tensors: given one twice, the exporter takes both inputs for the same (torch 2.13).
    _export(Logits().eval(), (example, torch.ones_like(example)), list(shapes), shapes, out)


def _export(module: Any, example: tuple[Any, ...], inputs: list[str], shapes: dict[str, Any] | None, out: Path) -> None:
    import onnx
    import torch

    program = torch.onnx.export(
        module,
        example,
        input_names=inputs,
        output_names=["logits"],
        dynamic_shapes=shapes,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    onnx.save(_clean(program.model_proto), out)


def _clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes what is not part of the function: traces with this machine's paths, and shapes that are wrong.

    The exporter's value_info contradicts ONNX Runtime's own inference (torch 2.13), and the quantizer then refuses the
    graph; nothing needs it.
    """
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.doc_string, model.graph.doc_string = "", ""
    model.producer_version = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.functions[:]
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = IR_OF_OPSET[opset_of(model)]
    return model


def quantized_tensors(graph: Path, ops: Sequence[str] | Literal["all"]) -> list[str]:
    """Names the float activations that are rounded: what goes into the operators, and what a Gather gives."""
    import onnx

    model = onnx.load(graph)
    constants = {i.name for i in model.graph.initializer} | {
        o for n in model.graph.node if n.op_type == "Constant" for o in n.output
    }
    integers = {i.name for i in model.graph.input}
    found: list[str] = []
    ops = OPS if ops == "all" else ops
    for node in model.graph.node:
        if node.op_type in ops:
            for name in (*node.input, *(() if node.op_type in PRODUCTS else node.output)):
                if name and name not in constants and name not in integers and name not in found:
                    found.append(name)
    if "Gather" in ops:  # its indices are integers, whatever computed them
        indices = {n.input[1] for n in model.graph.node if n.op_type == "Gather"}
        found = [name for name in found if name not in indices]
    return found


def input_weights(graph: Path, ops: Sequence[str] | Literal["all"]) -> dict[str, np.ndarray]:
    """Returns of each tensor that products multiply with constants, the squared norm of each channel's weights."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    constants = {i.name: i for i in model.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for node in model.graph.node:
        if node.op_type in PRODUCTS and (ops == "all" or node.op_type in ops) and node.input[1] in constants:
            weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
            norms = (weights**2).sum(axis=0 if outputs_axis(node) == 0 else 1)
            found[node.input[0]] = found.get(node.input[0], 0) + norms
    return found


def activations(
    graph: Path, tensors: Sequence[str], rows: Sequence[np.ndarray], pad_id: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the named activations of each row: one row is in memory at a time, and padding is cut off."""
    import onnx

    model = onnx.load(graph)
    axes = _position_axes(model)
    have = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in have)
    session = session_of(model.SerializeToString())
    length = session.get_inputs()[0].shape[1]
    for row in rows:
        values = dict(zip(tensors, session.run(list(tensors), _feed(session, row, pad_id)), strict=True))
        if isinstance(length, int) and len(row) < length:
            values = {name: _unpadded(v, length, len(row), axes.get(name, (-2,))) for name, v in values.items()}
        yield values


def _position_axes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Returns which axes positions lie along, of the tensors where it is not the last but one.

    Attention's scores and what a softmax makes of them have two; the keys that enter scores are transposed.
    """
    made = {output: node for node in model.graph.node for output in node.output}
    axes: dict[str, tuple[int, ...]] = {}
    for softmax in (n for n in model.graph.node if n.op_type == "Softmax"):
        axes[softmax.output[0]] = (-2, -1)
        waiting = [softmax.input[0]]
        while waiting:
            name = waiting.pop()
            node = made.get(name)
            if node is None or name in axes:
                continue
            axes[name] = (-2, -1)
            if node.op_type == "MatMul":
                axes[node.input[1]] = (-1,)
            else:
                waiting.extend(node.input)
    return axes


def _unpadded(values: np.ndarray, length: int, used: int, axes: tuple[int, ...]) -> np.ndarray:
    """Cuts padded positions off; what has no positions, such as the first token alone, stays."""
    for axis in axes:
        if values.ndim >= -axis and values.shape[axis] == length:
            values = np.take(values, range(used), axis=axis)
    return values


def logits(graph: Path, rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """Runs rows one by one on this machine."""
    session = session_of(str(graph))
    return np.concatenate([session.run(None, _feed(session, row, pad_id))[0] for row in rows]).astype(np.float32)


def describe(graph: Path) -> Description:
    """Reads a model file's interface; tensors are not loaded."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    model = onnx.load(graph, load_external_data=False)

    def tensor(value: onnx.ValueInfoProto) -> Tensor:
        kind = value.type.tensor_type
        shape = tuple(d.dim_param or int(d.dim_value) for d in kind.shape.dim)
        return Tensor(value.name, tensor_dtype_to_np_dtype(kind.elem_type).name, shape)

    opset = opset_of(model)
    return Description(
        format="onnx",
        inputs=tuple(map(tensor, model.graph.input)),
        outputs=tuple(map(tensor, model.graph.output)),
        opset=opset,
        ir_version=int(model.ir_version),
        min_runtime=oldest_runtime(model),
        nodes=len(model.graph.node),
    )


def session_of(model: str | bytes) -> onnxruntime.InferenceSession:
    """Loads a model file, or its content, on one thread of this machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _feed(session: onnxruntime.InferenceSession, row: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    inputs = session.get_inputs()
    static = inputs[0].shape[1]
    length = static if isinstance(static, int) else len(row)
    if len(row) > length:
        raise StageContractError(f"a row has {len(row)} tokens, but the model's input takes {length}")
    ids = np.full((1, length), pad_id, dtype=np.int64)
    ids[0, : len(row)] = row
    feed = {"input_ids": ids}
    if any(i.name == "attention_mask" for i in inputs):
        feed["attention_mask"] = (np.arange(length) < len(row)).astype(np.int64)[None]
    return feed
