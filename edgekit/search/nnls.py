"""Least squares with coefficients that are not negative: what a unit of work takes is never less than nothing.

An unconstrained fit to a few dozen points gives some units a negative price, and a search then buys those.
"""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-10
"""Of the gradient beside its largest entry at the start, below which no coefficient would grow."""


def nnls(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the x >= 0 that minimises |matrix x - values|².

    Ref: Lawson & Hanson 1974, Solving Least Squares Problems, chapter 23, algorithm NNLS. Sub-problems are solved by
    `numpy.linalg.lstsq`, so columns may depend on one another.

    Args:
        matrix: (rows, columns), float64.
        values: (rows,).

    Returns:
        (columns,), float64.

    Raises:
        ValueError: the two differ in rows, or a value is not finite.
    """
    if matrix.ndim != 2 or values.shape != matrix.shape[:1]:
        raise ValueError(f"nnls: a matrix of shape {matrix.shape} with values of shape {values.shape}")
    if not (np.isfinite(matrix).all() and np.isfinite(values).all()):
        raise ValueError("nnls: a value is not finite")
    columns = matrix.shape[1]
    x, free = np.zeros(columns), np.zeros(columns, dtype=bool)
    gradient = matrix.T @ values
    least = TOLERANCE * max(float(np.abs(gradient).max(initial=0.0)), np.finfo(float).tiny)
    barred = np.zeros(columns, dtype=bool)  # freed and driven back at once: rounding alone makes it seem to help
    while True:
        waiting = np.where(free | barred, -np.inf, gradient)
        entering = int(waiting.argmax()) if columns else 0
        if not columns or waiting[entering] <= least:
            return x
        free[entering] = True
        while True:
            solution = np.zeros(columns)
            solution[free] = np.linalg.lstsq(matrix[:, free], values, rcond=None)[0]
            negative = free & (solution <= 0)
            if not negative.any():
                break
            step = float((x[negative] / np.maximum(x[negative] - solution[negative], np.finfo(float).tiny)).min())
            x = x + step * (solution - x)
            free &= x > TOLERANCE * float(x.max())
            x[~free] = 0.0
        if free[entering]:
            barred[:] = False
        else:
            barred[entering] = True
        x = solution
        gradient = matrix.T @ (values - matrix @ x)
