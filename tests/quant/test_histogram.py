"""Streaming histograms against NumPy's, counted over all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quant.histogram import BINS, CLASSES, Histogram, added, classes_of, histogram_of


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
    assert found.classes.shape == (1, 2 * BINS)


def test_channels_are_counted_by_class_and_weighted() -> None:
    random = np.random.default_rng(0)
    weights = np.concatenate([[0.0], random.lognormal(size=23)])
    classes = classes_of(weights)
    assert classes.weights.shape == (CLASSES,)
    assert np.allclose(np.bincount(classes.of, minlength=CLASSES) @ classes.weights, weights.sum())
    rows = [random.normal(size=(random.integers(1, 9), 24)).astype(np.float32) for _ in range(20)]
    found = histogram_of(rows[0], classes)
    for row in rows[1:]:
        found = added(found, histogram_of(row, classes))
    values = np.concatenate(rows).astype(np.float64)
    plain, _ = np.histogram(values, bins=found.edges)
    np.testing.assert_array_equal(found.counts, plain)
    by_channel = np.broadcast_to(classes.weights[classes.of], values.shape)
    weighted, _ = np.histogram(values, bins=found.edges, weights=by_channel)
    np.testing.assert_allclose(found.weighted, weighted, rtol=1e-9)


def test_a_class_holds_weights_within_an_eighth_of_their_logarithmic_span() -> None:
    weights = np.random.default_rng(1).lognormal(sigma=2, size=400)
    classes = classes_of(weights)
    span = (weights.max() / weights.min()) ** (1 / CLASSES)
    for one in range(CLASSES):
        members = weights[classes.of == one]
        assert members.size == 0 or members.max() / members.min() <= span * 1.0001


@pytest.mark.parametrize("weights", [np.ones(5), np.zeros(5)])
def test_channels_that_weigh_alike_are_one_class(weights: np.ndarray) -> None:
    classes = classes_of(weights)
    assert (classes.of == 0).all()
    assert classes.weights.tolist() == [weights[0]]
