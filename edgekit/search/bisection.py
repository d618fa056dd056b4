"""Which rungs of a ladder to look at: from the middle to the last that passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np


def bisection(first: int, count: int, passes: Callable[[int], bool], most: int) -> Iterator[int]:
    """Yields places on a ladder to look at, until the last one that passes is found.

    Places are assumed to pass up to some one and to fail behind it. From the first place strides of two go towards the
    change; then what lies between is halved.

    Args:
        first: where to begin.
        count: places there are.
        passes: whether a place that was yielded passes; asked when the next is wanted.
        most: places to yield at most.
    """
    best, worst = -1, count  # the last that passes, the first that fails
    place = first
    for _ in range(most):
        yield place
        if passes(place):
            best = max(best, place)
        else:
            worst = min(worst, place)
        if worst - best <= 1:
            return
        if worst == count:
            place = min(best + 2, count - 1)
        elif best == -1:
            place = max(worst - 2, 0)
        else:
            place = (best + worst) // 2


def nearest(shares: Sequence[float], wanted: float) -> int:
    """Returns the place whose share of the work is nearest, as a ratio."""
    return int(np.argmin(np.abs(np.log(np.array(shares) / wanted))))
