"""The linear model: what it reaches on rows that word counts tell apart, and on rows that they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from sklearn.svm import LinearSVC

from edgekit import data
from edgekit.artifact import LabelledData
from edgekit.stages.floor import Linear


def written(folder: Path, train: list[tuple[str, str]], test: list[tuple[str, str]]) -> LabelledData:
    """Writes rows in normal form; dev is test."""
    folder.mkdir()
    labels = tuple(sorted({label for _, label in train}))
    facts = {"rows": {"train": len(train), "dev": len(test), "test": len(test)}}
    data.write(data.Dataset(tuple(train), tuple(test), tuple(test), labels, facts), folder)
    return LabelledData(folder, "")


def test_words_tell_the_classes_apart(tmp_path: Path) -> None:
    rows = [(text, label) for text, label in tiny.sentences(200, 0)]
    found = tiny.run_stage(Linear(), [written(tmp_path / "data", rows, tiny.sentences(60, 1))], tmp_path)
    assert found.facts["test"] == 100
    assert found.facts["dev"] == 100
    assert np.load(found.path / "right.npy").tolist() == [True] * 60


def test_what_only_the_order_of_words_tells_is_out_of_reach_without_pairs(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def rows(count: int) -> list[tuple[str, str]]:
        return [
            (" ".join(random.permutation(["alpha", "beta", "gamma", "delta"])), str(random.integers(2)))
            for _ in range(count)
        ]

    found = tiny.run_stage(Linear(), [written(tmp_path / "data", rows(200), rows(200))], tmp_path)
    assert 30 < found.facts["test"] < 70, "labels drawn by chance"
    assert np.load(found.path / "right.npy").mean() * 100 == pytest.approx(found.facts["test"])


def test_texts_of_single_letters_and_signs_have_words_too(tmp_path: Path) -> None:
    rows = [(f"{sign} {i % 7}", label) for i in range(20) for sign, label in (("☃", "cold"), ("☀", "warm"))]
    found = tiny.run_stage(Linear(), [written(tmp_path / "data", rows, [("☃", "cold"), ("☀", "warm")])], tmp_path)
    assert found.facts["test"] == 100


def test_of_long_texts_fewer_are_learned_from(tmp_path: Path) -> None:
    rows = [(f"{label} " * 50 + f"w{i}", label) for i in range(50) for label in ("a", "b")]
    given = written(tmp_path / "data", rows, [("a", "a"), ("b", "b"), ("w49", "b")])
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekit.stages.floor.draw", lambda rows, wanted, seed: seen.append(wanted) or range(4))
        tiny.run_stage(Linear(characters=1000), [given], tmp_path)
    assert seen == [9], "of 104 characters each"


def test_many_classes_leave_fewer_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    fit = LinearSVC.fit
    monkeypatch.setattr(LinearSVC, "fit", lambda self, x, y: seen.append(x.shape) or fit(self, x, y))
    monkeypatch.setattr("edgekit.stages.floor.WEIGHTS", 400)
    rows = [(f"word{i} of {label}", label) for i in range(20) for label in ("a", "b", "c", "d")]
    tiny.run_stage(Linear(), [written(tmp_path / "data", rows, rows[:8])], tmp_path)
    ((counted, features),) = seen
    assert counted == 80
    assert 50 < features <= 100, "of four classes: half of them words, half pieces"


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Linear(rows=0)
