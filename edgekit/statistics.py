"""Statistics of the gate and of the benchmark: paired differences, exact tests, order statistics.

Rates are percentages and differences are points, as in the manifest. A difference is teacher minus artifact, so a drop
is positive. Everything but `paired_bootstrap` is plain Python: the gate starts without numpy, and scipy (which the
tests use as the reference) is not needed at run time.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray[tuple[int], np.dtype[np.intp]]


def tango_interval(lost: int, gained: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the two-sided score interval of the drop in accuracy, from the same rows through both models.

    Ref: Tango 1998, Statistics in Medicine 17:891-908, eq. 9 (statistic) and the appendix (constrained estimate).
    Solved by bisection instead of the secant method: the statistic falls monotonically, so bisection cannot fail.

    Args:
        lost: rows that only the teacher has right, >= 0.
        gained: rows that only the artifact has right, >= 0.
        rows: all rows, >= 1 and >= lost + gained.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        Lower and upper end in points, in [-100, 100].

    Raises:
        ValueError: counts that cannot be, or a confidence outside (0, 1).
    """
    one_sided = 0.5 + _confidence(confidence) / 2
    return tango_lower(lost, gained, rows, one_sided), tango_upper(lost, gained, rows, one_sided)


def tango_upper(lost: int, gained: int, rows: int, confidence: float = 0.95) -> float:
    """Returns the one-sided upper bound of the drop, in points; arguments and errors as `tango_interval`."""
    _check_counts(lost, gained, rows)
    limit = -NormalDist().inv_cdf(_confidence(confidence))
    low, high = (lost - gained) / rows, 1.0
    if limit > 0:  # a confidence below one half asks for a bound under the estimate
        low, high = -1.0, low
    for _ in range(100):
        middle = (low + high) / 2
        if _tango_score(middle, lost, gained, rows) > limit:
            low = middle
        else:
            high = middle
    return 100 * high


def tango_lower(lost: int, gained: int, rows: int, confidence: float = 0.95) -> float:
    """Returns the one-sided lower bound of the drop, in points; arguments and errors as `tango_interval`."""
    return -tango_upper(gained, lost, rows, confidence)


def _tango_score(difference: float, lost: int, gained: int, rows: int) -> float:
    """Returns the standardised distance of the observed difference from `difference` (a fraction)."""
    a = 2 * rows
    b = (2 * rows - lost + gained) * difference - (lost + gained)
    c = -gained * difference * (1 - difference)
    gained_rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # maximum likelihood under `difference`
    variance = rows * (2 * gained_rate + difference * (1 - difference))
    distance = lost - gained - rows * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def mcnemar_p(lost: int, gained: int) -> float:
    """Returns the exact one-sided p-value that the artifact is worse than the teacher.

    That is P(X >= lost) for X ~ Binomial(lost + gained, 1/2), in integer arithmetic. "Not significant" is not "equal":
    report it, never pass on it.

    Ref: McNemar 1947, Psychometrika 12:153-157; the exact form as Fay & Lumbard 2021, section 2.

    Args:
        lost: rows that only the teacher has right, >= 0.
        gained: rows that only the artifact has right, >= 0.

    Returns:
        Probability in (0, 1]; 1 where no row differs.

    Raises:
        ValueError: a negative count.
    """
    _check_counts(lost, gained, max(lost + gained, 1))
    discordant = lost + gained
    term = tail = 1  # C(n, n), then downwards to C(n, lost)
    for successes in range(discordant, lost, -1):
        term = term * successes // (discordant - successes + 1)
        tail += term
    return tail / (1 << discordant)


def paired_counts(teacher_right: Sequence[bool], artifact_right: Sequence[bool]) -> tuple[int, int]:
    """Returns (lost, gained): rows that only the teacher, and rows that only the artifact has right.

    Raises:
        ValueError: the two differ in length.
    """
    pairs = list(zip(teacher_right, artifact_right, strict=True))
    return sum(1 for t, a in pairs if t and not a), sum(1 for t, a in pairs if a and not t)


