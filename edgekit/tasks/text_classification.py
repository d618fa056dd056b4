"""One text, one label of several."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edgekit.errors import DataError

COLUMNS = {
    "text": ("text", "sentence", "utterance", "query", "content", "review", "message"),
    "label": ("label", "intent", "category", "class", "target"),
}
METRIC = "accuracy"
_UNNAMED = re.compile(r"LABEL_(\d+)")


def align(model_labels: Sequence[str], data_labels: Sequence[str]) -> dict[str, int]:
    """Maps each label of the data to the model's class, by name.

    A model whose classes are unnamed (LABEL_0, LABEL_1, …) fits data whose labels are those numbers.

    Raises:
        DataError: a label of the data that the model does not know.
    """
    classes = {name: i for i, name in enumerate(model_labels)}
    if all(_UNNAMED.fullmatch(name) for name in model_labels) and not set(data_labels) <= set(classes):
        classes = {name.removeprefix("LABEL_"): i for name, i in classes.items()}
    unknown = [label for label in data_labels if label not in classes]
    if unknown:
        raise DataError(
            f"the model was not trained on {len(unknown)} of the data's {len(data_labels)} labels: {_some(unknown)}; "
            f"its own are {_some(model_labels)}. Give the data it was fine-tuned on, name its classes in config.json "
            "(id2label), or give a base model"
        )
    return {label: classes[label] for label in data_labels}


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" …" if len(names) > 5 else "")


def metric(logits: np.ndarray, expected: np.ndarray) -> float:
    """Returns the accuracy in percent for logits (rows, classes) and expected classes (rows,)."""
    return float(np.mean(logits.argmax(-1) == expected) * 100)


def scores(logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Returns accuracy and the macro averages of precision, recall and F1 over the expected classes, in percent."""
    predicted = logits.argmax(-1)
    rows = []
    for label in np.unique(expected):
        hits = int(np.sum((predicted == label) & (expected == label)))
        precision = hits / max(int(np.sum(predicted == label)), 1)
        recall = hits / int(np.sum(expected == label))
        rows.append((precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0))
    precision, recall, f1 = np.mean(rows, axis=0) * 100
    return {
        "accuracy": metric(logits, expected),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(f1),
    }
