"""A model that drives LiteRT's integer products to their extremes, with the logits that exact integers give.

Products are of both forms whose sums are integers: static, of int8 by int8, and dynamic, of what the runtime rounds
itself; of several tokens and of one, which take different kernels. Activations and weights lie at the ends of their
grids, and signs change every four inputs only: so each sum is a whole number of the output's steps, and no rounding
hides what a kernel that saturates does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import _litert_file as file

WIDTH, OUTPUTS, TOKENS, BLOCK = 384, 16, 8, 4
LIMIT, STEPS = 127, 255
"""Of int8 weights and static activations; and of what the runtime rounds, from 0 to as many of its steps."""

OUTPUT_SCALE = LIMIT * LIMIT * BLOCK
"""So that a sum of one sign is 96 steps, of two blocks that differ in one input none."""


def write(out: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Writes the model.

    Args:
        out: file to write.

    Returns:
        Rows of token ids, TOKENS each, and the logits that they must give, float64, (rows, classes).

    Raises:
        OSError: the file cannot be written.
    """
    from ai_edge_litert import schema_py_generated as schema

    tokens, weights = np.split(_signs(), [TOKENS])
    static, dynamic = tokens * LIMIT, (tokens > 0) * STEPS
    model = _empty()
    ids = _tensor(model, "input_ids", np.zeros((1, TOKENS), dtype=np.int32), None)
    kernel = _tensor(model, "weights", (weights * LIMIT).astype(np.int8), 1.0, constant=True)
    parts = []
    for kind, table in (("static", static.astype(np.int8)), ("dynamic", dynamic.astype(np.float32))):
        scale = 1.0 if kind == "static" else None
        stored = _tensor(model, f"{kind}_table", table, scale, constant=True)
        several = _tensor(model, f"{kind}_several", np.zeros((1, TOKENS, WIDTH), dtype=table.dtype), scale)
        file.added_operator(model, "GATHER", [stored, ids], several, schema.GatherOptionsT(), 2)
        one = _tensor(model, f"{kind}_one", np.zeros((1, 1, WIDTH), dtype=table.dtype), scale)
        cut = [_constant(model, "from", [0, 0, 0]), _constant(model, "size", [1, 1, WIDTH])]
        file.added_operator(model, "SLICE", [several, *cut], one, schema.SliceOptionsT(), 2)
        parts += [_product(model, kind, x, kernel, rows) for x, rows in ((several, TOKENS), (one, 1))]
    logits = _tensor(model, "logits", np.zeros((1, 2 * (TOKENS + 1) * OUTPUTS), dtype=np.float32), None)
    joined = schema.ConcatenationOptionsT()
    joined.axis = 1
    file.added_operator(model, "CONCATENATION", parts, logits, joined)
    _sign(model, ids, logits)
    file.write(model, out)
    rows = [(np.arange(TOKENS) + first) % len(tokens) for first in range(len(tokens))]
    return [row.astype(np.int64) for row in rows], np.stack([_exact(static, dynamic, weights, row) for row in rows])


def _signs() -> np.ndarray:
    """Returns 1 and -1 in blocks, of TOKENS vectors and then of OUTPUTS: of one sign, in patterns, and mixed."""
    random, blocks = np.random.Generator(np.random.PCG64(0)), WIDTH // BLOCK
    place = np.arange(blocks)
    regular = [np.ones(blocks), np.where(place % 2, -1, 1), np.where(place < blocks // 2, 1, -1), -np.ones(blocks)]
    mixed = random.choice([-1, 1], (TOKENS + OUTPUTS - 2 * len(regular), blocks))
    vectors = np.concatenate([regular, mixed[: TOKENS - len(regular)], regular, mixed[TOKENS - len(regular) :]])
    return np.repeat(vectors, BLOCK, axis=1).astype(np.int64)


def _exact(static: np.ndarray, dynamic: np.ndarray, weights: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Returns one row's logits, in the order of the model's concatenation."""
    sums = [x[places] @ (weights * LIMIT).T for x in (static, dynamic) for places in (row, row[:1])]
    return np.concatenate([one.ravel() for one in sums]).astype(np.float64)


def _empty() -> Any:
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    graph.tensors, graph.operators = [], []
    return model


def _tensor(model: Any, name: str, like: np.ndarray, scale: float | None, constant: bool = False) -> int:
    """Adds a tensor of an array's type and shape, with its values where it is constant; returns its place."""
    from ai_edge_litert import schema_py_generated as schema

    if constant:
        place = file.added_constant(model, name, like)
    else:
        place = file.added_tensor(model, name, getattr(schema.TensorType, like.dtype.name.upper()), like.shape)
    if scale is not None:
        tensor = model.subgraphs[0].tensors[place]
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    return place


def _constant(model: Any, name: str, values: Sequence[int]) -> int:
    return file.added_constant(model, name, np.array(values, dtype=np.int32))


def _product(model: Any, kind: str, x: int, kernel: int, rows: int) -> int:
    """Adds a product and what makes one row of floats of it; returns the place of that."""
    from ai_edge_litert import schema_py_generated as schema

    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    shape, name = (1, rows, OUTPUTS), f"{kind}_{rows}"
    sums = _tensor(model, f"{name}_sums", np.zeros(shape, dtype=np.float32), None)
    if kind == "static":
        steps = _tensor(model, f"{name}_steps", np.zeros(shape, dtype=np.int8), float(OUTPUT_SCALE))
        file.added_operator(model, "FULLY_CONNECTED", [x, kernel, -1], steps, options, 5)
        file.added_operator(model, "DEQUANTIZE", [steps], sums, schema.DequantizeOptionsT(), 2)
    else:
        file.added_operator(model, "FULLY_CONNECTED", [x, kernel, -1], sums, options, 5)
    flat = _tensor(model, f"{name}_row", np.zeros((1, rows * OUTPUTS), dtype=np.float32), None)
    target = _constant(model, f"{name}_shape", [1, -1])
    file.added_operator(model, "RESHAPE", [sums, target], flat, schema.ReshapeOptionsT())
    return flat


def _sign(model: Any, ids: int, logits: int) -> None:
    """Declares input and output, in the graph and by the names that the runner reads."""
    from ai_edge_litert import schema_py_generated as schema

    model.subgraphs[0].inputs, model.subgraphs[0].outputs = [ids], [logits]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    for name, place in (("input_ids", ids), ("logits", logits)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, place
        setattr(signature, "inputs" if place == ids else "outputs", [entry])
    model.signatureDefs = [signature]
