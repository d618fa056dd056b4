"""Makes empty models, whose instructions are the cost of Python and the runtime's call alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.devices import ModelFile
from edgekit.errors import ModelError

OPSET, IR_VERSION = 17, 8  # old enough for any runtime that runs the model itself


def write_empty_model(model: ModelFile, folder: Path) -> ModelFile:
    """Writes a model with the same inputs as another, for the same runtime, that only casts its token ids.

    Args:
        model: the one to take the inputs of.
        folder: where to write; made if it is not there. The file is named by its digest.

    Raises:
        ModelError: it cannot be read as a model of its runtime.
    """
    data = {"onnxruntime": _empty_onnx, "litert": _empty_tflite}[model.runtime](model.path)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{digest}{model.path.suffix}"
    written.write_bytes(data)
    return ModelFile(written, digest)


def _empty_onnx(path: Path) -> bytes:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # a missing file is an OSError, a damaged one protobuf's own exception
        raise ModelError(f"cannot read {path} as an ONNX model: {error}") from error
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [node for node in graph.input if node.name not in weights]
    cast = onnx.helper.make_node("Cast", ["input_ids"], ["out"], to=onnx.TensorProto.FLOAT)
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    empty = onnx.helper.make_model(
        onnx.helper.make_graph([cast], "empty", inputs, [out]),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    data: bytes = empty.SerializeToString()
    return data


def _empty_tflite(path: Path) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    try:
        given = schema.ModelT.InitFromPackedBuf(path.read_bytes())
        graph, (signature,) = given.subgraphs[0], given.signatureDefs
        inputs = [graph.tensors[place] for place in graph.inputs]
        first = inputs[0]
        places = {old: new for new, old in enumerate(graph.inputs)}
        for one in signature.inputs:
            one.tensorIndex = places[one.tensorIndex]
    except Exception as error:  # flatbuffers checks nothing: a damaged file ends in whatever its offsets lead to
        raise ModelError(f"cannot read {path} as a .tflite model of one signature: {error!r}") from error
    for tensor in inputs:
        tensor.buffer = 0
    out = schema.TensorT()
    out.name, out.type, out.buffer = "out", schema.TensorType.FLOAT32, 0
    out.shape, out.shapeSignature = first.shape, first.shapeSignature
    code, operator, options = schema.OperatorCodeT(), schema.OperatorT(), schema.CastOptionsT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CAST
    options.inDataType, options.outDataType = first.type, out.type
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.CastOptions, options
    operator.inputs, operator.outputs = [0], [len(inputs)]
    graph.tensors, graph.operators = [*inputs, out], [operator]
    graph.inputs, graph.outputs = list(range(len(inputs))), [len(inputs)]
    result = schema.TensorMapT()
    result.name, result.tensorIndex = "out", len(inputs)
    signature.outputs = [result]
    given.subgraphs, given.operatorCodes, given.buffers = [graph], [code], [schema.BufferT()]
    given.metadata, given.metadataBuffer = None, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(given.Pack(builder), b"TFL3")
    return bytes(builder.Output())
