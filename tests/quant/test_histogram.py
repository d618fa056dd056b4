"""Streaming histograms against NumPy's, counted over all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quant.histogram import BINS, Histogram, added, histogram_of


def streamed(parts: list[np.ndarray]) -> Histogram:
    """Counts part by part."""
    total = histogram_of(parts[0])
    for part in parts[1:]:
        total = added(total, histogram_of(part))
    return total


def parts(seed: int, count: int = 40) -> list[np.ndarray]:
    """Returns rows of unequal length whose scale grows and shrinks by four orders of magnitude."""
    random = np.random.default_rng(seed)
    return [
        (random.standard_t(3, size=random.integers(1, 400)) * 10 ** random.uniform(-3, 1)).astype(np.float32)
        for _ in range(count)
    ]


def same(one: Histogram, other: Histogram) -> bool:
    return (
        (one.exponent, one.low, one.high) == (other.exponent, other.low, other.high)
        and bool((one.counts == other.counts).all())
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_numpys_over_all_values(seed: int) -> None:
    found = streamed(parts(seed))
    values = np.concatenate(parts(seed)).astype(np.float64)
    expected, _ = np.histogram(values, bins=found.edges)
    np.testing.assert_array_equal(found.counts, expected)
    assert (found.low, found.high, found.total) == (values.min(), values.max(), values.size)


@pytest.mark.parametrize("seed", range(5))
def test_order_and_batches_do_not_matter(seed: int) -> None:
    rows = parts(seed)
    whole = histogram_of(np.concatenate(rows))
    assert same(streamed(rows), whole)
    assert same(streamed(rows[::-1]), whole)


def test_between_half_of_the_bins_of_the_larger_side_and_all_are_in_use() -> None:
    for magnitude in (1.0, 1.5, 1.999, 2.0, 1e-20, 1e20):
        found = histogram_of(np.array([magnitude], dtype=np.float32))
        (used,) = np.flatnonzero(found.counts) - BINS
        assert BINS // 2 <= used < BINS


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38])
def test_the_ends_of_float32_are_counted(value: float) -> None:
    found = added(histogram_of(np.array([value], dtype=np.float32)), histogram_of(np.array([1.0], dtype=np.float32)))
    assert found.total == 2
    assert found.counts[np.searchsorted(found.edges, np.float32(value), side="right") - 1] >= 1


def test_zeros_do_not_set_the_width() -> None:
    zeros, small = np.zeros(3, dtype=np.float32), np.array([1e-9, -3e-9], dtype=np.float32)
    assert same(streamed([zeros, small]), histogram_of(np.concatenate([small, zeros])))


def test_memory_does_not_grow() -> None:
    """A small first row and a million times larger ones afterwards: onnxruntime's collector appends bins here."""
    random = np.random.default_rng(0)
    found = streamed([random.normal(size=100) * scale for scale in np.geomspace(1e-6, 1, 50)])
    assert found.counts.shape == (2 * BINS,)
