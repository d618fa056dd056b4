"""Opens the length of a student's graph: rows are then run as long as they are, and none is filled up.

litert-torch 0.10 converts a module for the shapes that it is shown, though LiteRT runs any. In edgekit's own graphs the
length stands in few places: the shapes of tensors, what reshapes and slices are told, and tables that are added to what
the positions hold. These are found by following the positions (`_litert_positions`).

Longer rows than the model has positions for are cut by the graph itself, since MediaPipe feeds an open input whatever
its tokenizer makes of a text. As tokenizers do, it leaves the last token, which closes a row, in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends import _litert_file as file
from edgekit.backends._litert_positions import position_axes
from edgekit.errors import StageContractError

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, TensorT

TOLD = {"RESHAPE": 1, "SLICE": 2}
"""Operators that are told their result's shape, with the place of that among their inputs; -1 is what is left."""

APART = ("TRANSPOSE", "MEAN", "SUM", "FULLY_CONNECTED", "GATHER", "EMBEDDING_LOOKUP")
"""Operators whose constants are of axes, channels or words: as long as the input only by chance."""


def open_length(model: ModelT, length: int) -> None:
    """Makes a graph for rows of one length one for rows of any up to that, in place.

    Args:
        model: a student's graph.
        length: tokens of its input.

    Raises:
        StageContractError: an operator depends on the length in another way, which is named.
    """
    axes = position_axes(model, length)
    for operator in list(model.subgraphs[0].operators):
        _open(model, operator, axes)
    for tensor in model.subgraphs[0].tensors:
        if found := axes.get(file.name_of(tensor)):
            shape = np.array(file.shape_of(tensor), dtype=np.int32)
            shape[list(found)] = -1
            tensor.shapeSignature = shape
    for place in model.subgraphs[0].inputs:
        _cut_rows(model, int(place), length)


def _cut_rows(model: ModelT, given: int, length: int) -> None:
    """Cuts an input's rows behind so many tokens less one, and puts their last token behind these."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    readers = [one for one in graph.operators if given in map(int, one.inputs)]
    if not readers:
        return
    name, kind = file.name_of(graph.tensors[given]), graph.tensors[given].type

    def added(part: str, tokens: int, signature: int) -> int:
        place = file.added_tensor(model, f"{name}.{part}", kind, [1, tokens])
        graph.tensors[place].shapeSignature = np.array([1, signature], dtype=np.int32)
        return place

    def sliced(source: int, out: int, begin: int | None, end: int | None, order: int) -> None:
        options = schema.StridedSliceOptionsT()  # a set bit leaves an end where it is
        options.beginMask, options.endMask = (3 if begin is None else 1), (3 if end is None else 1)
        part = file.name_of(graph.tensors[out])
        bounds = [
            _constant(model, f"{part}.{label}", values)
            for label, values in (("begin", [0, begin or 0]), ("end", [0, end or 0]), ("strides", [1, 1]))
        ]
        file.added_operator(model, "STRIDED_SLICE", [source, *bounds], out, options, place=order)

    all_but_last, first, last = added("ahead", length - 1, -1), added("first", length - 1, -1), added("last", 1, 1)
    cut = added("cut", length, -1)
    sliced(given, all_but_last, None, -1, 0)
    sliced(all_but_last, first, None, length - 1, 1)
    sliced(given, last, -1, None, 2)
    options = schema.ConcatenationOptionsT()
    options.axis = 1
    file.added_operator(model, "CONCATENATION", [first, last], cut, options, place=3)
    for operator in readers:
        operator.inputs = [cut if int(one) == given else int(one) for one in operator.inputs]


def _open(model: ModelT, operator: OperatorT, axes: dict[str, tuple[int, ...]]) -> None:
    op, (output,) = file.operator_name(model, operator), file.outputs_of(model, operator)
    along, shape = axes.get(file.name_of(output), ()), file.shape_of(output)
    if not along:
        return
    if op in TOLD:
        if len(along) > 1:
            _squeeze(model, operator)
            return
        told = list(shape)
        told[along[0]] = -1
        _replace(operator, TOLD[op], _constant(model, f"{file.name_of(output)}.shape", told))
        if op == "RESHAPE" and operator.builtinOptions is not None:
            operator.builtinOptions.newShape = np.array(told, dtype=np.int32)
        return
    if op in APART:
        return
    inputs = file.inputs_of(model, operator)
    for place, tensor in enumerate(inputs):
        if file.is_constant(model, tensor) and _holds(tensor, along, shape):
            others = [one for one in range(len(inputs)) if one != place]
            if op != "ADD" or len(others) != 1 or len(file.shape_of(tensor)) != len(shape):
                raise StageContractError(f"{op} {file.name_of(output)} has a constant as long as the input")
            _cut(model, operator, place, others[0])


def _squeeze(model: ModelT, operator: OperatorT) -> None:
    """Makes a reshape that drops sizes of one at the front, as of a single head, an operator that is told no sizes.

    Raises:
        StageContractError: it does anything else.
    """
    from ai_edge_litert import schema_py_generated as schema

    before, after = (
        file.shape_of(one[0]) for one in (file.inputs_of(model, operator), file.outputs_of(model, operator))
    )
    dropped = len(before) - len(after)
    if dropped < 1 or before != (1,) * dropped + after:
        name = file.name_of(file.outputs_of(model, operator)[0])
        raise StageContractError(f"{file.operator_name(model, operator)} {name} is told the length twice")
    options = schema.SqueezeOptionsT()
    options.squeezeDims = list(range(dropped))
    file.become(model, operator, "SQUEEZE", [int(operator.inputs[0])], options)


def _holds(tensor: TensorT, along: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a constant has an entry for each position."""
    of = file.shape_of(tensor)
    return any(len(of) >= -axis and of[axis] == shape[axis] and of[axis] > 1 for axis in along)


def _cut(model: ModelT, operator: OperatorT, place: int, other: int) -> None:
    """Cuts a table that is added to something to as many rows and columns as that has."""
    from ai_edge_litert import schema_py_generated as schema

    tensors = model.subgraphs[0].tensors
    table, added = int(operator.inputs[place]), int(operator.inputs[other])
    name, rank = file.name_of(tensors[table]), len(file.shape_of(tensors[table]))
    shape = file.added_tensor(model, f"{name}.shape", schema.TensorType.INT32, [rank])
    cut = file.added_tensor(model, f"{name}.cut", tensors[table].type, file.shape_of(tensors[table]))
    tensors[cut].shapeSignature = np.full(rank, -1, dtype=np.int32)
    options = schema.ShapeOptionsT()
    options.outType = schema.TensorType.INT32
    before = list(model.subgraphs[0].operators).index(operator)
    file.added_operator(model, "SHAPE", [added], shape, options, place=before)
    begin = _constant(model, f"{name}.begin", [0] * rank)
    strides = _constant(model, f"{name}.strides", [1] * rank)
    inputs = [table, begin, shape, strides]
    file.added_operator(model, "STRIDED_SLICE", inputs, cut, schema.StridedSliceOptionsT(), place=before + 1)
    _replace(operator, place, cut)


def _constant(model: ModelT, name: str, values: Sequence[int]) -> int:
    return file.added_constant(model, name, np.array(values, dtype=np.int32))


def _replace(operator: OperatorT, place: int, tensor: int) -> None:
    inputs = [int(one) for one in operator.inputs]
    inputs[place] = tensor
    operator.inputs = inputs
