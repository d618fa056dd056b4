"""Integer forms of ONNX graphs for ONNX Runtime's CPU kernels: static, dynamic and weight-only.

Quantized are MatMul, Gemm and the embedding's Gather: LayerNorm, GELU and softmax have no integer kernels there, and
wrapping them in Q/DQ only costs. Weights are per-channel, and either unsigned or bounded so that AVX2's 16-bit pair
sums cannot saturate: one file then answers alike on every CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.backends import Precision, Product, Scheme
from edgekit.backends._onnx_tables import by_blocks, by_rows, store_tables
from edgekit.backends._onnx_versions import IR_OF_OPSET, opset_of
from edgekit.quant.weights import rounded, scales_of

if TYPE_CHECKING:
    import onnx

    from edgekit.quant.ranges import Range
    from edgekit.quant.weights import Bound

PRODUCTS = ("MatMul", "Gemm")
OPS = (*PRODUCTS, "Gather")  # operators with integer kernels that a target may name
BLOCK = 32
"""Weights that share a scale where it is by blocks: the smallest of MatMulNBits, and the least error."""


def outputs_axis(product: onnx.NodeProto) -> int:
    """The axis of a product's weights that its outputs lie along."""
    return 0 if any(a.name == "transB" and a.i for a in product.attribute) else 1


def products(graph: Path, ops: Sequence[str] | Literal["all"]) -> dict[str, Product]:
    """Names the encoder's products in the order of the graph; of one cut in two, what enters the larger part."""
    import onnx

    from edgekit.ir.lean import product_of

    parts: dict[str, list[Product]] = {}
    for node, weights in _integer_products(onnx.load(graph), OPS if ops == "all" else ops):
        parts.setdefault(product_of(node.input[1]), []).append(Product(node.input[0], weights.size))
    return {
        name: Product(max(of, key=lambda part: part.weights).entering, sum(part.weights for part in of))
        for name, of in parts.items()
    }


@dataclass(frozen=True)
class Plan:
    """What a writer goes by.

    Attributes:
        ranges: of the activations.
        quant: the target's section of that name.
        scheme: how.
        ops: operators that become integers.
        kept: names of the nodes that stay float.
        method: of the weights' scales.
    """

    ranges: Mapping[str, Range]
    quant: Mapping[str, Any]
    scheme: Scheme
    ops: Sequence[str]
    kept: Sequence[str]
    method: str

    @property
    def per_channel(self) -> bool:
        per_channel: bool = self.quant["weight"]["granularity"] == "per-channel"
        return per_channel

    def without_gemm(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, Plan]:
        """Splits each Gemm into MatMul and Add, which is all that two of the writers know.

        Products that were not to become integers stay float under their new names.
        """
        from onnxruntime.quantization.onnx_model import ONNXModel

        left = [n.name for n in model.graph.node if n.op_type in PRODUCTS and n.op_type not in self.ops]
        split = ONNXModel(model)
        split.replace_gemm_with_matmul()
        kept = [name for old in (*self.kept, *left) for name in (old, f"{old}_MatMul")]
        ops = sorted({"MatMul" if op in PRODUCTS else op for op in self.ops})
        return split.model, dataclasses.replace(self, kept=kept, ops=ops)


def quantize(
    graph: Path, ranges: Mapping[str, Range], quant: Mapping[str, Any], scheme: Scheme, precision: Precision, out: Path
) -> None:
    """Writes the integer graph; see `edgekit.backends.Backend.quantize`."""
    import onnx

    model = onnx.load(graph)
    ops = list(OPS if quant["ops"] == "all" else quant["ops"])
    tables = precision.embedding if "Gather" in ops else ""
    if tables == "int8" and scheme.family == "weight-only":
        tables = "int8-rows"  # its quantizer knows products alone
    if precision.means:
        correct_biases(model, ops, scheme, precision, quant)
    if tables != "int8":
        ops = [op for op in ops if op != "Gather"]
    made = {"static": _static, "dynamic": _dynamic, "weight-only": _weight_only}[scheme.family]
    kept = _kept(model, precision.keep_float)
    model = made(model, Plan(ranges, quant, scheme, ops, kept, precision.weight_method))
    # Last: onnxruntime's quantizers would round what these tables' nodes give once more.
    if tables == "int8-rows":
        model = store_tables(model, by_rows)
    elif tables == "int4-blocks":
        model = store_tables(model, by_blocks)
    del model.graph.value_info[:]
    model.producer_name, model.producer_version = "edgekit", ""
    model.ir_version = IR_OF_OPSET[opset_of(model)]
    onnx.save(model, out)


def _kept(model: onnx.ModelProto, keep_float: Collection[str]) -> list[str]:
    """Names the nodes of the products that stay float."""
    from edgekit.ir.lean import product_of

    return [n.name for n in model.graph.node if n.op_type in PRODUCTS and product_of(n.input[1]) in keep_float]


