"""The task's labels and scores, against scores counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit import tasks
from edgekit.errors import DataError, RecipeError
from edgekit.tasks.text_classification import align, metric, scores


def test_labels_are_matched_by_name_whatever_their_order() -> None:
    assert align(["b", "c", "a"], ["a", "b"]) == {"a": 2, "b": 0}


def test_unnamed_classes_fit_their_numbers_and_their_names() -> None:
    assert align(["LABEL_0", "LABEL_1"], ["0", "1"]) == {"0": 0, "1": 1}
    assert align(["LABEL_0", "LABEL_1"], ["LABEL_1"]) == {"LABEL_1": 1}


@pytest.mark.parametrize(("model", "given"), [(["a", "b"], ["a", "z"]), (["LABEL_0", "LABEL_1"], ["1", "2"])])
def test_a_label_that_the_model_lacks_is_named(model: list[str], given: list[str]) -> None:
    with pytest.raises(DataError, match=f"1 of the data's 2 labels: '{given[1]}'"):
        align(model, given)


def test_scores_are_those_counted_by_hand() -> None:
    predicted, expected = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 0, 0, 1, 1, 3])
    logits = np.eye(4)[predicted]
    found = scores(logits, expected)
    assert metric(logits, expected) == found["accuracy"] == pytest.approx(50)
    assert found["macro_precision"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3 * 100)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3 * 100)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3 * 100)


def test_tasks_are_found_by_their_files_names() -> None:
    assert "text-classification" in tasks.names()
    with pytest.raises(RecipeError, match="did you mean 'text-classification'"):
        tasks.load_task("text-clasification")
