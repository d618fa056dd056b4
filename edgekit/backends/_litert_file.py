"""Reads and writes .tflite files, and what is read off them: operators, constants, and the tensors between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import ModelError, TargetError

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import BufferT, ModelT, OperatorT, TensorT

IDENTIFIER = b"TFL3"
DELEGATES = ("ethos-u",)
"""Custom operators that stand for an accelerator's program, which only its driver runs."""


def read(path: Path) -> ModelT:
    """Returns the model of a file.

    Raises:
        ModelError: it cannot be read, is no .tflite file of this schema, or is damaged.
        TargetError: it has operators that LiteRT has not, which are named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    return parsed(data, path)


def parsed(data: bytes, path: Path) -> ModelT:
    """Returns the model of a file's bytes; `path` names it in messages.

    Raises:
        ModelError, TargetError: as `read`.
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != IDENTIFIER:
        raise ModelError(f"{path} is no .tflite file: it has {data[4:8]!r} where {IDENTIFIER!r} stands")
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        graph = model.subgraphs[0]
        for operator in graph.operators:
            model.operatorCodes[operator.opcodeIndex]
        for tensor in graph.tensors:
            model.buffers[tensor.buffer]
        for buffer in model.buffers:
            _take_in(buffer, data)
    except Exception as error:  # flatbuffers checks nothing: a damaged file ends in whatever its offsets lead to
        raise ModelError(f"{path} is a damaged .tflite file: {error!r}") from error
    _check_operators(model, path)
    return model


def _take_in(buffer: BufferT, data: bytes) -> None:
    """Gives a buffer whose bytes lie behind the model, as quantizers write large ones, its bytes like any other.

    Raises:
        ValueError: they are not all there.
    """
    start, end = buffer.offset, buffer.offset + buffer.size
    if start <= 1:  # 1 is a placeholder that writers replace
        return
    if end > len(data):
        raise ValueError(f"bytes {start} to {end} of {len(data)}")
    buffer.data = np.frombuffer(data[start:end], dtype=np.uint8)
    buffer.offset = buffer.size = 0


def _check_operators(model: ModelT, path: Path) -> None:
    lacking = [name for name in map(str, _code_names(model)) if name.startswith(("custom ", "number "))]
    lacking = [name for name in lacking if name.removeprefix("custom ") not in DELEGATES]
    if lacking:
        raise TargetError(f"{path.name} has operators that LiteRT lacks: {', '.join(sorted(set(lacking)))}")


def _code_names(model: ModelT) -> list[str]:
    """Names the operators of the model's table: LiteRT's own, "custom x" and, of a newer schema, "number x"."""
    from ai_edge_litert import schema_py_generated as schema

    known = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    names = []
    for code in model.operatorCodes:
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        custom = "" if code.customCode is None else _text(code.customCode)
        names.append(f"custom {custom}" if custom else known.get(number, f"number {number}"))
    return names


def write(model: ModelT, path: Path) -> None:
    """Writes a model; the same bytes for the same model.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(packed(model))


def packed(model: ModelT) -> bytes:
    """Returns a model's file."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def operators(model: ModelT) -> Iterator[tuple[str, OperatorT]]:
    """Yields the operators in the order in which they run, with their names, such as "FULLY_CONNECTED"."""
    names = _code_names(model)
    for operator in model.subgraphs[0].operators:
        yield names[operator.opcodeIndex], operator


def operator_name(model: ModelT, operator: OperatorT) -> str:
    """Returns an operator's name."""
    name: str = _code_names(model)[operator.opcodeIndex]
    return name


def name_of(tensor: TensorT) -> str:
    """Returns a tensor's name."""
    return _text(tensor.name)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def inputs_of(model: ModelT, operator: OperatorT) -> list[TensorT]:
    """Returns an operator's inputs; what is left out, such as a bias, is left out here too."""
    tensors = model.subgraphs[0].tensors
    return [tensors[place] for place in operator.inputs if place >= 0]


def outputs_of(model: ModelT, operator: OperatorT) -> list[TensorT]:
    """Returns an operator's outputs."""
    return [model.subgraphs[0].tensors[place] for place in operator.outputs]


def is_constant(model: ModelT, tensor: TensorT) -> bool:
    """Whether a tensor's values are in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def is_float(tensor: TensorT) -> bool:
    """Whether a tensor is float32."""
    from ai_edge_litert import schema_py_generated as schema

    return bool(tensor.type == schema.TensorType.FLOAT32)


def dtype_of(tensor: TensorT) -> str:
    """Returns numpy's name of a tensor's type."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    return str(names[tensor.type]).lower()


def shape_of(tensor: TensorT) -> tuple[int, ...]:
    """Returns a tensor's shape, -1 where it is dynamic."""
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return () if shape is None else tuple(int(size) for size in shape)


def values_of(model: ModelT, tensor: TensorT) -> np.ndarray:
    """Returns a constant's values, in its type and shape."""
    data = np.asarray(model.buffers[tensor.buffer].data, dtype=np.uint8)
    return np.frombuffer(data.tobytes(), dtype=dtype_of(tensor)).reshape(shape_of(tensor))


def set_values(model: ModelT, tensor: TensorT, values: np.ndarray) -> None:
    """Replaces a constant's values."""
    stored = np.ascontiguousarray(values, dtype=dtype_of(tensor))
    model.buffers[tensor.buffer].data = np.frombuffer(stored.tobytes(), dtype=np.uint8)


def added_tensor(model: ModelT, name: str, kind: int, shape: Sequence[int]) -> int:
    """Adds a tensor without values; returns its place."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name.encode(), kind, 0
    tensor.shape = np.array(shape, dtype=np.int32)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def added_constant(model: ModelT, name: str, values: np.ndarray) -> int:
    """Adds a tensor of an array's type, shape and values; returns its place."""
    from ai_edge_litert import schema_py_generated as schema

    place = added_tensor(model, name, getattr(schema.TensorType, values.dtype.name.upper()), values.shape)
    tensor = model.subgraphs[0].tensors[place]
    model.buffers.append(schema.BufferT())
    tensor.buffer = len(model.buffers) - 1
    set_values(model, tensor, values)
    return place


def become(model: ModelT, operator: OperatorT, op: str, inputs: Sequence[int], options: Any, version: int = 1) -> None:
    """Makes an operator one of another kind, in place; arguments as in `added_operator`."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    model.operatorCodes.append(code)
    operator.opcodeIndex, operator.inputs = len(model.operatorCodes) - 1, list(inputs)
    if options is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options


def added_operator(
    model: ModelT,
    op: str,
    inputs: Sequence[int],
    output: int,
    options: Any,
    version: int = 1,
    place: int | None = None,
) -> None:
    """Adds an operator.

    Args:
        model: is changed.
        op: its name, such as "SOFTMAX".
        inputs, output: places of tensors.
        options: of the schema, such as a SoftmaxOptionsT; None for none.
        version: of the operator.
        place: in the order in which they run; None adds it after all others.
    """
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.outputs = [output]
    become(model, operator, op, inputs, options, version)
    running = model.subgraphs[0].operators
    running.insert(len(running) if place is None else place, operator)
