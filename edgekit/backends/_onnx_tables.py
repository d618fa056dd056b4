"""Word tables of fewer bits, in ONNX's own operators: a scale for each row, or four bits and a scale for each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import TargetError

if TYPE_CHECKING:
    import onnx

TABLE_BLOCK = 128
"""Entries of a row that share a scale in four bits, at most: larger blocks lose as little, and leave room for more rows
(ADR 14)."""

MIDDLE = 7.5
"""Between the sixteen levels of four bits."""


def by_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores each row of tables as int8 with a scale of its own: Gather, Gather, Cast, Mul."""
    import onnx
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Gather" or not _is_table(constants.get(node.input[0])):
            model.graph.node.append(node)
            continue
        table, indices, gives = node.input[0], node.input[1], node.output[0]
        values = numpy_helper.to_array(constants[table])
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
        integers = np.clip(np.round(values / scales), -127, 127).astype(np.int8)
        model.graph.initializer.remove(constants[table])
        model.graph.initializer.append(numpy_helper.from_array(integers, f"{table}_rows"))
        model.graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{table}_scales"))
        # Slices of the integers' Gather are no operator that the quantizer looks at: it leaves constants of int8 alone.
        model.graph.node.extend(
            [
                helper.make_node("Gather", [f"{table}_rows", indices], [f"{gives}_rows"], f"{node.name}_rows"),
                helper.make_node("Gather", [f"{table}_scales", indices], [f"{gives}_scales"], f"{node.name}_scales"),
                helper.make_node(
                    "Cast", [f"{gives}_rows"], [f"{gives}_float"], f"{node.name}_float", to=onnx.TensorProto.FLOAT
                ),
                helper.make_node("Mul", [f"{gives}_float", f"{gives}_scales"], [gives], f"{node.name}_scaled"),
            ]
        )
    return model


def _is_table(constant: onnx.TensorProto | None) -> bool:
    import onnx

    return constant is not None and constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2


def by_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores tables in four bits, in blocks of one scale (`in_four_bits`).

    In ONNX's own operators: onnxruntime's GatherBlockQuantized takes several times as long (docs/log.md).
    """
    import onnx
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Gather" or not _is_table(constants.get(node.input[0])):
            model.graph.node.append(node)
            continue
        table, indices, gives = node.input[0], node.input[1], node.output[0]
        packed, scales = in_four_bits(numpy_helper.to_array(constants[table]))
        columns, blocks = 2 * packed.shape[1], scales.shape[1]
        constant = {
            "packed": packed,
            "scales": scales,
            "low": np.array([15], dtype=np.uint8),
            "shift": np.array([4], dtype=np.uint8),
            "middle": np.array(MIDDLE, dtype=np.float32),
            "apart": np.array([-1, blocks, columns // blocks], dtype=np.int64),
            "whole": np.array([-1, columns], dtype=np.int64),
        }
        model.graph.initializer.remove(constants[table])
        for name, value in constant.items():
            model.graph.initializer.append(numpy_helper.from_array(value, f"{table}_{name}"))
        made: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Gather", [f"{table}_packed", indices], f"{gives}_packed", {}),
            ("BitwiseAnd", [f"{gives}_packed", f"{table}_low"], f"{gives}_first", {}),
            ("BitShift", [f"{gives}_packed", f"{table}_shift"], f"{gives}_second", {"direction": "RIGHT"}),
            ("Concat", [f"{gives}_first", f"{gives}_second"], f"{gives}_integers", {"axis": 1}),
            ("Cast", [f"{gives}_integers"], f"{gives}_float", {"to": onnx.TensorProto.FLOAT}),
            ("Sub", [f"{gives}_float", f"{table}_middle"], f"{gives}_centred", {}),
            ("Reshape", [f"{gives}_centred", f"{table}_apart"], f"{gives}_apart", {}),
            ("Gather", [f"{table}_scales", indices], f"{gives}_scales", {}),
            ("Mul", [f"{gives}_apart", f"{gives}_scales"], f"{gives}_scaled", {}),
            ("Reshape", [f"{gives}_scaled", f"{table}_whole"], gives, {}),
        ]
        for op, takes, result, options in made:
            model.graph.node.append(helper.make_node(op, takes, [result], f"{result}_{op}", **options))
    return model


def in_four_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a table to sixteen levels, evenly about 0, in blocks of a row with a scale each.

    Args:
        values: (rows, columns), an even number of columns.

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
    size = max(block for block in range(1, TABLE_BLOCK + 1) if columns % block == 0)
    blocks = values.reshape(rows, -1, size).astype(np.float32)
    scales = np.maximum(np.abs(blocks).max(axis=2, keepdims=True), np.finfo(np.float32).tiny) / np.float32(MIDDLE)
    levels = np.clip(np.round(blocks / scales + MIDDLE), 0, 15).astype(np.uint8).reshape(rows, columns)
    first, second = np.split(levels, 2, axis=1)
    return first | (second << 4), scales
