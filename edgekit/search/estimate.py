"""How far a student falls behind its teacher, estimated on dev.

Right answers alone tell little: on a thousand rows of dev their difference has a standard error of half a point, and
where the two disagree often, of a whole one. Probabilities tell more of those rows: where teacher and student disagree,
by how much the teacher's answer is likelier to be right. They are only as good as the teacher's confidence, which for
one that was fitted too long is of little worth. So both are taken, each weighted by its error.

Of rows that the teacher was trained on right answers tell nothing: what it knows of them it has told its students by
its answers to rows like them, and a large student more than a small one.

A student learns from its teacher's answers, and is not better than it but by chance: that it looks better on dev is no
head start for test. What the gate is expected to find is therefore the estimate cut off at 0, and chance on test.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

HEARD = 0.15
"""Weight of the student's own probabilities: that it disagrees is a sign that the teacher errs (docs/log.md)."""

DOUBT = 0.2
"""What probabilities may be off by on a row on which the two disagree: one standard error (docs/log.md)."""

LAPLACE = 100 * 2**0.5
"""Points that one more row of either kind, by which the student is better or worse, scatter by."""

ONE_GAP = 20.0
"""Points that one disagreement costs on the mean. One more than was seen is counted: that there is none on twenty rows
does not say that there will be none on a thousand."""

HOTTEST = 50.0
"""Temperature that is looked for at most."""

PARTS = 500
"""Equal parts that a distribution is summed over."""

HALVINGS = 50
"""Of the bounds that a quantile is looked for between."""

_ONE_ROW = math.sqrt(1 / (1 / LAPLACE**2 + 1 / (100 * DOUBT) ** 2))


@dataclass(frozen=True)
class Estimate:
    """A drop in accuracy that is to be expected.

    Attributes:
        drop: of the student against the teacher, in points.
        error: its standard error, in points.
        flipped: share of the rows that one of the two answers right and the other does not.
    """

    drop: float
    error: float
    flipped: float


def estimate(teacher: np.ndarray, student: np.ndarray, expected: np.ndarray, known: bool = False) -> Estimate:
    """Estimates a student's drop from rows that neither was trained on.

    Args:
        teacher, student: logits, (rows, classes).
        expected: class of each row, (rows,).
        known: whether what both learned from was trained on these rows; their right answers are not counted then.
    """
    foretold = float(gaps(teacher / temperature(teacher, expected), student).mean())
    lost = 100.0 * ((teacher.argmax(1) == expected) * 1.0 - (student.argmax(1) == expected))
    counted = float(lost.mean())
    variance = (np.square(lost - counted).sum() + LAPLACE**2) / (len(lost) + 2) ** 2
    differ = int(np.count_nonzero(teacher.argmax(1) != student.argmax(1)))
    flipped = float(np.count_nonzero(lost) / len(lost))
    doubt = (100 * DOUBT * (differ + 1) / (len(lost) + 2)) ** 2
    unseen = ONE_GAP / (len(lost) + 2)
    if known:
        return Estimate(foretold + unseen, float(doubt**0.5), flipped)
    weight = doubt / (doubt + variance)
    drop = weight * counted + (1 - weight) * foretold + unseen
    return Estimate(drop, float((1 / (1 / variance + 1 / doubt)) ** 0.5), flipped)


def cautious_drop(behind: Estimate, rows: int, margin: float, confidence: float | None) -> float:
    """Returns the drop, in points, that a limit is held against for the gate to be expected to pass.

    A margin of 0.7 is expected to be enough for three students of four that lie right at the limit (the normal
    distribution's 0.76). The cheapest of several that pass on the same rows of dev is rather one whose estimate is
    lucky, so that somewhat fewer builds pass than that.

    Args:
        behind: estimated on dev.
        rows: of test, which the gate judges by.
        margin: standard errors of what the gate will find: of the estimate and of the rows of test together. More
            precisely, the share of a normal distribution that lies below so many is that of gates that find less.
        confidence: that the gate asks for, as in `confidence_width`.
    """
    scatter = error_on_test(behind.flipped, rows)
    return _found_below(behind.drop, behind.error, scatter, margin) + confidence_width(behind.flipped, rows, confidence)


