"""The table of multiply-adds against products counted in an exported graph's own shapes."""

from __future__ import annotations

import pytest
from cost_tables import setting

from edgekit.codec import decode, encode
from edgekit.provenance import Provenance
from edgekit.search.arithmetic import counted
from edgekit.search.costs import CostTable
from edgekit.search.shapes import Shape

SHAPES = [Shape(32, 8, (2, 4), (64, 96), 5), Shape(32, 8, (1,), (16,), 3, 12)]


def multiply_adds(shape: Shape, tokens: int) -> int:
    """Of all products with weights, written out: the last layer's but keys and values, and the head, of one row."""
    found = shape.word_rank * shape.hidden * tokens
    for place, (heads, ffn) in enumerate(zip(shape.heads, shape.ffn, strict=True)):
        width = heads * shape.head_dim
        rows = 1 if place == len(shape.heads) - 1 else tokens
        found += 2 * shape.hidden * width * tokens + 2 * shape.hidden * (width + ffn) * rows
    return found + shape.hidden * (shape.hidden + shape.labels)


def test_costs_are_the_multiply_adds() -> None:
    table = counted(setting(sequence_length="buckets"), "npu", SHAPES, (8, 16), 0, "no clock")
    for shape in (*SHAPES, Shape(32, 8, (3, 1, 2), (40, 8, 100), 77)):
        assert table.cost(shape, [8]) == multiply_adds(shape, 8)
        assert table.cost(shape, [8, 24]) == pytest.approx((multiply_adds(shape, 8) + multiply_adds(shape, 24)) / 2)
    for point in table.points:
        assert point.costs == {"static": (multiply_adds(point.shape, 8), multiply_adds(point.shape, 16))}


def test_it_is_an_estimate_that_can_be_written_and_read() -> None:
    table = counted(setting(), "npu", SHAPES, (8, 16), 1, "no clock")
    assert (table.unit, table.provenance, table.families) == ("multiply-adds", Provenance.ESTIMATED, ("static",))
    assert decode(CostTable, encode(table), "") == table
