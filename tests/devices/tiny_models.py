"""Tiny text classifiers made in memory, and what NumPy says that they answer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.devices import ModelFile, TokenRows

VOCAB, HIDDEN, CLASSES = 50, 16, 5


def weights(hidden: int = HIDDEN, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the weights of the classifier: an embedding table and a linear layer."""
    rng = np.random.default_rng(seed)
    return {
        "table": rng.normal(size=(VOCAB, hidden)).astype(np.float32),
        "kernel": rng.normal(size=(hidden, CLASSES)).astype(np.float32),
        "bias": rng.normal(size=CLASSES).astype(np.float32),
    }


def expected(rows: TokenRows, hidden: int = HIDDEN, seed: int = 0) -> np.ndarray:
    """Returns the logits that the classifier gives, computed by NumPy."""
    w = weights(hidden, seed)
    return np.stack([w["table"][ids].mean(axis=0) @ w["kernel"] + w["bias"] for ids in rows.ids])


def save(model: onnx.ModelProto, path: Path, pad_id: int = 0) -> ModelFile:
    """Writes a model and returns it with its digest."""
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), pad_id)


def assemble(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], w: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """Makes a model of the nodes with one output, `logits`."""
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])
    constants = [numpy_helper.from_array(value, name) for name, value in w.items()]
    graph = helper.make_graph(nodes, "classifier", inputs, [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mean_classifier(path: Path, hidden: int = HIDDEN, seed: int = 0) -> ModelFile:
    """Gather, mean over the tokens, Gemm; dynamic length, int64 ids and no mask."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["pooled", "kernel", "bias"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"])]
    return save(assemble(nodes, inputs, weights(hidden, seed)), path)


def masked_classifier(path: Path, length: int | str, pad_id: int = 0) -> ModelFile:
    """The same with int32 inputs, a mask and token types (unused: zeros are added); the mean is over the mask."""
    w = weights()
    w["axis"] = np.array([2], dtype=np.int64)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["types", "axis"], ["types_3d"]),
        helper.make_node("Add", ["words", "types_3d"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["mask_3d"]),
        helper.make_node("Mul", ["tokens", "mask_3d"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens_axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask_3d", "tokens_axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["pooled"]),
        helper.make_node("Gemm", ["pooled", "kernel", "bias"], ["logits"]),
    ]
    w["tokens_axis"] = np.array([1], dtype=np.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, [1, length]) for name in names]
    return save(assemble(nodes, inputs, w), path, pad_id)


def dense_classifier(path: Path, layers: int = 2, hidden: int = 128) -> ModelFile:
    """Gather, `layers` square MatMul and Relu over all tokens, mean, Gemm: its work grows with the row's length."""
    w = weights(hidden)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x0"])]
    for layer in range(layers):
        w[f"square{layer}"] = np.random.default_rng(layer).normal(size=(hidden, hidden)).astype(np.float32) / hidden
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"square{layer}"], [f"y{layer}"]))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"x{layers}"], ["pooled"], axes=[1], keepdims=0))
    nodes.append(helper.make_node("Gemm", ["pooled", "kernel", "bias"], ["logits"]))
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"])]
    return save(assemble(nodes, inputs, w), path)


def token_rows(count: int, shortest: int = 3, longest: int = 12, seed: int = 1) -> TokenRows:
    """Returns random rows of unequal length."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, size=count)
    return TokenRows([rng.integers(1, VOCAB, size=length).astype(np.int64) for length in lengths])
