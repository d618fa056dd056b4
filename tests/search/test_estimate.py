"""The estimated drop: against labels drawn from known probabilities, and against scipy."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from edgekit.search import estimate as es
from edgekit.stages.search import Search


def test_a_gate_that_must_be_sure_leaves_room_for_chance() -> None:
    assert es.confidence_width(0.05, 1000, None) == 0
    # 1.645 standard errors of a difference in which 50 of 1,000 rows may go either way.
    assert es.confidence_width(0.05, 1000, 0.95) == pytest.approx(1.6449 * 100 * (0.05 / 1000) ** 0.5, rel=1e-4)
    assert es.confidence_width(0.05, 4000, 0.95) == pytest.approx(es.confidence_width(0.05, 1000, 0.95) / 2)


def test_divergence_is_scipys() -> None:
    special = pytest.importorskip("scipy.special")
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(2, 50, 7)) * 3
    p, q = special.softmax(teacher, axis=1), special.softmax(student, axis=1)
    assert es.divergence(teacher, student) == pytest.approx(special.rel_entr(p, q).sum(axis=1).mean())
    assert es.divergence(teacher, teacher) == 0


def test_gaps_are_the_drop_that_labels_drawn_from_the_teacher_would_show() -> None:
    generator = np.random.default_rng(1)
    teacher = generator.normal(size=(200, 5)) * 2
    student = teacher + generator.normal(size=teacher.shape)
    likely = pytest.importorskip("scipy.special").softmax(teacher, axis=1)
    drops = []
    for _ in range(2000):
        labels = (likely.cumsum(axis=1) < generator.random((200, 1))).sum(axis=1)
        drops.append(100 * (np.mean(teacher.argmax(1) == labels) - np.mean(student.argmax(1) == labels)))
    error = np.std(drops) / len(drops) ** 0.5
    assert es.gaps(teacher, student, 0.0).mean() == pytest.approx(np.mean(drops), abs=4 * error)
    assert not es.gaps(teacher, teacher).any()


def test_a_student_that_is_heard_is_behind_by_less() -> None:
    teacher, student = np.log([[0.7, 0.2, 0.1]] * 4), np.log([[0.3, 0.6, 0.1]] * 4)
    np.testing.assert_allclose(es.gaps(teacher, student, 0.0), 50)
    np.testing.assert_allclose(es.gaps(teacher, student, 0.25), 100 * (0.75 * 0.5 - 0.25 * 0.3))
    np.testing.assert_allclose(es.gaps(teacher, student, 1.0), -30)


def test_logits_so_large_that_exponentials_overflow_are_no_trouble() -> None:
    teacher = np.array([[1e4, -1e4], [0.0, 5e3]])
    np.testing.assert_array_equal(es.gaps(teacher, -teacher, 0.0), 100)
    assert np.isfinite(es.divergence(teacher, -teacher))


def drawn(rows: int, hot: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A teacher, too sure by a factor, a student near it, and labels as likely as the teacher should say."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(size=(rows, 4)) * 2
    likely = np.exp(es.log_softmax(honest))
    labels = (likely.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1).clip(max=3)
    return honest * hot, honest + generator.normal(size=honest.shape), labels


@pytest.mark.parametrize(("hot", "expected"), [(1.0, 1.0), (3.0, 3.0), (0.4, 1.0)])
def test_a_teacher_that_is_too_sure_is_cooled_and_a_modest_one_left(hot: float, expected: float) -> None:
    teacher, _, labels = drawn(20_000, hot, 0)
    assert es.temperature(teacher, labels) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("hot", [1.0, 4.0])
def test_the_estimate_is_nearer_than_right_answers_alone(hot: float) -> None:
    """Over many small dev splits, against the drop on a large one."""
    teacher, student, labels = drawn(40_000, hot, 1)
    drop = 100 * (np.mean(teacher.argmax(1) == labels) - np.mean(student.argmax(1) == labels))
    found, counted = [], []
    for start in range(0, 40_000, 400):
        rows = slice(start, start + 400)
        one = es.estimate(teacher[rows], student[rows], labels[rows])
        found.append([one.drop, one.error])
        theirs, ours = (np.mean(model[rows].argmax(1) == labels[rows]) for model in (teacher, student))
        counted.append(100 * (theirs - ours))
    drops, errors = np.array(found).T
    off = np.sqrt(np.mean((drops - drop) ** 2))
    assert off < np.sqrt(np.mean((np.array(counted) - drop) ** 2))
    assert off < 1.5 * errors.mean(), "the error that it states is its own"


def test_probabilities_that_foretell_nothing_do_not_outweigh_what_labels_show() -> None:
    teacher = np.tile([0.01, 0.0], (1000, 1))  # as good as undecided, and always right
    student = np.where(np.arange(1000)[:, None] < 100, [0.0, 0.01], teacher)
    found = es.estimate(teacher, student, np.zeros(1000, dtype=int))
    assert es.gaps(teacher, student).mean() < 0.1
    assert 6 < found.drop < 10
    assert found.drop + 3 * found.error > 10


def test_where_all_agree_nothing_is_lost_but_that_is_not_certain() -> None:
    teacher, _, labels = drawn(100, 1.0, 2)
    often = np.tile(teacher, (9, 1))
    few, many = es.estimate(teacher, teacher, labels), es.estimate(often, often, np.tile(labels, 9))
    assert 0 < many.drop < few.drop < 1
    assert 0 < many.error < few.error


def test_right_answers_on_rows_that_the_teacher_knows_are_not_counted() -> None:
    """Labels on which the larger of two like students is always right, as if it had been told."""
    teacher, student, honest = drawn(4000, 1.0, 3)
    told = teacher.argmax(axis=1)
    told_of, seen = es.estimate(teacher, student, told, known=True), es.estimate(teacher, student, honest)
    assert told_of.drop == pytest.approx(es.gaps(teacher, student).mean(), abs=0.01)
    assert abs(told_of.drop - seen.drop) < told_of.error
    assert es.estimate(teacher, student, told).drop > told_of.drop + 3
    differing = np.mean(told != student.argmax(axis=1))
    assert told_of.error == pytest.approx(100 * es.DOUBT * differing, rel=0.01)


def test_the_first_disagreement_does_not_make_it_surer() -> None:
    teacher = np.eye(2)[np.zeros(100, dtype=int)] * 5
    student = teacher.copy()
    errors = []
    for differ in range(4):
        student[:differ] = [0.0, 0.1]
        errors.append(es.estimate(teacher, student, np.zeros(100, dtype=int)).error)
    assert errors == sorted(errors)


@pytest.mark.parametrize("rows", [1, 30, 70, 1000])
def test_how_far_a_student_that_answers_as_its_teacher_does_may_be_behind(rows: int) -> None:
    answers = np.eye(3)[np.arange(rows) % 3] * 5
    found = es.estimate(answers, answers, np.zeros(rows, dtype=int))
    for margin in (0.0, 0.5, 2.0):
        least = es.least_drop(rows, margin)
        assert es.cautious_drop(found, 1000, margin, None) == pytest.approx(least)
        within = es.rows_within(least, margin)
        assert abs(within - rows) <= 1
        assert es.least_drop(within, margin) <= least * (1 + 1e-9)


def test_what_a_drop_on_test_scatters_by_is_of_the_rows_that_one_of_the_two_has_right() -> None:
    """Rows on which both are wrong, in different ways, move no drop."""
    random, rows = np.random.default_rng(0), 2000
    right, student = np.eye(4)[np.zeros(rows, dtype=int)] * 5, np.eye(4)[np.zeros(rows, dtype=int)] * 5
    student[:40] = np.eye(4)[1] * 5  # lost
    right[40:60] = np.eye(4)[1] * 5  # gained
    right[60:300], student[60:300] = np.eye(4)[2] * 5, np.eye(4)[3] * 5
    expected = np.zeros(rows, dtype=int)
    flipped = es.estimate(right, student, expected).flipped
    assert flipped == 60 / rows
    lost = (right.argmax(1) == expected) * 1.0 - (student.argmax(1) == expected)
    drops = 100 * lost[random.integers(rows, size=(4000, rows))].mean(axis=1)
    assert es.error_on_test(flipped, rows) == pytest.approx(np.std(drops), rel=0.05)
    assert es.error_on_test(flipped, 4 * rows) == pytest.approx(es.error_on_test(flipped, rows) / 2)


@pytest.mark.parametrize(
    ("drop", "error", "flipped", "rows"),
    [(0.5, 0.54, 0.027, 3080), (0.6, 0.2, 0.02, 2000), (-0.3, 0.74, 0.073, 1033), (-9.0, 0.74, 0.073, 1033)],
)
@pytest.mark.parametrize("margin", [0.0, Search.margin, 2.0])
def test_the_gate_passes_as_many_students_as_the_margin_says(
    drop: float, error: float, flipped: float, rows: int, margin: float
) -> None:
    random, builds = np.random.default_rng(0), 2_000_000
    drops = drop + error * random.standard_normal(builds)
    drops = drops[drops >= 0]  # a student is not better than what it learns from
    drops = drops if len(drops) else random.exponential(-(error**2) / drop, builds)  # what is left beyond a far cut
    found = drops + es.error_on_test(flipped, rows) * random.standard_normal(len(drops))
    limit = es.cautious_drop(es.Estimate(drop, error, flipped), rows, margin, None)
    assert np.mean(found <= limit) == pytest.approx(NormalDist().cdf(margin), abs=0.003)


def test_where_nothing_is_cut_off_the_errors_add_in_squares() -> None:
    behind = es.Estimate(4.0, 0.4, 0.04)
    assert es.error_on_test(0.04, 400) == pytest.approx(1.0)
    assert es.cautious_drop(behind, 400, 2.0, None) == pytest.approx(4.0 + 2 * (0.4**2 + 1) ** 0.5, rel=1e-3)
    assert es.cautious_drop(behind, 400, 0.0, None) == pytest.approx(4.0)


def test_a_confidence_comes_on_top_of_the_margin() -> None:
    behind = es.Estimate(0.3, 0.4, 0.04)
    alone = es.cautious_drop(behind, 400, 0.7, None)
    assert es.cautious_drop(behind, 400, 0.7, 0.95) - alone == pytest.approx(1.645, abs=1e-3)
    assert es.cautious_drop(behind, 400, 40.0, None) > alone  # a margin beyond what a float tells from certainty
