"""Fits a linear model of word and character counts to the data: who needs a transformer where that is enough?

It is no candidate: an app that takes it needs other code than a model file. But a build whose gate a linear model would
pass says so, because its user may want to know before they ship anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, Floor, LabelledData, write_json
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.evaluate import draw
from edgekit.tasks import load_task

RIGHT = "right.npy"
"""Which rows of test the model answers right, (rows,) of bool."""

MODEL = "linear SVM on TF-IDF of words, word pairs and pieces of 2 to 5 characters"

WEIGHTS = 40_000_000
"""Weights of the model at most, classes times features: fitting it holds a few copies of eight bytes each."""

WORD = r"\w+|[^\w\s]"
"""A word or a single sign: a text of one letter, or of an emoji, has one too."""


@dataclass(frozen=True)
class Linear(Pass):
    """Trains on train, reports on dev and test; nothing of the build depends on it.

    Words and pieces are the most frequent, where there are too many for the classes.

    Attributes:
        rows: training rows at most, drawn by the seed: a linear model has learned what it can from these.
        characters: of these rows together at most: pieces of long texts take gigabytes.
    """

    rows: int = 50_000
    characters: int = 10_000_000

    NAME: ClassVar[str] = "floor"
    VERSION: ClassVar[int] = 4
    IN: ClassVar = (LabelledData,)
    OUT: ClassVar = Floor
    TOOLS: ClassVar[tuple[str, ...]] = ("scikit-learn", "numpy")

    def __post_init__(self) -> None:
        if min(self.rows, self.characters) < 1:
            raise ValueError(f"rows is {self.rows}, characters {self.characters}; both must be at least 1")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes what the model reaches, in percent of the task's metric, and which rows of test it gets right."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.svm import LinearSVC

        dataset, task = data.read(inputs[LabelledData].path), load_task(ctx.task)
        average = sum(len(text) for text, _ in dataset.train) / len(dataset.train)
        most = min(self.rows, max(2 * len(dataset.labels), int(self.characters / average)))
        train = [dataset.train[i] for i in draw(len(dataset.train), most, ctx.seed)]
        rows = 1 if len(dataset.labels) == 2 else len(dataset.labels)
        counted = {"sublinear_tf": True, "dtype": np.float32, "max_features": max(1, WEIGHTS // rows // 2)}
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=WORD, **counted)
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **counted)
        model = make_pipeline(make_union(words, pieces), LinearSVC(random_state=ctx.seed))
        model.fit([text for text, _ in train], [label for _, label in train])
        facts: dict[str, object] = {"model": MODEL}
        place = {label: i for i, label in enumerate(dataset.labels)}
        for split, pairs in (("dev", dataset.dev), ("test", dataset.test)):
            answers = np.array([place[label] for label in model.predict([text for text, _ in pairs])])
            expected = np.array([place[label] for _, label in pairs])
            facts[split] = task.metric(np.eye(len(place))[answers], expected)
        np.save(out_dir / RIGHT, answers == expected)
        write_json(out_dir / FACTS, facts)
