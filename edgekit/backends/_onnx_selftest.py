"""A model that drives ONNX Runtime's integer products to their extremes, with the logits that exact integers give.

Which inputs a kernel pairs, and whether it saturates, is nobody's contract: it may change with a version or a CPU. So a
bundle's claim to answer alike everywhere is tested where it runs (`edgekit verify`). It has the products of every form
whose sums are integers: static with signed and with unsigned weights, and dynamic; of several tokens and of one, which
take different kernels. Weight-only products sum in float by blocks, and have nothing that could saturate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH, OUTPUTS, TOKENS = 384, 16, 8
SCALE, ZERO = np.float32(0.05), 100
WEIGHT_SCALE, WEIGHT_ZERO = np.float32(0.01), 128
PAIRS = np.array([(127, 1), (1, 127), (64, 64), (-127, -1), (-64, -64), (127, -127), (-1, -127), (100, 28)])
"""Integers of two adjacent inputs: those of one sign add up to 128, as large as the pair bound lets them be."""

WIDE_PAIRS = np.array([(127, 127), (-127, -127), (127, -127), (127, 0), (-127, 127), (126, 125), (-1, 1), (64, 127)])
"""Those of unsigned weights, less their zero point: nothing bounds them."""


def write(out: Path, pairs: np.ndarray = PAIRS) -> tuple[list[np.ndarray], np.ndarray]:
    """Writes the model.

    Args:
        out: file to write.
        pairs: integers of two adjacent inputs of the signed weights, (at most 16, 2).

    Returns:
        Rows of token ids, TOKENS each, and the logits that they must give, float64, (rows, classes).

    Raises:
        OSError: the file cannot be written.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    steps, signed, unsigned = _steps(), _weights(pairs), _weights(WIDE_PAIRS)
    constants: dict[str, np.ndarray] = {
        "table": ((steps - ZERO) * SCALE).astype(np.float32),
        "signed": signed.astype(np.int8),
        "signed_transposed": signed.T.astype(np.int8),
        "unsigned": (unsigned + WEIGHT_ZERO).astype(np.uint8),
        "weight_scales": np.full(OUTPUTS, WEIGHT_SCALE),
        "signed_zeros": np.zeros(OUTPUTS, dtype=np.int8),
        "unsigned_zeros": np.full(OUTPUTS, WEIGHT_ZERO, dtype=np.uint8),
        "scale": np.array(SCALE),
        "zero": np.array(ZERO, dtype=np.uint8),
        "product_scale": np.array(SCALE * WEIGHT_SCALE),
        "token": np.array([-1, WIDTH], dtype=np.int64),
        "from": np.array([0], dtype=np.int64),
        "to": np.array([1], dtype=np.int64),
        "row": np.array([1, -1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["gathered"]),
        helper.make_node("Reshape", ["gathered", "token"], ["all"]),
        helper.make_node("Slice", ["all", "from", "to"], ["one"]),
    ]
    found = []
    for x in ("all", "one"):
        nodes.append(helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"{x}_steps"]))
        for kind in ("signed", "unsigned"):
            name, given = f"{x}_{kind}", [f"{x}_steps", "scale", "zero"]
            weights = [kind, "weight_scales", f"{kind}_zeros"]
            nodes += [
                helper.make_node("DequantizeLinear", given, [f"{name}_x"]),
                helper.make_node("DequantizeLinear", weights, [f"{name}_w"], axis=0),
                helper.make_node("Gemm", [f"{name}_x", f"{name}_w"], [name], transB=1),
            ]
        nodes += [
            helper.make_node("MatMulInteger", [f"{x}_steps", "signed_transposed", "zero"], [f"{x}_sums"]),
            helper.make_node("Cast", [f"{x}_sums"], [f"{x}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{x}_float", "product_scale"], [f"{x}_dynamic"]),
        ]
        for name in (f"{x}_signed", f"{x}_unsigned", f"{x}_dynamic"):
            nodes.append(helper.make_node("Reshape", [name, "row"], [f"{name}_row"]))
            found.append(f"{name}_row")
    nodes.append(helper.make_node("Concat", found, ["logits"], axis=1))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "classes"])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "extremes", [ids], [logits], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), out)
    rows = [(np.arange(TOKENS) + first) % len(steps) for first in range(len(steps))]
    return [row.astype(np.int64) for row in rows], np.stack([_exact(steps[row], signed, unsigned) for row in rows])


def _steps() -> np.ndarray:
    """Returns the activations of each token, 0 to 255, (tokens, WIDTH)."""
    random, place = np.random.Generator(np.random.PCG64(0)), np.arange(WIDTH)
    steps = [
        np.full(WIDTH, 255),
        np.zeros(WIDTH),
        np.where(place % 4 < 2, 255, 0),
        np.where(place % 2 == 0, 255, 0),
        random.integers(0, 256, WIDTH),
    ]
    return np.stack(steps).astype(np.int64)


def _weights(pairs: np.ndarray) -> np.ndarray:
    """Returns weights of these pairs: an output of each pair alone, then mixed ones; (OUTPUTS, WIDTH)."""
    random = np.random.Generator(np.random.PCG64(1))
    weights = pairs[random.integers(0, len(pairs), (OUTPUTS, WIDTH // 2))].reshape(OUTPUTS, WIDTH)
    weights[: len(pairs)] = np.repeat(pairs[:, None], WIDTH // 2, axis=1).reshape(len(pairs), WIDTH)
    return weights.astype(np.int64)


def _exact(steps: np.ndarray, signed: np.ndarray, unsigned: np.ndarray) -> np.ndarray:
    """Returns one row's logits, in the order of the model's Concat."""
    sums = [(x - ZERO) @ w.T for x in (steps, steps[:1]) for w in (signed, unsigned, signed)]
    return np.concatenate([one.ravel() for one in sums]) * (float(SCALE) * float(WEIGHT_SCALE))
