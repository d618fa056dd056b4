"""A tiny text classifier as a .tflite file, made of its schema: the one of `tiny_models`, for LiteRT."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import CLASSES, HIDDEN, weights

from edgekit.devices import ModelFile


def litert_classifier(path: Path, length: int | None = None, seed: int = 0, pad_id: int = 0) -> ModelFile:
    """Gather, mean over the tokens, fully connected; int32 ids and no mask.

    Args:
        path: to write.
        length: of the input; None is dynamic.
        seed: of the weights.
        pad_id: that fills an input of static length up.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.name, graph.tensors, graph.operators = "main", [], []
    kinds = {np.dtype(np.float32): schema.TensorType.FLOAT32, np.dtype(np.int32): schema.TensorType.INT32}

    def tensor(name: str, shape: list[int], dtype: Any, value: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.type, made.buffer = name.encode(), kinds[np.dtype(dtype)], 0
        made.shape = np.array([max(1, size) for size in shape], dtype=np.int32)
        if -1 in shape:
            made.shapeSignature = np.array(shape, dtype=np.int32)
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(value, dtype=dtype).tobytes(), dtype=np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(op: str, inputs: list[int], output: int, options: Any) -> None:
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, op)
        code.version = 1
        model.operatorCodes = [*(model.operatorCodes or []), code]
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes) - 1, inputs, [output]
        made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        made.builtinOptions = options
        graph.operators.append(made)

    w, size = weights(seed=seed), -1 if length is None else length
    ids = tensor("ids", [1, size], np.int32)
    table = tensor("table", list(w["table"].shape), np.float32, w["table"])
    words, pooled = tensor("words", [1, size, HIDDEN], np.float32), tensor("pooled", [1, HIDDEN], np.float32)
    axis = tensor("axis", [1], np.int32, np.array([1]))
    kernel = tensor("kernel", [CLASSES, HIDDEN], np.float32, w["kernel"].T)
    bias, logits = tensor("bias", [CLASSES], np.float32, w["bias"]), tensor("logits", [1, CLASSES], np.float32)
    operator("GATHER", [table, ids], words, schema.GatherOptionsT())
    operator("MEAN", [words, axis], pooled, schema.ReducerOptionsT())
    operator("FULLY_CONNECTED", [pooled, kernel, bias], logits, schema.FullyConnectedOptionsT())
    graph.inputs, graph.outputs = [ids], [logits]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [named(schema, "input_ids", ids)], [named(schema, "logits", logits)]
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), pad_id)


def named(schema: Any, name: str, place: int) -> Any:
    """Returns an entry of a signature."""
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, place
    return made
