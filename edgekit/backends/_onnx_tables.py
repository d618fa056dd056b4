"""Word tables of fewer bits, in ONNX's own operators: a scale for each row, or four bits and a scale for each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.quant.blocks import MIDDLE, in_four_bits

if TYPE_CHECKING:
    import onnx

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
    """
    import onnx

    packed, scales = in_four_bits(values)
    columns, blocks = 2 * packed.shape[1], scales.shape[1]
    odd = values.shape[1] < columns
    constants = {
        "packed": packed,
        "scales": scales,
        "low": np.array([15], dtype=np.uint8),
        "shift": np.array([4], dtype=np.uint8),
        "middle": np.array(MIDDLE, dtype=np.float32),
        "apart": np.array([-1, blocks, columns // blocks], dtype=np.int64),
        "whole": np.array([-1, columns], dtype=np.int64),
    }
    if odd:
        constants |= {name: np.array([at], dtype=np.int64) for name, at in (("start", 0), ("end", -1), ("axis", 1))}
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
        *([Node("Slice", ["restored", "start", "end", "axis"], "even")] if odd else []),
    ]
    return Stored(constants, nodes)


def store_tables(model: onnx.ModelProto, form: Callable[[np.ndarray], Stored]) -> onnx.ModelProto:
    """Stores the float tables that a Gather reads by a list of indices in another form, in place; returns the model.

    A table is read by one Gather alone, as the lean graph has it.
    """
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
