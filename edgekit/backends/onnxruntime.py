"""ONNX for ONNX Runtime on CPUs: export, static QDQ quantization, and runs on this machine.

Quantized are MatMul, Gemm and the embedding's Gather: LayerNorm, GELU and softmax have no integer kernels there, and
wrapping them in Q/DQ only costs. Weights are per-channel, and either unsigned or bounded so that AVX2's 16-bit pair
sums cannot saturate: one file then answers alike on every CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.backends import Description, Scheme, Tensor
from edgekit.backends._onnx_lint import findings
from edgekit.errors import StageContractError
from edgekit.quant.weights import least_error_scales, rounded

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from transformers import PreTrainedModel

    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.quant.ranges import Range
    from edgekit.quant.weights import Bound

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")
PRODUCTS = ("MatMul", "Gemm")
OPS = (*PRODUCTS, "Gather")  # operators with integer kernels that a target may name
__all__ = [
    "OPS",
    "TOOLS",
    "activations",
    "describe",
    "export_student",
    "export_teacher",
    "findings",
    "logits",
    "quantize",
    "quantized_tensors",
]
OPSET = 20  # the first with a Gelu operator

# Oldest ONNX Runtime that supports an operator set, and the oldest IR version that may carry it.
# https://onnxruntime.ai/docs/reference/compatibility.html
_RUNTIME_OF_OPSET = {17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18"}
_IR_OF_OPSET = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


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
    model.ir_version = _IR_OF_OPSET[_opset(model)]
    return model


def _opset(model: onnx.ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


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


def activations(
    graph: Path, tensors: Sequence[str], rows: Sequence[np.ndarray], pad_id: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the named activations of each row: one row is in memory at a time, and padding is cut off."""
    import onnx

    model = onnx.load(graph)
    scores = {o for n in model.graph.node if n.op_type == "Softmax" for o in n.output}
    have = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in have)
    session = _session(model.SerializeToString())
    length = session.get_inputs()[0].shape[1]
    for row in rows:
        values = dict(zip(tensors, session.run(list(tensors), _feed(session, row, pad_id)), strict=True))
        if isinstance(length, int) and len(row) < length:
            values = {name: _unpadded(v, length, len(row), name in scores) for name, v in values.items()}
        yield values


def _unpadded(values: np.ndarray, length: int, used: int, scores: bool) -> np.ndarray:
    """Cuts padded positions off: the last axis but one holds them, and both of the last two in attention's scores."""
    if values.ndim >= 2 and values.shape[-2] == length:
        values = values[..., :used, :]
    return values[..., :used] if scores else values


def quantize(graph: Path, ranges: Mapping[str, Range], quant: Mapping[str, Any], scheme: Scheme, out: Path) -> None:
    """Writes the graph with Q/DQ pairs around the target's operators, from ranges made elsewhere."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    table = TensorsData(
        CalibrationMethod.MinMax,
        {name: TensorData(lowest=np.float32(r.low), highest=np.float32(r.high)) for name, r in ranges.items()},
    )
    ops = list(OPS if quant["ops"] == "all" else quant["ops"])
    model, per_channel = onnx.load(graph), quant["weight"]["granularity"] == "per-channel"
    overrides = {} if scheme.bound is None else _bound_weights(model, ops, scheme.bound, per_channel)
    for entries in overrides.values():
        for entry in entries:
            entry["quant_type"] = types[scheme.weight]
    quantizer = QDQQuantizer(
        model,
        per_channel,
        False,  # the table has no products to saturate; the products' bound is in their scales
        types[scheme.weight],
        types[quant["activation"]["dtype"]],
        table,
        [],
        [],
        ops,
        {
            "TensorQuantOverrides": overrides,
            "ActivationSymmetric": quant["activation"]["symmetric"],
            "WeightSymmetric": quant["weight"]["symmetric"],
            # What follows a product here runs in float, so rounding its output would only lose precision.
            "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # it appends nodes; ONNX demands an order in which none reads a later one
    model = quantizer.model.model
    _float_elsewhere(model, ops)
    del model.graph.value_info[:]
    model.producer_name, model.producer_version = "edgekit", ""
    model.ir_version = _IR_OF_OPSET[_opset(model)]
    onnx.save(model, out)


def _float_elsewhere(model: onnx.ModelProto, ops: Sequence[str]) -> None:
    """Gives operators that stay float the float tensor that was quantized for another's sake.

    The quantizer lets every consumer of a tensor read its rounded form, the residual of each layer too: that rounds the
    very sum that carries the model's signal, and costs a DequantizeLinear that nothing needs.
    """
    made = {output: node for node in model.graph.node for output in node.output}

    def before_rounding(name: str) -> str:
        restored = made.get(name)
        if restored is None or restored.op_type != "DequantizeLinear":
            return name
        quantized = made.get(restored.input[0])
        return name if quantized is None or quantized.op_type != "QuantizeLinear" else quantized.input[0]

    integer_ops = {*ops, "QuantizeLinear", "DequantizeLinear"}
    for node in model.graph.node:
        # What a Gather of integers gives is on their grid already, and only with its Q/DQ pair does it stay integers.
        if node.op_type not in integer_ops:
            for place, name in enumerate(node.input):
                source = before_rounding(name)
                if source != name and made[source].op_type not in ops:
                    node.input[place] = source
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    while dead := [n for n in model.graph.node if not any(o in used for o in n.output)]:
        for node in dead:
            model.graph.node.remove(node)
        used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}


def _bound_weights(
    model: onnx.ModelProto, ops: Sequence[str], bound: Bound, per_channel: bool
) -> dict[str, list[dict[str, Any]]]:
    """Puts the weights of products on the grid of their own scales, in place; returns those scales for the quantizer.

    The quantizer's rounding of a value on the grid gives its integer back, so that the integers are ours.
    """
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or node.op_type not in ops or node.input[1] not in constants:
            continue
        name = node.input[1]
        if name in overrides:  # a weight that two products share is on its grid already
            continue
        stored = numpy_helper.to_array(constants[name])
        axis = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
        weights = stored if axis == 0 else stored.T  # (outputs, inputs)
        scales = least_error_scales(weights, bound)
        if not per_channel:
            scales = np.full_like(scales, scales.max())
        grid = rounded(weights, scales, bound).astype(np.float32) * scales[:, None]
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(grid if axis == 0 else grid.T), name))
        zero = np.array(0, dtype=np.int8)
        if per_channel:
            overrides[name] = [{"axis": axis, "scale": scale, "zero_point": zero} for scale in scales]
        else:
            overrides[name] = [{"scale": scales[0], "zero_point": zero}]
    return overrides


def logits(graph: Path, rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """Runs rows one by one on this machine."""
    session = _session(str(graph))
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

    opset = _opset(model)
    return Description(
        format="onnx",
        inputs=tuple(map(tensor, model.graph.input)),
        outputs=tuple(map(tensor, model.graph.output)),
        opset=opset,
        ir_version=int(model.ir_version),
        min_runtime=_RUNTIME_OF_OPSET[opset],
        nodes=len(model.graph.node),
    )


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
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
