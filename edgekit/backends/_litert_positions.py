"""Finds along which axes of a graph's tensors the positions of a row lie, so that padding can be cut off.

A size alone does not tell: a hidden width may be the input's length too. So positions are followed from the inputs
through every operator that edgekit's own graphs have. An axis is counted from the end, as broadcasting does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends import _litert_file as file

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT

Axes = frozenset[int]
NONE: Axes = frozenset()
LOOKUPS = {"EMBEDDING_LOOKUP": 0, "GATHER": 1}
"""Operators that choose rows of a table, with the place of the indices among their inputs."""


def position_axes(model: ModelT, length: int) -> dict[str, tuple[int, ...]]:
    """Returns the axes of each tensor that has positions, by its name.

    Args:
        model: a student's graph.
        length: tokens of its input.
    """
    axes: dict[str, Axes] = {}
    for place in model.subgraphs[0].inputs:
        axes[file.name_of(model.subgraphs[0].tensors[place])] = frozenset({-1})
    for op, operator in file.operators(model):
        found = _followed(model, op, operator, axes, length)
        for tensor in file.outputs_of(model, operator):
            axes[file.name_of(tensor)] = found
    return {name: tuple(of) for name, of in axes.items() if of}


def _followed(model: ModelT, op: str, operator: OperatorT, axes: dict[str, Axes], length: int) -> Axes:
    inputs, output = file.inputs_of(model, operator), file.outputs_of(model, operator)[0]
    given = [axes.get(file.name_of(tensor), NONE) for tensor in inputs]
    shape, first = file.shape_of(output), file.shape_of(inputs[0])
    if op in LOOKUPS:
        place = LOOKUPS[op]
        row = len(file.shape_of(inputs[1 - place])) - 1
        return frozenset(axis - row for axis in given[place])
    if op in ("RESHAPE", "FULLY_CONNECTED"):
        # Scores of a single head are a product whose weights are the keys.
        columns = {-1} if op == "FULLY_CONNECTED" and -2 in given[1] else set()
        return _regrouped(given[0], first, shape, length) | columns
    if op == "TRANSPOSE":
        order = [int(place) - len(shape) for place in file.values_of(model, inputs[1]).ravel()]
        return frozenset(new - len(shape) for new, old in enumerate(order) if old in given[0])
    if op == "BATCH_MATMUL":
        options = operator.builtinOptions
        row, column = -1 if options.adjX else -2, -2 if options.adjY else -1
        return frozenset({-2} if row in given[0] else ()) | frozenset({-1} if column in given[1] else ())
    if op in ("MEAN", "SUM") and not operator.builtinOptions.keepDims:
        gone = {int(axis) - len(first) * (axis >= 0) for axis in file.values_of(model, inputs[1]).ravel()}
        return frozenset(axis + sum(one > axis for one in gone) for axis in given[0] - gone)
    return frozenset(axis for of in given for axis in of if len(shape) >= -axis and shape[axis] == length)


def _regrouped(axes: Axes, before: Sequence[int], after: Sequence[int], length: int) -> Axes:
    """Returns where positions lie after axes were split or merged: as many values come before each as did."""
    found = set()
    for axis in axes:
        ahead = int(np.prod(before[: len(before) + axis]))
        for place, size in enumerate(after):
            if size == length and int(np.prod(after[:place])) == ahead:
                found.add(place - len(after))
    return frozenset(found)
