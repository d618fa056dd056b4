"""Integer forms of ONNX graphs for Qualcomm's HTP: Q/DQ pairs around every operator, from ranges made elsewhere.

HTP computes in integers alone, so that every float activation needs a range, not only what enters products. Operators
that only move values keep the scale of what they read. The graph's length stays dynamic: one file serves every length
that is compiled, and a CPU runs it as the reference.

What HTP (QNN 2.51) demands beyond that: a LayerNorm's gamma in uint8 (int8 is refused with error 3110), and the word
table in the type that its Gather gives, so that 16-bit activations are made of it by a conversion behind the Gather.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.backends import Precision, Scheme
from edgekit.backends._onnx_quantize import PRODUCTS, Plan, correct_biases, weight_overrides
from edgekit.backends._onnx_versions import IR_OF_OPSET, opset_of
from edgekit.errors import RecipeError

if TYPE_CHECKING:
    import onnx

    from edgekit.quant.ranges import Range

MASK = "attention_mask"
MOVES = ("Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that give values of what they read."""

OPS = (*PRODUCTS, *MOVES, "Add", "Gelu", "LayerNormalization", "Mul", "Relu", "Sigmoid", "Softmax", "Sub", "Tanh")

MASKED = 12.0
"""How far below the lowest score that was seen a padded position's stays: e^-12 of a row's weight, below what 16 bits
hold, where the model's whole bias of -30 would cost the scores a bit of their eight."""

OPSET_OF_16_BITS = 21
"""First whose QuantizeLinear knows 16 bits."""

LEAST_RANGE = 1e-4
"""Span below which a tensor counts as this wide: HTP refuses a scale of nothing."""


def quantized_tensors(graph: Path, ops: Sequence[str] | Literal["all"]) -> list[str]:
    """Names the float activations that have a range of their own, and those whose means correct biases.

    Not what else only moves values, nor what is made of the mask alone: those ranges follow.
    """
    import onnx

    model = onnx.load(graph)
    floats = _floats(model)
    entering = {node.input[0] for node in model.graph.node if node.op_type in PRODUCTS and node.input[1] not in floats}
    wanted = (floats - _moved(model) - set(_of_mask(model))) | entering
    found = [name for node in _chosen(model, ops) for name in (*node.input, *node.output) if name in wanted]
    return list(dict.fromkeys(found))


def quantize(
    graph: Path, ranges: Mapping[str, Range], quant: Mapping[str, Any], scheme: Scheme, precision: Precision, out: Path
) -> None:
    """Writes the integer graph; see `edgekit.backends.Backend.quantize`.

    Raises:
        RecipeError: a form of the word table is asked for that HTP cannot read.
        OSError: the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if precision.embedding != "int8":
        raise RecipeError(f"quantize.embedding is {precision.embedding!r}, but HTP reads tables of one scale: int8")
    model = onnx.load(graph)
    ops = sorted({node.op_type for node in _chosen(model, quant["ops"])})
    if precision.means:
        correct_biases(model, ops, scheme, precision, quant)
    wide = scheme.activation == "uint16"
    if wide:
        next(o for o in model.opset_import if o.domain in ("", "ai.onnx")).version = OPSET_OF_16_BITS
    plan = Plan(ranges, quant, scheme, ops, [], precision.weight_method)
    spans = {name: (one.low, one.high) for name, one in ranges.items()}
    spans |= _spans_of_mask(model, spans)
    overrides = weight_overrides(model, plan) | _gammas(model)
    if wide:
        spans |= {rows: _span(model, table) for table, rows in _gathered(model)}
        overrides |= _narrow_tables(model)
    table = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in spans.items()}
    quantizer = QDQQuantizer(
        model,
        plan.per_channel,
        False,
        QuantType.QInt8,
        QuantType.QUInt16 if wide else QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, table),
        [],
        [],
        ops,
        {
            "TensorQuantOverrides": overrides,
            "ActivationSymmetric": False,
            "WeightSymmetric": quant["weight"]["symmetric"],
            "MinimumRealRange": LEAST_RANGE,
            "ForceQuantizeNoInputCheck": True,  # tables of positions are sliced: stored as integers, they stay so
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    written = quantizer.model.model
    del written.graph.value_info[:]
    written.producer_name, written.producer_version = "edgekit", ""
    written.ir_version = IR_OF_OPSET[opset_of(written)]
    onnx.save(written, out)


def _chosen(model: onnx.ModelProto, ops: Sequence[str] | Literal["all"]) -> list[onnx.NodeProto]:
    """Returns the nodes that become integers; not a Cast, which makes floats of the mask's integers."""
    return [n for n in model.graph.node if n.op_type in OPS and (ops == "all" or n.op_type in ops)]


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names the float activations of a graph."""
    import onnx

    typed = onnx.shape_inference.infer_shapes(model).graph
    found = {
        value.name
        for value in (*typed.value_info, *typed.input, *typed.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    constants = {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}
    return found - constants - {one.name for one in model.graph.initializer}


def _tables(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Returns the float constants by name."""
    import onnx

    return {one.name: one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}


