"""Ranges from a stream against NumPy over all rows at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import DataError, InputError
from edgekit.quant.ranges import METHODS, Range, read_ranges, stream_ranges, write_ranges


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
    for name, found in stream_ranges(rows, "minmax").items():
        values = np.concatenate([row[name].ravel() for row in rows])
        assert found == Range(min(float(values.min()), 0.0), max(float(values.max()), 0.0), "minmax", len(rows))


def test_moving_average_follows_the_recurrence() -> None:
    rows = stream()
    for name, found in stream_ranges(rows, "moving-average").items():
        age = np.arange(len(rows))[::-1]
        weights = np.where(age == len(rows) - 1, 1.0, 0.05) * 0.95**age
        assert weights.sum() == pytest.approx(1)
        low = float(weights @ [float(row[name].min()) for row in rows])
        high = float(weights @ [float(row[name].max()) for row in rows])
        assert found.low == pytest.approx(min(low, 0.0), abs=1e-9)
        assert found.high == pytest.approx(max(high, 0.0), abs=1e-9)


def test_one_outlying_row_moves_a_moving_average_by_a_twentieth() -> None:
    rows = [{"x": np.array([-1.0, 1.0])}] * 10 + [{"x": np.array([-1.0, 101.0])}]
    assert stream_ranges(rows, "minmax")["x"].high == 101
    assert stream_ranges(rows, "moving-average")["x"].high == pytest.approx(6)


@pytest.mark.parametrize("method", METHODS)
def test_zero_is_always_representable(method: str) -> None:
    found = stream_ranges(stream(), method)
    assert found["above"].low == 0.0
    assert found["below"].high == 0.0
    assert all(r.low <= 0 <= r.high for r in found.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_row(method: str, bad: float) -> None:
    rows = stream(5)
    rows[3]["above"][1, 2, 3] = bad
    with pytest.raises(DataError, match="'above' is not finite on calibration row 4"):
        stream_ranges(rows, method)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_are_an_error(method: str) -> None:
    with pytest.raises(DataError, match="empty"):
        stream_ranges([], method)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(InputError, match=r"unknown range method 'entropy'.*minmax"):
        stream_ranges(stream(1), "entropy")


@pytest.mark.parametrize("method", METHODS)
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

    assert stream_ranges(rows(), method)["x"].rows == 20


def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    ranges = stream_ranges(stream(), "moving-average")
    write_ranges(tmp_path / "ranges.json", ranges)
    assert read_ranges(tmp_path / "ranges.json") == ranges
