"""From blocks of times to the figures of a row: medians, the ratio to the teacher, cold first inferences."""

from __future__ import annotations

import numpy as np

from edgekit.statistics import median_of_ratios, percentile


def figures(model: np.ndarray, cold: np.ndarray, teacher: np.ndarray, teacher_cold: np.ndarray) -> dict[str, float]:
    """Returns a model's times and how many times faster than the teacher it is, both from one run.

    Args:
        model: milliseconds, shape (rounds, runs of a block), without the warm-up.
        cold: milliseconds of the first inference of each block, shape (rounds,): the other models have just evicted
            this one from the caches, as the rest of an app would.
        teacher, teacher_cold: likewise of the teacher, the same number of rounds.

    Raises:
        ValueError: the rounds differ in number, or a time is not positive.
    """
    ratio = median_of_ratios(_medians(teacher), _medians(model))
    times = [float(t) for t in model.ravel()]
    return {
        "p50_ms": percentile(times, 50),
        "p95_ms": percentile(times, 95),
        "cold_ms": float(np.median(cold)),
        "teacher_p50_ms": float(np.median(teacher)),
        "teacher_cold_ms": float(np.median(teacher_cold)),
        "speedup": ratio.median,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
    }


def _medians(blocks: np.ndarray) -> list[float]:
    return [float(median) for median in np.median(blocks, axis=1)]
