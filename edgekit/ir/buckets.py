"""The choice of input lengths for accelerators that have fixed ones: a row is padded to the shortest that holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

STEP = 8
"""Lengths are multiples of this: vector units pad to as much themselves."""


def choose(rows: Sequence[int], max_length: int, buckets: int) -> tuple[int, ...]:
    """Chooses at most so many input lengths that the rows are padded by the fewest tokens in all.

    Args:
        rows: tokens of each row; longer ones than `max_length` are cut to it.
        max_length: the last length, as it is: the model may have no position beyond.
        buckets: how many at most, at least 1.

    Returns:
        Lengths, increasing; of equal choices the one of fewest, and of these the one of the shortest.

    Raises:
        ValueError: `max_length` or `buckets` is not positive.

    By dynamic programming over the last length but one: with the last fixed, what is best below it does not depend on
    what is above.
    """
    if max_length < 1 or buckets < 1:
        raise ValueError(f"max_length and buckets must be positive, got {max_length} and {buckets}")
    counts = Counter(min(length, max_length) for length in rows)
    lengths = [*range(STEP, max_length, STEP), max_length]

    def padding(above: int, upto: int) -> int:
        return sum(count * (upto - length) for length, count in counts.items() if above < length <= upto)

    # Of each length as the last: padding of the rows up to it, number of lengths, and those lengths.
    best = {last: (padding(0, last), 1, (last,)) for last in lengths}
    for _ in range(buckets - 1):
        longer = [
            (best[one][0] + padding(one, last), best[one][1] + 1, (*best[one][2], last))
            for last in lengths
            for one in lengths
            if one < last
        ]
        best = {last: min([best[last], *(found for found in longer if found[2][-1] == last)]) for last in lengths}
    return best[max_length][2]
