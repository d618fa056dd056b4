"""Makes the empty model whose instructions are the cost of Python and the session call alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.devices import ModelFile
from edgekit.errors import ModelError

OPSET, IR_VERSION = 17, 8  # old enough for any runtime that runs the model itself


def write_empty_model(path: Path, folder: Path) -> ModelFile:
    """Writes a model with the same inputs as `path` that only casts its token ids.

    Args:
        path: the model to take the inputs of.
        folder: where to write; made if it is not there. The file is named by its digest.

    Raises:
        ModelError: `path` is not an ONNX model.
    """
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
    data = empty.SerializeToString()
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{digest}.onnx"
    written.write_bytes(data)
    return ModelFile(written, digest)