def _static(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Puts Q/DQ pairs around the operators, from ranges made elsewhere."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    types = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    table = TensorsData(
        CalibrationMethod.MinMax,
        {name: TensorData(lowest=np.float32(r.low), highest=np.float32(r.high)) for name, r in plan.ranges.items()},
    )
    quantizer = QDQQuantizer(
        model,
        plan.per_channel,
        False,  # the table has no products to saturate; the products' bound is in their scales
        types[plan.scheme.weight],
        types[plan.quant["activation"]["dtype"]],
        table,
        [],
        list(plan.kept),
        list(plan.ops),
        {
            "TensorQuantOverrides": weight_overrides(model, plan),
            "ActivationSymmetric": plan.quant["activation"]["symmetric"],
            "WeightSymmetric": plan.quant["weight"]["symmetric"],
            # What follows a product here runs in float, so rounding its output would only lose precision.
            "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # it appends nodes; ONNX demands an order in which none reads a later one
    written: onnx.ModelProto = quantizer.model.model
    _float_elsewhere(written, plan.ops, plan.kept)
    return written


def _dynamic(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Rounds each product's input to the range that it has at run time; weights as in the static form."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    model, plan = plan.without_gemm(model)
    quantizer = ONNXQuantizer(
        model,
        plan.per_channel,
        False,
        QuantizationMode.IntegerOps,
        False,
        {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}[plan.scheme.weight],
        QuantType.QUInt8,
        None,
        [],
        list(plan.kept),
        list(plan.ops),
        {
            "TensorQuantOverrides": weight_overrides(model, plan),
            "WeightSymmetric": plan.quant["weight"]["symmetric"],
            "MatMulConstBOnly": True,  # attention's products are small, and would need two ranges a run
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    written: onnx.ModelProto = quantizer.model.model
    return written


def _weight_only(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Rounds weights in blocks of one scale, as the runtime's own quantizer does.

    The kernel rounds activations to int8 by blocks of its own: its accuracy level 4, several times faster than 0.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    model, plan = plan.without_gemm(model)
    bits = {"int8": 8, "int4": 4}[plan.scheme.weight]
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=bits, op_types_to_quantize=("MatMul",)
    )
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=list(plan.kept), algo_config=config, bits=bits)
    quantizer.process()
    written: onnx.ModelProto = quantizer.model.model
    return written


def _integer_products(
    model: onnx.ModelProto, ops: Sequence[str], kept: Collection[str] = ()
) -> Iterator[tuple[onnx.NodeProto, np.ndarray]]:
    """Yields the products whose constant weights become integers, with those as (outputs, inputs); each weight once."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    seen: set[str] = set()
    for node in model.graph.node:
        integer = node.op_type in PRODUCTS and node.op_type in ops and node.name not in kept
        if integer and node.input[1] in constants and node.input[1] not in seen:
            seen.add(node.input[1])
            stored = numpy_helper.to_array(constants[node.input[1]])
            yield node, stored if outputs_axis(node) == 0 else stored.T


def _scales(weights: np.ndarray, bound: Bound, per_channel: bool, method: str) -> np.ndarray:
    scales = scales_of(weights, bound, method)
    return scales if per_channel else np.full_like(scales, scales.max())


def weight_overrides(model: onnx.ModelProto, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Puts the weights of products on the grid of their own scales, in place; returns those scales for the quantizer.

    The quantizer's rounding of a value on the grid gives its integer back, so that the integers are ours. Unsigned ones
    are the signed ones moved by their zero point.
    """
    from onnx import numpy_helper
    from onnxruntime.quantization import QuantType

    bound = plan.scheme.bound
    if bound is None:
        return {}
    zero, kind = {
        "int8": (np.array(0, dtype=np.int8), QuantType.QInt8),
        "uint8": (np.array(128, dtype=np.uint8), QuantType.QUInt8),
    }[plan.scheme.weight]
    constants = {i.name: i for i in model.graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    for node, weights in _integer_products(model, plan.ops, plan.kept):
        scales = _scales(weights, bound, plan.per_channel, plan.method)
        grid = rounded(weights, scales, bound).astype(np.float32) * scales[:, None]
        name, axis = node.input[1], outputs_axis(node)
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(grid if axis == 0 else grid.T), name))
        fixed = {"zero_point": zero, "quant_type": kind}
        if plan.per_channel:
            found[name] = [{"axis": axis, "scale": scale, **fixed} for scale in scales]
        else:
            found[name] = [{"scale": scales[0], **fixed}]
    return found


def correct_biases(
    model: onnx.ModelProto, ops: Sequence[str], scheme: Scheme, precision: Precision, quant: Mapping[str, Any]
) -> None:
    """Takes from each bias what the weights' rounding adds to its product on average, in place.

    b <- b - (Q(W) - W) E[x], with the mean of the input's channels over the calibration rows.

    Ref: Nagel et al. 2019 (1906.04721), section 4.2, with measured means in place of those of a batch norm.
    """
    from onnx import numpy_helper

    if scheme.bound is None:
        return
    constants = {i.name: i for i in model.graph.initializer}
    per_channel = quant["weight"]["granularity"] == "per-channel"
    for node, weights in _integer_products(model, ops, _kept(model, precision.keep_float)):
        means = precision.means.get(node.input[0])
        if means is None or len(node.input) < 3 or node.input[2] not in constants:
            continue
        scales = _scales(weights, scheme.bound, per_channel, precision.weight_method)
        change = (rounded(weights, scales, scheme.bound) * scales[:, None].astype(np.float64) - weights) @ means
        bias = numpy_helper.to_array(constants[node.input[2]])
        corrected = (bias - change.reshape(bias.shape)).astype(bias.dtype)
        constants[node.input[2]].CopyFrom(numpy_helper.from_array(corrected, node.input[2]))


def _float_elsewhere(model: onnx.ModelProto, ops: Sequence[str], kept: Collection[str]) -> None:
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
        if node.op_type not in integer_ops or node.name in kept:
            for place, name in enumerate(node.input):
                source = before_rounding(name)
                if source != name and made[source].op_type not in ops:
                    node.input[place] = source
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    while dead := [n for n in model.graph.node if not any(o in used for o in n.output)]:
        for node in dead:
            model.graph.node.remove(node)
        used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
