"""Which rungs of a ladder to look at, from the middle to the last that passes, and which depths of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np


def bisection(
    first: int,
    count: int,
    passes: Callable[[int], bool],
    nearer: Callable[[int, int], bool],
    close: Callable[[int], bool] = lambda place: False,
) -> Iterator[int]:
    """Yields places on a ladder to look at, until the last one that passes is found.

    Places are assumed to pass up to some one and to fail behind it. From the first place strides of two go towards the
    change, and of one from a place that all but passes; then what lies between is halved. A place that fails and is no
    nearer to passing than the one behind it ends the way up: what is dearer may have to give more than it gains, as a
    file that is full gives words for layers.

    Args:
        first: where to begin.
        count: places there are.
        passes: whether a place that was yielded passes; asked when the next is wanted.
        nearer: whether the first of two places that failed is nearer to passing than the second, which is behind it.
        close: whether a place that failed all but passes.
    """
    low, high = -1, count  # what is sought lies between: the last that passes, or the end of the way up; one that fails
    place = first
    while True:
        yield place
        if passes(place) or (low == -1 and high < count and not nearer(place, high)):
            low = max(low, place)
        else:
            high = min(high, place)
        if high - low <= 1:
            return
        if high == count:
            place = min(low + 2, count - 1)
        elif low == -1:
            place = max(high - (1 if close(high) else 2), 0)
        else:
            place = (low + high) // 2


def beside(nearest: int, looked: Collection[int]) -> int | None:
    """Returns the place in the middle between one and the next cheaper one that was looked at.

    Args:
        nearest: the cheapest that passes, or the nearest to passing.
        looked: all of those.

    Returns:
        None where there is none between them, or none was cheaper.
    """
    cheaper = min((place for place in looked if place > nearest), default=nearest)
    return (nearest + cheaper) // 2 if cheaper - nearest > 1 else None


def valley(count: int, height: Callable[[int], float]) -> int:
    """Returns the lowest place of a row that falls and then rises, looking at few: downhill from the middle.

    Args:
        count: places there are, at least one.
        height: of a place; asked again for places that are looked at again.
    """
    place = (count - 1) // 2
    while True:
        around = range(max(place - 1, 0), min(place + 2, count))
        lowest = min(around, key=height)  # of equal ones the first, so that a plateau is walked one way only
        if lowest == place:
            return place
        place = lowest


def depths_to_try(known: Mapping[int, int], place: int, there: Sequence[int]) -> list[int]:
    """Returns the depths that may be best on a rung, by those that were on others: with less work they do not grow.

    Args:
        known: rung → the depth that was best on it; a rung of a higher place has less work.
        place: the rung.
        there: depths that it has, at least one.
    """
    dearer = max((at for at in known if at <= place), default=None)
    cheaper = min((at for at in known if at >= place), default=None)
    if dearer is not None and cheaper is not None:
        low, high = sorted((known[dearer], known[cheaper]))
    elif dearer is not None:
        low, high = known[dearer] - 1, known[dearer]
    elif cheaper is not None:
        low, high = known[cheaper], known[cheaper] + 1
    else:
        return list(there)
    away = {depth: max(low - depth, depth - high, 0) for depth in there}
    return [depth for depth in there if away[depth] == min(away.values())]


def nearest(shares: Sequence[float], wanted: float) -> int:
    """Returns the place whose share of the work is nearest, as a ratio."""
    return int(np.argmin(np.abs(np.log(np.array(shares) / wanted))))
