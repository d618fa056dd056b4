"""From raw times and answers to the figures of a row."""

from __future__ import annotations

import numpy as np
import pytest
from timings import figures


def test_ratio_is_taken_within_rounds() -> None:
    random = np.random.default_rng(0)
    drift = np.array([1.0, 1.1, 3.0, 0.9, 2.0, 1.2, 1.0, 1.5])[:, None]  # of the machine, on both alike
    teacher, model = (drift * ms * random.uniform(0.98, 1.02, (8, 60)) for ms in (8.0, 2.0))
    cold = np.arange(8.0) + 3
    found = figures(model, cold, teacher, 2 * cold)
    assert found["speedup"] == pytest.approx(np.median(np.median(teacher, 1) / np.median(model, 1)))
    assert found["speedup"] == pytest.approx(4, rel=0.01)
    assert found["speedup_low"] <= found["speedup"] <= found["speedup_high"]
    assert found["p50_ms"] == pytest.approx(np.percentile(model, 50))
    assert found["p95_ms"] == pytest.approx(np.percentile(model, 95))
    assert found["teacher_p50_ms"] == pytest.approx(np.percentile(teacher, 50))
    assert (found["cold_ms"], found["teacher_cold_ms"]) == (6.5, 13)


def test_ratio_refuses_unequal_rounds() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        figures(np.ones((3, 5)), np.ones(3), np.ones((4, 5)), np.ones(4))


def test_accuracy_is_paired() -> None:
    from measuring import accuracy

    expected = np.arange(200) % 5
    teacher, answers = expected.copy(), expected.copy()
    teacher[:10] += 1  # ten rows that only the answers have right
    answers[50:66] += 1  # sixteen that only the teacher has
    found = accuracy(answers, teacher, expected)
    assert (found["lost"], found["gained"], found["rows"]) == (16, 10, 200)
    assert found["drop"] == pytest.approx(found["teacher_accuracy"] - found["accuracy"]) == pytest.approx(3)
    low, high = found["drop_ci95"]
    assert low < 0 < 3 < high
