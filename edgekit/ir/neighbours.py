"""Rows of a word table: which stay where only some can, and which are near one another."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

CHUNK = 1024  # rows compared at a time: a table of 250,000 against itself would not fit memory


def rows_by_use(reads: np.ndarray, seen: np.ndarray, special: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that stay in any case, and the others, those that texts read most first, of equals the first.

    Args:
        reads: the row of each token, (tokens,).
        seen: how often texts read each row, (rows,).
        special: tokens that stand for no text: their rows stay.
    """
    reserved = np.unique(reads[sorted(special)])
    order = np.setdiff1d(np.arange(len(seen)), reserved)
    return reserved, order[np.argsort(-seen[order], kind="stable")]


def nearest_rows(table: np.ndarray, rows: Sequence[int] | np.ndarray, among: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns for each row the one of `among` with the largest cosine to it; of equals the first.

    Args:
        table: (rows, width), float32.
        rows, among: places in it; `among` has at least one.
    """
    candidates = np.asarray(among)
    unit = _unit(table[candidates])
    found = [
        np.argmax(_unit(table[np.asarray(rows[start : start + CHUNK])]) @ unit.T, axis=1)
        for start in range(0, len(rows), CHUNK)
    ]
    chosen: np.ndarray = candidates[np.concatenate(found)]
    return chosen


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return unit
