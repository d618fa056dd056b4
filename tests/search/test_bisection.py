"""Which rungs and depths a search looks at."""

from __future__ import annotations

import pytest

from edgekit.search.bisection import beside, bisection, depths_to_try, valley


@pytest.mark.parametrize("last", range(-1, 12))
@pytest.mark.parametrize("first", [0, 4, 11])
def test_bisection_finds_the_last_place_that_passes(first: int, last: int) -> None:
    looked: list[int] = []
    for place in bisection(first, 12, lambda at: at <= last, lambda dearer, cheaper: True):
        looked.append(place)
    assert len(looked) == len(set(looked)), "none twice"
    assert all(0 <= place < 12 for place in looked)
    passed = [place for place in looked if place <= last]
    assert max(passed, default=-1) == last
    assert last == 11 or last + 1 in looked, "the next one was seen to fail"


@pytest.mark.parametrize("last", range(-1, 12))
@pytest.mark.parametrize("first", [0, 4, 11])
@pytest.mark.parametrize("within", [1, 2, 3, 12])
def test_a_place_that_all_but_passes_is_a_place_away_from_one_that_does(first: int, last: int, within: int) -> None:
    looked = list(
        bisection(first, 12, lambda at: at <= last, lambda dearer, cheaper: True, lambda at: at - last <= within)
    )
    assert len(looked) == len(set(looked))
    assert max((place for place in looked if place <= last), default=-1) == last
    if first == last + 1 and last >= 0:
        assert looked == [first, last], "none is looked at in vain"


@pytest.mark.parametrize(
    ("first", "nearest", "places"),
    [
        (8, 5, [8, 6, 4, 5]),
        (8, 1, [8, 6, 4, 2, 0, 1]),
        (8, 0, [8, 6, 4, 2, 0]),
        (4, 2, [4, 2, 0, 1]),
        (4, 9, [4, 2, 3]),
        (11, 11, [11, 9, 10]),
        (1, 0, [1, 0]),
        (0, 0, [0]),
        (0, 7, [0]),
    ],
)
def test_the_way_up_ends_where_what_is_dearer_is_no_nearer(first: int, nearest: int, places: list[int]) -> None:
    """Of a ladder on which none passes, and both ways from one place lead away."""
    looked = bisection(first, 12, lambda _: False, lambda one, other: abs(one - nearest) < abs(other - nearest))
    assert list(looked) == places


def test_what_passes_beyond_a_dearer_one_that_does_not_is_found() -> None:
    looked = list(bisection(8, 12, lambda at: at == 5, lambda dearer, cheaper: dearer > 4))
    assert looked == [8, 6, 4, 5]


@pytest.mark.parametrize("count", range(1, 9))
def test_a_valley_is_found_by_going_downhill(count: int) -> None:
    for lowest in range(count):
        looked: list[int] = []

        def height(at: int, low: int = lowest, seen: list[int] = looked) -> float:
            seen.append(at)
            return abs(at - low)

        assert valley(count, height) == lowest
        assert len(set(looked)) <= min(count, abs(lowest - (count - 1) // 2) + 3)


def test_a_plateau_is_no_endless_walk() -> None:
    assert valley(5, lambda _: 1.0) == 0


@pytest.mark.parametrize(
    ("known", "depths"),
    [
        ({}, [1, 2, 3, 4, 6]),
        ({2: 3}, [2, 3]),
        ({7: 3}, [3, 4]),
        ({2: 3, 7: 3}, [3]),
        ({2: 6, 3: 4, 7: 2, 8: 1}, [2, 3, 4]),
        ({2: 2, 7: 3}, [2, 3]),
        ({7: 4}, [4]),
        ({7: 6}, [6]),
        ({2: 9}, [6]),
        ({2: 5, 7: 5}, [4, 6]),
    ],
)
def test_depths_that_are_tried_lie_between_those_of_other_rungs(known: dict[int, int], depths: list[int]) -> None:
    assert depths_to_try(known, 5, [1, 2, 3, 4, 6]) == depths


def test_what_lies_beside_the_nearest_is_on_its_cheaper_side() -> None:
    assert beside(3, {3, 5, 9}) == 4
    assert beside(3, {1, 3, 8}) == 5
    assert beside(3, {3, 4, 9}) is None, "there is none between"
    assert beside(9, {3, 9}) is None, "none was cheaper"