def flip_rate(lost: int, gained: int, rows: int) -> float:
    """Returns the share of rows that are right in one model and wrong in the other, in percent.

    Accuracy hides flips: losses and gains cancel in it. Ref: Dutta et al. 2024, arXiv 2407.09141.

    Raises:
        ValueError: counts that cannot be.
    """
    _check_counts(lost, gained, rows)
    return 100 * (lost + gained) / rows


def churn(teacher_answers: Sequence[object], artifact_answers: Sequence[object]) -> float:
    """Returns the share of rows whose answer changed, in percent; needs no labels and is at least the flip rate.

    Raises:
        ValueError: no rows, or the two differ in length.
    """
    if not teacher_answers:
        raise ValueError("churn: no rows")
    changed = sum(1 for t, a in zip(teacher_answers, artifact_answers, strict=True) if t != a)
    return 100 * changed / len(teacher_answers)


def paired_bootstrap(
    drop: Callable[[Rows], float],
    rows: int,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
    clusters: Sequence[int] | None = None,
) -> tuple[float, float]:
    """Returns the two-sided percentile interval of a drop in any metric, rows resampled for both models together.

    For F1, Spearman and the like; accuracy has Tango's interval, which holds for few rows and for no flips too. For a
    one-sided bound at confidence c, ask for 2c - 1 and take one end.

    Ref: Efron & Tibshirani 1993, chapter 13.

    Args:
        drop: takes row numbers (shape [rows], with repeats), returns metric of teacher minus artifact, in points.
        rows: number of rows, >= 1.
        seed: of the resampling.
        confidence: coverage of the interval, in (0, 1).
        resamples: >= 1; the ends' own noise is about 1 % of the width at 10,000.
        clusters: a group number per row; whole groups are drawn (sentences of one document are not independent).

    Returns:
        Lower and upper end in points.

    Raises:
        ValueError: no rows, or a number of clusters other than `rows`.
    """
    import numpy as np

    if rows < 1 or resamples < 1:
        raise ValueError(f"paired_bootstrap: expected rows and resamples of at least 1, got {rows} and {resamples}")
    if clusters is not None and len(clusters) != rows:
        raise ValueError(f"paired_bootstrap: {len(clusters)} clusters for {rows} rows")
    generator = np.random.default_rng(seed)
    groups = None if clusters is None else [np.flatnonzero(np.asarray(clusters) == c) for c in np.unique(clusters)]
    drops = []
    for _ in range(resamples):
        if groups is None:
            drawn = generator.integers(0, rows, rows)
        else:
            drawn = np.concatenate([groups[place] for place in generator.integers(0, len(groups), len(groups))])
        drops.append(float(drop(drawn)))
    drops.sort()
    tail = 50 * (1 - _confidence(confidence))
    return percentile(drops, tail), percentile(drops, 100 - tail)


