"""What a peer ships: the file that its user would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import Score, best, choose
from peer import Split
from run import seconds_of


def test_the_fastest_that_is_nearly_as_accurate_is_taken() -> None:
    scores = {"exact": Score(95.0, 3.0), "quick": Score(94.6, 1.0), "coarse": Score(90.0, 0.2)}
    assert best(scores) == "quick"
    assert best({**scores, "better": Score(95.3, 4.0)}) == "exact", "what is near enough depends on the best"
    assert best({"one": Score(95.0, 2.0), "other": Score(95.2, 2.0)}) == "other"


def test_the_chosen_file_stays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {b"a": Score(95.0, 2.0), b"b": Score(94.6, 1.0), b"c": Score(95.2, 5.0)}
    monkeypatch.setattr("graphs.score", lambda path, dev: found[path.read_bytes()])

    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("no such operator")

    ways: dict[str, Any] = {name: lambda path, name=name: path.write_bytes(name.encode()) for name in "abc"}
    chosen, tried = choose({**ways, "broken": broken}, Split([], [], np.zeros(0, int)), tmp_path / "model.onnx")
    assert chosen == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"a"
    assert tried["broken"] == "ValueError: no such operator"
    assert tried["c"] == {"dev_accuracy": 95.2, "p50_ms": 5.0}


def test_a_searchs_seconds_are_not_counted_twice() -> None:
    class Step:
        def __init__(self, stage: str, seconds: float) -> None:
            self.stage, self.seconds = stage, seconds

    student = [Step("distill", 2.0), Step("score", 8.0), Step("prune", 60.0)]
    built: Any = [Step("teach", 100.0), *student, Step("export", 5.0)]
    assert seconds_of(built, 0.0) == 175.0
    assert seconds_of([*built, Step("search", 900.0)], 900.0) == 1005.0
    assert seconds_of([*built, Step("search", 1.0)], 900.0) == 1005.0, "of a second target"
