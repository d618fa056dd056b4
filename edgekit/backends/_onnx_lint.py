"""Lint of ONNX graphs: what onnxruntime's integer kernels will do badly with them, read off the file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import ModelError
from edgekit.quant.findings import NO_COST, Finding
from edgekit.quant.weights import PAIR_LIMIT, pair_sums

if TYPE_CHECKING:
    import onnx

LARGE_MASK = 1e4
"""A constant of this magnitude before a softmax is a mask; scores themselves stay below a hundred."""

NO_INTEGERS = ("LayerNormalization", "Gelu", "Erf", "Tanh", "Pow", "Sqrt", "Softmax", "ReduceMean")
"""Operators that onnxruntime's CPU kernels run in float; between Q and DQ they only cost."""

INTEGER_PRODUCTS = {"MatMulInteger": 1, "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3, "QGemm": 3}
"""Products of integers, with the place of their weights among their inputs."""

VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")


def findings(graph: Path, arch: str, isa: Sequence[str], ops: Sequence[str]) -> list[Finding]:
    """Returns what is found in a graph.

    Args:
        graph: the model file.
        arch, isa: of the target's processor.
        ops: operators that the target quantizes.

    Raises:
        ModelError: the file is no ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    try:
        model = onnx.load(graph)
    except (DecodeError, OSError) as error:
        raise ModelError(f"{graph} is not an ONNX file, or lacks its external data: {error}") from error
    if not model.graph.node:
        raise ModelError(f"{graph} is not an ONNX file, or one without operators")
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"]
            constants.update(dict.fromkeys(node.output, values[0]) if values else {})
    made = {output: node for node in model.graph.node for output in node.output}
    saturates = arch == "x86_64" and not set(isa) & set(VNNI)
    return [
        *_masks(model, constants, made),
        *_inputs(model),
        *_saturation(model, constants, made, saturates),
        *_float_operators(model, made),
        *_float_products(model, constants, ops),
    ]


def _masks(
    model: onnx.ModelProto, constants: Mapping[str, np.ndarray], made: Mapping[str, onnx.NodeProto]
) -> Iterator[Finding]:
    """Yields large constants among what a softmax is computed from."""
    seen: set[str] = set()
    for softmax in (n for n in model.graph.node if n.op_type == "Softmax"):
        waiting = list(softmax.input)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            value = constants.get(name)
            if value is not None and value.dtype.kind == "f" and value.size and np.abs(value).max() >= LARGE_MASK:
                largest = float(value.ravel()[np.abs(value).argmax()])
                yield Finding(
                    "mask-constant",
                    name,
                    f"{largest:.3g} goes into {softmax.name or 'a softmax'}",
                    f"quantized with it, scores get steps of {abs(largest) / 255:.3g}: all of them become alike",
                    "a finite bias such as -30 in the model, as edgekit's own export has it",
                )
            elif name in made and made[name].op_type not in ("Gemm", "MatMul", "LayerNormalization"):
                waiting.extend(made[name].input)


def _inputs(model: onnx.ModelProto) -> Iterator[Finding]:
    import onnx

    for value in model.graph.input:
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            yield Finding(
                "int64-input",
                value.name,
                "64-bit integers",
                NO_COST,
                "int32 inputs where a phone's or a microcontroller's delegate refuses them or adds a Cast",
            )


def _saturation(
    model: onnx.ModelProto,
    constants: Mapping[str, np.ndarray],
    made: Mapping[str, onnx.NodeProto],
    saturates: bool,
) -> Iterator[Finding]:
    """Yields int8 weights whose pairs overflow 16 bits with uint8 activations."""
    for node in model.graph.node:
        name, rows = _int8_weights(node, constants, made)
        over = 0 if rows is None else int((pair_sums(rows.astype(np.int64)) > PAIR_LIMIT).sum())
        if rows is not None and over:
            where = "on this target" if saturates else "on x86 CPUs without VNNI, so that it answers otherwise there"
            yield Finding(
                "saturation",
                name,
                f"{over:,} of {pair_sums(rows).size:,} pairs of adjacent weights exceed {PAIR_LIMIT}",
                f"their products with large uint8 activations are cut off {where}",
                "--set quantize.scheme=auto, or int8-pair-bounded",
            )


def _int8_weights(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray], made: Mapping[str, onnx.NodeProto]
) -> tuple[str, np.ndarray | None]:
    """Returns the name of a product's int8 weights and them as (outputs, inputs), None where it has none."""
    name = ""
    if node.op_type in ("Gemm", "MatMul") and len(node.input) > 1:
        origin = made.get(node.input[1])
        name = origin.input[0] if origin is not None and origin.op_type == "DequantizeLinear" else ""
    elif node.op_type in INTEGER_PRODUCTS:
        name = node.input[INTEGER_PRODUCTS[node.op_type]]
    weight = constants.get(name)
    if weight is None or weight.dtype != np.int8 or weight.ndim != 2:
        return name, None
    return name, weight if any(a.name == "transB" and a.i for a in node.attribute) else weight.T


def _float_operators(model: onnx.ModelProto, made: Mapping[str, onnx.NodeProto]) -> Iterator[Finding]:
    """Yields operators without integer kernels that stand between DequantizeLinear and QuantizeLinear."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    wrapped: dict[str, int] = {}
    for node in model.graph.node:
        before = any(name in made and made[name].op_type == "DequantizeLinear" for name in node.input[:1])
        after = any("QuantizeLinear" in readers.get(name, ()) for name in node.output)
        if node.op_type in NO_INTEGERS and before and after:
            wrapped[node.op_type] = wrapped.get(node.op_type, 0) + 1
    for op, count in sorted(wrapped.items()):
        yield Finding(
            "float-operator",
            op,
            f"{count} between DequantizeLinear and QuantizeLinear",
            "run in float all the same: two conversions each, and a rounding more",
            "leave it out of the target's quant.ops",
        )


def _float_products(
    model: onnx.ModelProto, constants: Mapping[str, np.ndarray], ops: Sequence[str]
) -> Iterator[Finding]:
    """Yields products with weights that the target's operators leave in float."""
    for op in ("MatMul", "Gemm"):
        if op in ops:
            continue
        found = [n for n in model.graph.node if n.op_type == op and len(n.input) > 1 and n.input[1] in constants]
        if found:
            size = sum(constants[n.input[1]].nbytes for n in found)
            yield Finding(
                "float-product",
                op,
                f"{len(found)} with {size / 1e6:.1f} MB of weights",
                "run in float and keep four times the bytes",
                f"add {op} to the target's quant.ops",
            )
