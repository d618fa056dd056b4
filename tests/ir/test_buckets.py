"""The choice of input lengths against all choices there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from edgekit.ir.buckets import STEP, choose


def padding(rows: list[int], lengths: tuple[int, ...]) -> int:
    """Returns the tokens that rows are padded by."""
    return sum(min(one for one in lengths if one >= row) - row for row in rows)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("buckets", [1, 2, 3, 4])
def test_no_other_choice_pads_less(seed: int, buckets: int) -> None:
    random = np.random.default_rng(seed)
    max_length = int(random.integers(5, 90))
    rows = [int(length) for length in random.integers(1, max_length + 1, size=random.integers(1, 60))]
    found = choose(rows, max_length, buckets)
    assert list(found) == sorted(set(found))
    assert len(found) <= buckets
    assert found[-1] == max_length
    assert all(length % STEP == 0 for length in found[:-1])
    shorter = range(STEP, max_length, STEP)
    every = [(*some, max_length) for count in range(buckets) for some in combinations(shorter, count)]
    least = min(padding(rows, lengths) for lengths in every)
    assert padding(rows, found) == least
    assert len(found) == min(len(lengths) for lengths in every if padding(rows, lengths) == least)


def test_rows_that_are_cut_are_of_the_last_length() -> None:
    assert choose([5, 5, 5, 70, 90], 64, 2) == (8, 64)


def test_a_length_that_no_row_needs_is_not_chosen() -> None:
    assert choose([40] * 3, 40, 3) == (40,)
    assert choose([], 40, 3) == (40,)


@pytest.mark.parametrize(("max_length", "buckets"), [(0, 1), (8, 0)])
def test_nothing_to_choose_from_is_refused(max_length: int, buckets: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        choose([3], max_length, buckets)
