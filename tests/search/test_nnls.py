"""Non-negative least squares against scipy's, on random problems and on those that have many solutions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from edgekit.search.nnls import nnls


@pytest.mark.parametrize("seed", range(40))
def test_it_is_as_near_as_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = int(random.integers(1, 60)), int(random.integers(1, 16))
    matrix = random.random((rows, columns)) if seed % 2 else random.standard_normal((rows, columns))
    if seed % 5 == 0 and columns > 1:
        matrix[:, 1] = 2 * matrix[:, 0]
    values = matrix @ np.maximum(random.standard_normal(columns), 0) + (seed % 3) * random.standard_normal(rows)
    found = nnls(matrix, values)
    _, least = optimize.nnls(matrix, values)
    assert (found >= 0).all()
    assert np.linalg.norm(matrix @ found - values) == pytest.approx(least, abs=1e-9)


def test_it_finds_the_coefficients_where_there_is_one_solution() -> None:
    random = np.random.default_rng(0)
    matrix, expected = random.random((50, 6)), np.array([0.0, 1e-3, 2.0, 0.0, 30.0, 1.0])
    np.testing.assert_allclose(nnls(matrix, matrix @ expected), expected, atol=1e-9)
    np.testing.assert_allclose(nnls(1e-8 * matrix, matrix @ expected), 1e8 * expected, rtol=1e-6, atol=1)


def test_what_only_a_negative_coefficient_would_fit_is_left_at_nothing() -> None:
    np.testing.assert_array_equal(nnls(np.ones((3, 2)), -np.ones(3)), [0, 0])
    np.testing.assert_array_equal(nnls(np.zeros((3, 2)), np.ones(3)), [0, 0])


@pytest.mark.parametrize(
    ("matrix", "values"),
    [(np.ones((3, 2)), np.ones(2)), (np.ones(3), np.ones(3)), (np.array([[np.nan]]), np.ones(1))],
)
def test_what_is_no_problem_is_refused(matrix: np.ndarray, values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="nnls"):
        nnls(matrix, values)
