"""Ranges from a stream against NumPy over all rows at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import DataError, InputError
from edgekit.quant.ranges import (
    NAMES,
    Range,
    observe,
    ranges_of,
    read_observed,
    read_ranges,
    write_observed,
    write_ranges,
)


def stream(count: int = 30, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Returns the activations of rows of different lengths."""
    random = np.random.default_rng(seed)
    return [
        {
            "around": (random.normal(size=(random.integers(1, 9), 4)) * 3).astype(np.float32),
            "above": (random.random(size=(2, 3, 4)) + 1).astype(np.float32),
            "below": (-random.random(size=5) - 2).astype(np.float32),
        }
        for _ in range(count)
    ]


def test_minmax_is_the_extreme_over_all_rows() -> None:
    rows = stream()
    for name, found in ranges_of(observe(rows), "minmax").items():
        values = np.concatenate([row[name].ravel() for row in rows])
        assert found == Range(min(float(values.min()), 0.0), max(float(values.max()), 0.0), "minmax", len(rows))


def test_moving_average_follows_the_recurrence() -> None:
    rows = stream()
    for name, found in ranges_of(observe(rows), "moving-average").items():
        age = np.arange(len(rows))[::-1]
        weights = np.where(age == len(rows) - 1, 1.0, 0.05) * 0.95**age
        assert weights.sum() == pytest.approx(1)
        low = float(weights @ [float(row[name].min()) for row in rows])
        high = float(weights @ [float(row[name].max()) for row in rows])
        assert found.low == pytest.approx(min(low, 0.0), abs=1e-6)
        assert found.high == pytest.approx(max(high, 0.0), abs=1e-6)


def test_one_outlying_row_moves_a_moving_average_by_a_twentieth() -> None:
    rows = [{"x": np.array([-1.0, 1.0])}] * 10 + [{"x": np.array([-1.0, 101.0])}]
    assert ranges_of(observe(rows), "minmax")["x"].high == 101
    assert ranges_of(observe(rows), "moving-average")["x"].high == pytest.approx(6)


@pytest.mark.parametrize("method", NAMES)
def test_zero_is_always_representable(method: str) -> None:
    found = ranges_of(observe(stream()), method)
    assert found["above"].low == 0.0
    assert found["below"].high == 0.0
    assert all(r.low <= 0 <= r.high for r in found.values())


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_row(method: str, bad: float) -> None:
    rows = stream(5)
    rows[3]["above"][1, 2, 3] = bad
    with pytest.raises(DataError, match="'above' is not finite on calibration row 4"):
        ranges_of(observe(rows), method)


@pytest.mark.parametrize("method", NAMES)
def test_no_rows_are_an_error(method: str) -> None:
    with pytest.raises(DataError, match="empty"):
        ranges_of(observe([]), method)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(InputError, match=r"unknown range method 'entrpy'; did you mean 'entropy'"):
        ranges_of(observe(stream(1)), "entrpy")


@pytest.mark.parametrize("method", NAMES)
def test_one_row_is_in_memory_at_a_time(method: str) -> None:
    alive = 0

    class Row(dict[str, np.ndarray]):
        def __init__(self) -> None:
            nonlocal alive
            super().__init__(x=np.ones(3))
            alive += 1

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Iterator[Mapping[str, np.ndarray]]:
        for _ in range(20):
            assert alive <= 1
            yield Row()

    assert ranges_of(observe(rows()), method)["x"].rows == 20


def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    observed = observe(stream())
    ranges = {method: ranges_of(observed, method) for method in ("moving-average", "mse")}
    write_ranges(tmp_path / "ranges.json", ranges)
    assert read_ranges(tmp_path / "ranges.json") == ranges


def test_means_and_halves_are_numpys() -> None:
    rows = stream(9)
    observed = observe(rows, {"around": np.arange(1.0, 5.0)})
    values = [row["around"] for row in rows]
    np.testing.assert_allclose(observed["around"].means, np.concatenate(values).mean(axis=0), rtol=1e-5)
    assert observed["above"].means.size == 0
    for half, found in enumerate(observed["around"].halves):
        assert found == (min(v.min() for v in values[half::2]), max(v.max() for v in values[half::2]))
    single = observe(rows[:1])["around"]
    assert single.halves == ((single.histogram.low, single.histogram.high),) * 2


def test_statistics_are_written_and_read_back_to_the_bit(tmp_path: Path) -> None:
    observed = observe(stream(), {"around": np.arange(1.0, 5.0)})
    write_observed(tmp_path / "statistics.npz", observed)
    again = read_observed(tmp_path / "statistics.npz")
    assert list(again) == list(observed)
    for method in NAMES:
        assert ranges_of(again, method) == ranges_of(observed, method)
    for name, one in observed.items():
        np.testing.assert_array_equal(again[name].means, one.means)
        assert again[name].halves == one.halves
