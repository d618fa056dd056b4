"""The stage that evens out products' inputs: what it writes, what it chooses, and a model that needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from builds import TinyBuild, made
from test_export import load, torch_logits

from edgekit.artifact import EqualisedStudent, LabelledData, Student, Vocabulary
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.equalise import can_divide, divide, is_free, products, with_multipliers
from edgekit.stages.equalise import Equalise, Tried, worth_it


def equalise(build: TinyBuild, folder: Path, student: Student, **options: object) -> EqualisedStudent:
    given = [student, made(build, Vocabulary), made(build, LabelledData)]
    found: EqualisedStudent = tiny.run_stage(Equalise(**options), given, folder)  # type: ignore[arg-type]
    return found


@pytest.fixture
def hard(tiny_build: TinyBuild, tmp_path: Path) -> Student:
    """The student with two input channels of every product 60 times as large, and float answers as before."""
    student = made(tiny_build, Student)
    model = load(student)
    names = [name for name, _ in products(model) if can_divide(model.config, name)]
    model = with_multipliers(model, [name for name in names if not is_free(model.config, name)])
    for name in names:
        divisor = torch.ones(dict(products(model))[name].in_features)
        divisor[[1, 3]] = 1 / 60
        divide(model, name, divisor)
    folder = tmp_path / "hard"
    model.save_pretrained(folder)
    return Student(folder, "")


def test_a_model_with_outlier_channels_is_brought_back(tiny_build: TinyBuild, hard: Student, tmp_path: Path) -> None:
    plain = equalise(tiny_build, tmp_path / "plain", made(tiny_build, Student)).facts
    found = equalise(tiny_build, tmp_path / "mended", hard)
    assert found.facts["logit_rmse_before"] > 4 * plain["logit_rmse_before"]
    assert found.facts["logit_rmse_after"] < 1.5 * plain["logit_rmse_before"]
    assert sum(one["chosen"] for one in found.facts["products"].values()) >= 4
    rows = tiny.token_rows(60, (3, 9, 14))
    np.testing.assert_allclose(torch_logits(load(found), rows), torch_logits(load(hard), rows), atol=2e-3)


def test_the_student_comes_out_whole(tiny_build: TinyBuild, tmp_path: Path) -> None:
    student = made(tiny_build, Student)
    found = equalise(tiny_build, tmp_path / "eq", student)
    model = EdgekitForSequenceClassification.from_pretrained(found.path).eval()
    assert list(model.config.multiplied) == found.facts["multiplied"]
    rows = tiny.token_rows(60, (3, 9, 14))
    np.testing.assert_allclose(torch_logits(model, rows), torch_logits(load(student), rows), atol=1e-3)
    names = {path.name for path in student.path.iterdir()}
    assert {path.name for path in found.path.iterdir()} == names
    assert found.facts["logit_rmse_after"] <= found.facts["logit_rmse_before"] * 1.05


def test_without_strengths_nothing_changes(tiny_build: TinyBuild, tmp_path: Path) -> None:
    student = made(tiny_build, Student)
    found = equalise(tiny_build, tmp_path / "eq", student, strengths=())
    assert not any(one["chosen"] for one in found.facts["products"].values())
    before, after = load(student).state_dict(), load(found).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_mul_is_made_where_the_error_is_tolerated(tiny_build: TinyBuild, tmp_path: Path) -> None:
    student, every = made(tiny_build, Student), {"min_ratio": 1.0, "min_gain": 0.0}
    none, some = (equalise(tiny_build, tmp_path / str(one), student, tolerance=one, **every) for one in (1e9, 0.0))
    assert some.facts["multiplied"] != none.facts["multiplied"] == []
    free = {name for name, one in some.facts["products"].items() if one["free"]}
    assert set(some.facts["divided"]) & free == set(none.facts["divided"]) != set()


def test_a_division_has_to_be_worth_its_mul() -> None:
    def tried(free: bool, before: float, after: float, strength: float | None = 0.5) -> Tried:
        return Tried(9.0, free, before, after, strength)

    found = {
        "large": tried(False, 10.0, 1.0),
        "small": tried(False, 1.0, 0.9),
        "free": tried(True, 1.0, 0.999),
        "none": tried(True, 1.0, 1.0, None),
        "later": tried(False, 1.0, 0.5),
    }
    # Of 14, "large" takes 9; of the 5 that are left, a half is more than a twentieth, and a tenth is not.
    assert worth_it(found, 0.05, 0.0) == ["large", "free", "later"]
    assert worth_it(found, 0.5, 0.0) == ["large", "free"]
    assert worth_it({}, 0.05, 0.0) == []
    # Of an error that nobody would see no Mul is made: not of 5 once 9 of 14 are gone.
    assert worth_it(found, 0.05, 5.0) == ["large", "free"]
    assert worth_it(found, 0.05, 14.0) == ["free"]
    # What is free comes first: where that is enough, the larger gain of another is not worth its Mul.
    either = {"mul": tried(False, 6.0, 3.0), "free": tried(True, 6.0, 3.5)}
    assert worth_it(either, 0.05, 10.0) == ["free"]
    assert worth_it(either, 0.05, 9.0) == ["mul", "free"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": (0.5, 1.5)}, "strengths are"),
        ({"min_ratio": 0.5}, "min_ratio and rows must be at least 1"),
        ({"min_gain": 1.0}, "min_gain between 0 and 1"),
        ({"tolerance": -0.1}, "must be at least 0"),
        ({"rows": 0}, "rows must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Equalise(**options)  # type: ignore[arg-type]
