"""Word tables of fewer bits, in ONNX's own operators: a scale for each row, or four bits and a scale for each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import TargetError

if TYPE_CHECKING:
    import onnx

TABLE_BLOCK, LEAST_BLOCK = 128, 32
"""Entries of a row that share a scale in four bits: large blocks lose as little, and leave room for rows (ADR 14)."""

MIDDLE = 7.5
"""Between the sixteen levels of four bits."""

INDICES = "indices"
"""What names the rows that are read, in the nodes of `Stored`."""


@dataclass(frozen=True)
class Node:
    """An operator that restores rows.

    Attributes:
        op: of ONNX.
        takes: names of constants, of what other nodes give, or `INDICES`.
        gives: name of the result; not "scale" or "zero_point", by which quantizers call what belongs to a tensor.
        options: attributes.
    """

    op: str
    takes: Sequence[str]
    gives: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """A table as a file has it.

    Attributes:
        constants: by name.
        nodes: that restore the rows, in order; the last gives what the Gather of the float table gave.
    """

    constants: Mapping[str, np.ndarray]
    nodes: Sequence[Node]


def by_rows(values: np.ndarray) -> Stored:
    """Returns a table, (rows, columns), in int8 with a scale for each row."""
    import onnx

    scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
    integers = np.clip(np.round(values / scales), -127, 127).astype(np.int8)
    nodes = [
        Node("Gather", ["rows", INDICES], "integers"),
        Node("Gather", ["scales", INDICES], "read_scales"),
        Node("Cast", ["integers"], "float", {"to": onnx.TensorProto.FLOAT}),
        Node("Mul", ["float", "read_scales"], "restored"),
    ]
    return Stored({"rows": integers, "scales": scales.astype(np.float32)}, nodes)


def by_blocks(values: np.ndarray) -> Stored:
    """Returns a table, (rows, columns), in four bits (`in_four_bits`).

    Not by onnxruntime's own GatherBlockQuantized, which takes several times as long (ADR 16).

    Raises:
        TargetError: the number of columns is odd.
    """
    import onnx

    packed, scales = in_four_bits(values)
    columns, blocks = 2 * packed.shape[1], scales.shape[1]
    constants = {
        "packed": packed,
        "scales": scales,
        "low": np.array([15], dtype=np.uint8),
        "shift": np.array([4], dtype=np.uint8),
        "middle": np.array(MIDDLE, dtype=np.float32),
        "apart": np.array([-1, blocks, columns // blocks], dtype=np.int64),
        "whole": np.array([-1, columns], dtype=np.int64),
    }
    nodes = [
        Node("Gather", ["packed", INDICES], "bytes"),
        Node("BitwiseAnd", ["bytes", "low"], "first"),
        Node("BitShift", ["bytes", "shift"], "second", {"direction": "RIGHT"}),
        Node("Concat", ["first", "second"], "levels", {"axis": 1}),
        Node("Cast", ["levels"], "float", {"to": onnx.TensorProto.FLOAT}),
        Node("Sub", ["float", "middle"], "centred"),
        Node("Reshape", ["centred", "apart"], "blocks"),
        Node("Gather", ["scales", INDICES], "read_scales"),
        Node("Mul", ["blocks", "read_scales"], "scaled"),
        Node("Reshape", ["scaled", "whole"], "restored"),
    ]
    return Stored(constants, nodes)


def in_four_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a table to sixteen levels, evenly about 0, in blocks of a row with a scale each.

    Args:
        values: (rows, columns), an even number of columns. Where no number of entries from `LEAST_BLOCK` to
            `TABLE_BLOCK` divides a row, it is one block.

    Returns:
        Bytes, uint8, (rows, columns / 2): the level of a column in the low four bits, in the others that of the column
        half a row further on. And scales, float32, (rows, blocks, 1): an entry is its level less `MIDDLE`, times that.

    Raises:
        TargetError: the number of columns is odd.
    """
    rows, columns = values.shape
    if columns % 2:
        raise TargetError(
            f"a word table of {columns} columns has no form in four bits, which takes an even number; "
            "name another with --set quantize.embedding=int8"
        )
    size = next((size for size in range(TABLE_BLOCK, LEAST_BLOCK - 1, -1) if columns % size == 0), columns)
    blocks = values.reshape(rows, -1, size).astype(np.float32)
    scales = np.maximum(np.abs(blocks).max(axis=2, keepdims=True), np.finfo(np.float32).tiny) / np.float32(MIDDLE)
    levels = np.clip(np.round(blocks / scales + MIDDLE), 0, 15).astype(np.uint8).reshape(rows, columns)
    first, second = np.split(levels, 2, axis=1)
    return first | (second << 4), scales


def store_tables(model: onnx.ModelProto, form: Callable[[np.ndarray], Stored]) -> onnx.ModelProto:
    """Stores the float tables that a Gather reads in another form, in place; returns the model."""
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Gather" or not _is_table(constants.get(node.input[0])):
            model.graph.node.append(node)
            continue
        table, indices, gives = node.input[0], node.input[1], node.output[0]
        stored = form(numpy_helper.to_array(constants[table]))
        model.graph.initializer.remove(constants[table])
        for name, value in stored.constants.items():
            model.graph.initializer.append(numpy_helper.from_array(value, f"{table}_{name}"))
        names = {INDICES: indices} | {name: f"{table}_{name}" for name in stored.constants}
        names |= {one.gives: f"{gives}_{one.gives}" for one in stored.nodes} | {stored.nodes[-1].gives: gives}
        for one in stored.nodes:
            takes, result = [names[name] for name in one.takes], names[one.gives]
            model.graph.node.append(helper.make_node(one.op, takes, [result], f"{result}_{one.op}", **one.options))
    return model


def _is_table(constant: onnx.TensorProto | None) -> bool:
    import onnx

    return constant is not None and constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2
