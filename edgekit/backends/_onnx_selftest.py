"""A model that drives ONNX Runtime's integer products to their extremes, with the logits that exact integers give.

Which inputs a kernel pairs, and whether it saturates, is nobody's contract: it may change with a version or a CPU. So a
bundle's claim to answer alike everywhere is tested where it runs (`edgekit verify`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH, OUTPUTS = 384, 16
SCALE, ZERO = np.float32(0.05), 100
WEIGHT_SCALE = np.float32(0.01)
PAIRS = np.array([(127, 1), (1, 127), (64, 64), (-127, -1), (-64, -64), (127, -127), (-1, -127), (100, 28)])
"""Integers of two adjacent inputs: those of one sign add up to 128, as large as the pair bound lets them be."""


def write(out: Path, pairs: np.ndarray = PAIRS) -> tuple[list[np.ndarray], np.ndarray]:
    """Writes the model.

    Args:
        out: file to write.
        pairs: integers of two adjacent inputs, (at most 16, 2).

    Returns:
        Rows of token ids, one token each, and the logits that they must give, float64, (rows, outputs).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.Generator(np.random.PCG64(0))
    weights = pairs[random.integers(0, len(pairs), (OUTPUTS, WIDTH // 2))].reshape(OUTPUTS, WIDTH)
    weights[: len(pairs)] = np.repeat(pairs[:, None], WIDTH // 2, axis=1).reshape(len(pairs), WIDTH)
    steps = np.stack(
        [
            np.full(WIDTH, 255),
            np.zeros(WIDTH),
            np.where(np.arange(WIDTH) % 4 < 2, 255, 0),
            np.where(np.arange(WIDTH) % 2 == 0, 255, 0),
            random.integers(0, 256, WIDTH),
        ]
    ).astype(np.int64)
    constants: dict[str, np.ndarray] = {
        "table": ((steps - ZERO) * SCALE).astype(np.float32),
        "weights": weights.astype(np.int8),
        "weight_scales": np.full(OUTPUTS, WEIGHT_SCALE),
        "weight_zeros": np.zeros(OUTPUTS, dtype=np.int8),
        "scale": np.array(SCALE),
        "zero": np.array(ZERO, dtype=np.uint8),
        "shape": np.array([-1, WIDTH], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["gathered"]),
        helper.make_node("Reshape", ["gathered", "shape"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_steps"]),
        helper.make_node("DequantizeLinear", ["x_steps", "scale", "zero"], ["x_rounded"]),
        helper.make_node("DequantizeLinear", ["weights", "weight_scales", "weight_zeros"], ["w"], axis=0),
        helper.make_node("Gemm", ["x_rounded", "w"], ["logits"], transB=1),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["sequence", OUTPUTS])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "extremes", [ids], [logits], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), out)
    expected = ((steps - ZERO) @ weights.T) * (float(SCALE) * float(WEIGHT_SCALE))
    return [np.array([row], dtype=np.int64) for row in range(len(steps))], expected