def rows_to_settle(
    flips: float, drop: float, margin: float, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Returns how many rows would settle whether a drop is within a margin, if the rates stay as observed.

    n = (z_confidence + z_power)^2 (f - d^2) / (m - d)^2. Where (almost) no row flips that formula asks for none, so the
    result is never less than what Tango's bound z^2 (1 - m) / m needs when not one row differs.

    Args:
        flips: flip rate in percent, 0 to 100.
        drop: observed drop in points.
        margin: the largest drop allowed, in points, 0 to 100.
        confidence: one-sided, in (0, 1).
        power: the chance to settle it with that many rows, in (0, 1).

    Returns:
        A number of rows, or None where no number would do: the drop is the margin itself.

    Raises:
        ValueError: margin, confidence or power out of range.
    """
    if not 0 <= margin < 100:
        raise ValueError(f"rows_to_settle: expected a margin of 0 to 100 points, got {margin}")
    f, d, m = flips / 100, drop / 100, margin / 100
    if math.isclose(d, m, abs_tol=1e-12):
        return None
    z = NormalDist().inv_cdf(_confidence(confidence))
    by_power = (z + NormalDist().inv_cdf(_confidence(power))) ** 2 * max(f - d * d, 0.0) / (m - d) ** 2
    by_bound = z * z * (1 - m) / m if m > 0 and d < m else 0.0
    return max(1, math.ceil(by_power), math.ceil(by_bound))


def percentile(samples: Sequence[float], percent: float) -> float:
    """Returns a percentile by linear interpolation between order statistics (type 7, as numpy).

    Ref: Hyndman & Fan 1996, definition 7.

    Args:
        samples: in any order and unit, at least one.
        percent: 0 to 100.

    Raises:
        ValueError: no samples, or a percent out of range.
    """
    if not samples or not 0 <= percent <= 100:
        raise ValueError(f"percentile: expected samples and 0 to 100 percent, got {len(samples)} and {percent}")
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True)
class MedianRange:
    """A median and two order statistics around it that cover the true median with `confidence`."""

    median: float
    low: float
    high: float
    confidence: float


def median_range(values: Sequence[float], confidence: float = 0.95) -> MedianRange:
    """Returns the median with its distribution-free interval between two order statistics.

    Nothing is assumed of the values but that they are independent. With few values (under 6 for 95 %) no pair of them
    covers that much: the result is then smallest to largest, with the smaller confidence that this has.

    Ref: David & Nagaraja 2003, Order Statistics, section 7.1.

    Args:
        values: for instance the ratio teacher / artifact of each round; at least one.
        confidence: the least coverage wanted, in (0, 1).

    Raises:
        ValueError: no values, or a confidence out of range.
    """
    _confidence(confidence)
    ordered = sorted(values)
    count = len(ordered)
    depth, below = 0, 0  # `below` counts the ways to have at most `depth` values under the median, of 2^count
    covered = 1 - 2 * 0.5**count
    while depth + 1 < count - depth - 1:
        below += math.comb(count, depth)
        wider = 1 - 2 * (below + math.comb(count, depth + 1)) / 2**count
        if wider < confidence:
            break
        depth, covered = depth + 1, wider
    return MedianRange(percentile(ordered, 50), ordered[depth], ordered[count - 1 - depth], max(covered, 0.0))


def median_of_ratios(teacher: Sequence[float], artifact: Sequence[float], confidence: float = 0.95) -> MedianRange:
    """Returns the speedup: the median over rounds of teacher / artifact, each pair taken in one round.

    A ratio within a round cancels the drift of the machine between rounds; a ratio of medians would not.

    Args:
        teacher: one figure a round (the round's median time), > 0.
        artifact: likewise, the same number of rounds, > 0.
        confidence: of the range.

    Raises:
        ValueError: no rounds, unequal numbers of them, or a figure that is not positive.
    """
    if not all(value > 0 for value in (*teacher, *artifact)):
        raise ValueError("median_of_ratios: expected positive figures")
    return median_range([t / a for t, a in zip(teacher, artifact, strict=True)], confidence)


def histogram(
    artifact: Sequence[float], teacher: Sequence[float] | None, bins: int = 60
) -> tuple[list[float], list[int], list[int] | None]:
    """Counts times in bins that both models share, spaced by a constant factor (the two are often 10 x apart).

    Args:
        artifact: times of the artifact in ms, > 0, at least one.
        teacher: times of the teacher in ms, > 0, or None.
        bins: number of bins, >= 1.

    Returns:
        bins + 1 edges in ms; counts of the artifact; counts of the teacher or None. Every time falls in a bin.

    Raises:
        ValueError: no times, a time that is not positive, no bins.
    """
    times = [*artifact, *(teacher or ())]
    if not artifact or bins < 1 or min(times) <= 0:
        raise ValueError("histogram: expected at least one bin and times above 0 ms")
    low, high = min(times), max(times)
    if low == high:
        low, high = low / 1.01, high * 1.01
    edges = [low * (high / low) ** (place / bins) for place in range(bins + 1)]
    edges[0], edges[-1] = low, high  # the power may miss the ends by a rounding error

    def count(samples: Sequence[float]) -> list[int]:
        counts = [0] * bins
        for sample in samples:
            counts[min(max(bisect.bisect_right(edges, sample) - 1, 0), bins - 1)] += 1
        return counts

    return edges, count(artifact), None if teacher is None else count(teacher)


def _check_counts(lost: int, gained: int, rows: int) -> None:
    if lost < 0 or gained < 0 or rows < 1 or lost + gained > rows:
        raise ValueError(f"expected counts with 0 <= lost + gained <= rows, got {lost} + {gained} of {rows}")


def _confidence(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"expected a probability between 0 and 1, got {value}")
    return value
