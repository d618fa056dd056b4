"""Tasks: one module each, found by its name (`-` becomes `_`)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from edgekit.errors import RecipeError, suggestion

if TYPE_CHECKING:
    import numpy as np


class Task(Protocol):
    """What a module in this folder offers."""

    COLUMNS: Mapping[str, tuple[str, ...]]
    METRIC: str

    def align(self, model_labels: Sequence[str], data_labels: Sequence[str]) -> dict[str, int]:
        """Maps each label of the data to the model's class; raises `DataError` where that cannot be done."""
        ...

    def metric(self, logits: np.ndarray, expected: np.ndarray) -> float:
        """Returns the task's metric in percent for logits (rows, classes) and expected classes (rows,)."""
        ...

    def scores(self, logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
        """Returns all scores that a report shows, in percent."""
        ...


def names() -> tuple[str, ...]:
    """Names the tasks there are, from the files of this folder."""
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__)))


def load_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in names():
        raise RecipeError(f"unknown task {name!r}{suggestion(name, names())}")
    task: Task = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return task
