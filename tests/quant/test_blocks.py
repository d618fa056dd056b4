"""Tables in four bits, restored as their description says, against the table."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quant.blocks import MIDDLE, block_size, in_four_bits, row_bytes


def table(rows: int, columns: int) -> np.ndarray:
    """Returns a random table whose columns are of different sizes, one row of it all zeros."""
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, columns)) * np.geomspace(0.1, 10, columns)
    values[3] = 0
    return np.asarray(values, dtype=np.float32)


def restored(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns what bytes and scales stand for, as their description says."""
    levels = np.concatenate([packed % 16, packed // 16], axis=1).astype(np.float64)
    apart = (levels - MIDDLE).reshape(len(levels), scales.shape[1], -1) * scales
    return np.asarray(apart.reshape(len(levels), -1))


@pytest.mark.parametrize(("columns", "blocks"), [(384, 3), (96, 1), (312, 3), (2, 1), (320, 4), (768, 6), (382, 1)])
def test_entries_are_restored_within_half_a_level_and_the_largest_of_a_block_exactly(columns: int, blocks: int) -> None:
    values = table(20, columns)
    packed, scales = in_four_bits(values)
    assert (packed.dtype, packed.shape) == (np.uint8, (20, columns // 2))
    assert (scales.dtype, scales.shape) == (np.float32, (20, blocks, 1))
    apart, found = values.reshape(20, blocks, -1), restored(packed, scales).reshape(20, blocks, -1)
    assert (np.abs(found - apart) <= 0.5 * scales * (1 + 1e-5)).all()
    np.testing.assert_allclose(np.abs(found).max(axis=2)[4:], np.abs(apart).max(axis=2)[4:], rtol=1e-6)
    assert np.abs(found[3]).max() < 1e-30


@pytest.mark.parametrize("columns", [1, 15, 95])
def test_an_odd_row_is_stored_with_a_column_of_zeros(columns: int) -> None:
    values = table(20, columns)
    packed, scales = in_four_bits(values)
    assert packed.shape == (20, (columns + 1) // 2)
    found = restored(packed, scales)
    largest = np.abs(values).max(axis=1, keepdims=True)
    assert (np.abs(found[:, :columns] - values) <= 0.5 * largest / MIDDLE * (1 + 1e-5) + 1e-30).all()


@pytest.mark.parametrize("columns", [1, 2, 95, 176, 320, 352, 382, 384, 544, 768])
def test_a_row_takes_what_its_bytes_and_scales_do(columns: int) -> None:
    packed, scales = in_four_bits(table(5, columns))
    assert row_bytes(columns) == (packed.nbytes + scales.nbytes) / 5
    stored = 2 * packed.shape[1]
    assert stored % block_size(stored) == 0