def _moved(model: onnx.ModelProto) -> set[str]:
    """Names the floats that have the scale of what they were before they were moved."""
    floats = _floats(model) | set(_tables(model))
    return {o for n in model.graph.node if n.op_type in MOVES and n.input[0] in floats for o in n.output}


def _of_mask(model: onnx.ModelProto) -> list[str]:
    """Names the floats that are computed from the mask and constants alone, in order."""
    constants = {one.name for one in model.graph.initializer}
    made = {MASK}
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant":
            constants.update(node.output)
        elif node.op_type != "Shape" and made.intersection(inputs) and made.union(constants).issuperset(inputs):
            made.update(node.output)
    floats = _floats(model)
    return [name for node in model.graph.node for name in node.output if name in made and name in floats]


def _spans_of_mask(model: onnx.ModelProto, spans: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Returns the ranges that padding decides: calibration rows have none.

    What is made of the mask alone has two values, which the graph itself tells. Scores get room for masked ones below
    the lowest that was seen.
    """
    import onnx

    from edgekit.backends.onnxruntime import session_of

    names = _of_mask(model)
    told = onnx.ModelProto()
    told.CopyFrom(model)
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feed = {one.name: np.array([[1, 0]], dtype=np.int64) for one in model.graph.input}
    values = session_of(told.SerializeToString()).run(names, feed) if names else []
    found = {n: (min(float(v.min()), 0.0), max(float(v.max()), 0.0)) for n, v in zip(names, values, strict=True)}
    for node in model.graph.node:
        output = node.output[0]
        if node.op_type == "Add" and found.keys() & set(node.input) and output in spans:
            low, high = spans[output]
            found[output] = (low - MASKED, high)
    return found


def _gammas(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Returns how the quantizer stores the weights of layer norms."""
    from onnxruntime.quantization import QuantType

    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    return {node.input[1]: [{"quant_type": QuantType.QUInt8, "symmetric": False}] for node in norms}


def _gathered(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Yields each float table that a Gather reads, and what that gives."""
    tables = _tables(model)
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            yield node.input[0], node.output[0]


def _span(model: onnx.ModelProto, table: str) -> tuple[float, float]:
    from onnx import numpy_helper

    values = numpy_helper.to_array(_tables(model)[table])
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)


def _narrow_tables(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Returns how word tables stay 8-bit where activations have 16."""
    from onnxruntime.quantization import QuantType

    found: dict[str, list[dict[str, Any]]] = {}
    for table, rows in _gathered(model):
        found[table] = [{"quant_type": QuantType.QUInt8}]
        found[rows] = [{"quant_type": QuantType.QUInt8, "convert": {"quant_type": QuantType.QUInt16}}]
    return found