def least_drop(rows: int, margin: float) -> float:
    """Returns what `cautious_drop` is at least: that of a student that answers so many rows as its teacher does.

    Args:
        rows: of dev.
        margin: as in `cautious_drop`.
    """
    return _found_below(ONE_GAP, _ONE_ROW, 0.0, margin) / (rows + 2)


def rows_within(points: float, margin: float) -> int:
    """Returns how many rows it takes for `least_drop` to be within so many points, which must be positive."""
    return max(0, math.ceil(least_drop(0, margin) * 2 / points) - 2)


def _found_below(drop: float, error: float, scatter: float, margin: float) -> float:
    """Returns the quantile of a normal distribution cut off at 0, summed with another of mean 0.

    Args:
        drop, error: mean and standard deviation of the first, before the cut; the error must be positive.
        scatter: standard deviation of the second, at least 0.
        margin: the quantile, as that of a standard normal distribution.
    """
    kept, beyond = _above(-drop / error), _above(margin)

    def first(above: float) -> float:
        """Returns what that share of the first one lies above: counted from there it is exact where little is kept."""
        return max(0.0, drop - error * NormalDist().inv_cdf(max(kept * above, sys.float_info.min)))

    if scatter == 0:
        return first(beyond)
    likely = [first((part + 0.5) / PARTS) for part in range(PARTS)]  # the largest is the first of them
    low, high = likely[-1] + scatter * margin, likely[0] + scatter * margin
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = sum(_above((middle - one) / scatter) for one in likely) / PARTS
        low, high = (middle, high) if more > beyond else (low, middle)
    return high


def _above(deviation: float) -> float:
    """Returns the share of a standard normal distribution above a deviation; exact far out, as 1 - cdf is not."""
    return math.erfc(deviation / math.sqrt(2)) / 2


def error_on_test(flipped: float, rows: int) -> float:
    """Returns the standard error of a small drop that is found on so many rows, in points: what chance moves it by.

    Args:
        flipped: share of the rows that one of teacher and student answers right and the other does not.
        rows: of test, at least one.
    """
    return float(100 * (flipped / rows) ** 0.5)


def confidence_width(flipped: float, rows: int, confidence: float | None) -> float:
    """Returns how far below its limit a drop must lie for the gate to be sure of it, in points.

    Args:
        flipped, rows: as in `error_on_test`.
        confidence: that the gate asks for, in (0.5, 1); None asks for none.
    """
    return 0.0 if confidence is None else NormalDist().inv_cdf(confidence) * error_on_test(flipped, rows)


def gaps(teacher: np.ndarray, student: np.ndarray, heard: float = HEARD) -> np.ndarray:
    """Says for each row how much likelier the teacher's answer is to be right than the student's.

    Args:
        teacher, student: logits, (rows, classes).
        heard: weight of the student's probabilities, in [0, 1]; the teacher's have the rest.

    Returns:
        Points, (rows,), in [-100, 100]; 0 where the two agree.
    """
    likely = (1 - heard) * np.exp(log_softmax(teacher)) + heard * np.exp(log_softmax(student))
    rows = np.arange(len(likely))
    found: np.ndarray = 100 * (likely[rows, teacher.argmax(1)] - likely[rows, student.argmax(1)])
    return found


def temperature(logits: np.ndarray, expected: np.ndarray) -> float:
    """Returns what logits are to be divided by so that their probabilities are right as often as they say; at least 1.

    Ref: Guo et al. 2017 (1706.04599), section 4.2; only ever to less confidence, since a teacher that is too modest
    overall is still too sure where a student disagrees.

    Args:
        logits: (rows, classes).
        expected: class of each row, (rows,).
    """
    rows = np.arange(len(logits))

    def surprise(sharpness: float) -> float:
        return -float(log_softmax(logits * sharpness)[rows, expected].mean())

    low, high = 1 / HOTTEST, 1.0  # the mean surprise is convex in the sharpness
    for _ in range(60):
        third = (high - low) / 3
        if surprise(low + third) < surprise(high - third):
            high -= third
        else:
            low += third
    return 1 / high


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the probabilities of logits, (rows, classes), in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Returns the mean Kullback-Leibler divergence of a student's answers from the teacher's, in nats.

    Args:
        teacher, student: logits, (rows, classes).
    """
    theirs, ours = log_softmax(teacher), log_softmax(student)
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())
