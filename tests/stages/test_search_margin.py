"""How far within its limit a student must be estimated: by few rows of dev or of test, and for a gate that is sure."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import write_target
from searches import search

from edgekit import data
from edgekit.artifact import LabelledData
from edgekit.search.estimate import Estimate, estimate, least_drop
from edgekit.stages.evaluate import Evaluate
from edgekit.stages.search import Search


def test_on_a_dev_split_that_can_show_nothing_only_a_student_that_answers_as_the_teacher_passes(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(data.read(artifacts[LabelledData].path).dev)
    limit = round(0.4 * least_drop(rows, Search.margin), 3)
    strict = str(write_target(tmp_path / "strict.toml", ("max_drop = 30.0", f"max_drop = {limit}")))
    answers, asked = np.eye(3)[np.arange(rows) % 3], np.zeros(rows, dtype=int)
    perfect = estimate(answers, answers, asked)
    monkeypatch.setattr("edgekit.stages._trainer.estimate", lambda *_: perfect)
    plan, _ = search(artifacts, tmp_path / "perfect", strict, trainings=1)
    (found,) = plan.facts["findings"]
    assert found["check"] == "dev-too-small"
    assert f"{rows} rows cannot show a drop within {limit:g} points" in found["detail"]
    needed = int(re.search(r"at least (\d+) rows of dev", found["cure"])[1])  # type: ignore[index]
    assert least_drop(needed, Search.margin) <= limit < least_drop(needed - 1, Search.margin)
    near = dataclasses.replace(perfect, drop=perfect.drop + 0.1)
    monkeypatch.setattr("edgekit.stages._trainer.estimate", lambda *_: near)
    plan, _ = search(artifacts, tmp_path / "near", strict, trainings=1)
    assert [one["check"] for one in plan.facts["findings"]] == ["dev-too-small", "no-structure-within-drop"]


def test_a_drop_of_nothing_is_shown_by_no_dev_split(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    none = str(write_target(tmp_path / "none.toml", ("max_drop = 30.0", "max_drop = 0.0")))
    plan, _ = search(artifacts, tmp_path, none, trainings=1)
    found = next(one for one in plan.facts["findings"] if one["check"] == "dev-too-small")
    assert found["cure"] == "a limit above 0 (--max-drop)"


def test_a_gate_that_must_be_sure_takes_a_dearer_one(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students that are trained first, which are the cheaper ones here, differ in more answers than the gate allows."""
    seen: list[float] = []

    def near(teacher: Any, student: Any, expected: Any, known: bool) -> Estimate:
        seen.append(0.0)
        return Estimate(20.0, 0.1, 0.9 if len(seen) == 1 else 0.0)

    monkeypatch.setattr("edgekit.stages._trainer.estimate", near)
    plain, _ = search(artifacts, tmp_path / "plain", str(write_target(tmp_path / "plain.toml")))
    seen.clear()
    sure = str(write_target(tmp_path / "sure.toml", ("[gate]\n", "[gate]\nconfidence = 0.99\n")))
    strict, _ = search(artifacts, tmp_path / "sure", sure)
    works = [max(point["work"] for point in one.facts["points"]) for one in (plain, strict)]
    assert works[1] > works[0]


@pytest.mark.parametrize(("test_rows", "found"), [(10_000, False), (100, True)])
def test_on_few_rows_of_test_a_student_must_be_nearer(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test_rows: int, found: bool
) -> None:
    """Thirty points are allowed; 0.7 of what test scatters by are half a point on 10,000 rows, and five on 100."""
    monkeypatch.setattr("edgekit.stages._trainer.estimate", lambda *_: Estimate(29.0, 0.1, 0.5))
    monkeypatch.setattr(Evaluate, "rows", lambda *_: test_rows)
    plan, _ = search(artifacts, tmp_path, str(write_target(tmp_path / "target.toml")))
    told = [one for one in plan.facts["findings"] if one["check"] == "no-structure-within-drop"]
    assert bool(told) is found
    assert plan.facts["test_error"] == pytest.approx(100 * (0.5 / test_rows) ** 0.5)
    for one in told:
        assert "of 7.07 on 100 of test, against 30 points" in one["detail"]
        assert "test has too few rows" in one["cost"]
        assert one["cure"].startswith("more rows of test")
