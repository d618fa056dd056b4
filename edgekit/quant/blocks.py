"""Tables in four bits: levels of blocks of a row, evenly about 0, with a scale each."""

from __future__ import annotations

import numpy as np

LARGEST, LEAST = 128, 32
"""Entries of a row that share a scale: large blocks lose as little, and leave room for rows (ADR 14)."""

MIDDLE = 7.5
"""Between the sixteen levels of four bits."""


def block_size(columns: int) -> int:
    """Returns how many entries of a row share a scale: the most that divide it, or all where none from `LEAST` do."""
    return next((size for size in range(LARGEST, LEAST - 1, -1) if columns % size == 0), columns)


def padded(columns: int) -> int:
    """Returns the columns that are stored: a byte holds two."""
    return columns + columns % 2


def row_bytes(columns: int) -> int:
    """Returns what a row takes, entries and scales."""
    stored = padded(columns)
    return stored // 2 + 4 * (stored // block_size(stored))


def in_four_bits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a table to sixteen levels, evenly about 0, in blocks of a row (`block_size`) with a scale each.

    Args:
        values: (rows, columns). Where the number of columns is odd, a column of zeros is added.

    Returns:
        Bytes, uint8, (rows, columns / 2): the level of a column in the low four bits, in the others that of the column
        half a row further on. And scales, float32, (rows, blocks, 1): an entry is its level less `MIDDLE`, times that.
    """
    values = np.pad(values, ((0, 0), (0, padded(values.shape[1]) - values.shape[1])))
    rows, columns = values.shape
    blocks = values.reshape(rows, -1, block_size(columns)).astype(np.float32)
    scales = np.maximum(np.abs(blocks).max(axis=2, keepdims=True), np.finfo(np.float32).tiny) / np.float32(MIDDLE)
    levels = np.clip(np.round(blocks / scales + MIDDLE), 0, 15).astype(np.uint8).reshape(rows, columns)
    first, second = np.split(levels, 2, axis=1)
    return first | (second << 4), scales
