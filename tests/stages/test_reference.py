"""The float models' logits on test against transformers, row by row; classes in the teacher's order, not the data's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
from test_export import CLOSE, load, token_ids, torch_logits
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgekit import data, frontends
from edgekit.artifact import LabelledData, Reference, Student, Teacher, Vocabulary
from edgekit.checkpoint import load_classifier
from edgekit.errors import DataError
from edgekit.stages.reference import Compare
from edgekit.stages.trim import Trim

LABELS = tuple(reversed(tiny.LABELS))
LONGEST = 9  # tokens that the student reads; some of the test rows have more


class Compared(NamedTuple):
    """What the stage was given, and what it made."""

    teacher: Teacher
    student: Student
    vocabulary: Vocabulary
    rows: LabelledData
    made: Reference


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """A teacher whose labels stand in another order than the data's, and a student that is the teacher itself."""
    folder = tmp_path_factory.mktemp("reference")
    teacher = Teacher(tiny.write_teacher(folder / "teacher", LABELS), "")
    rows = tiny.labelled(folder / "data", tiny.write_data(folder / "raw", rows=40, dev=8, test=60, seed=3))
    vocabulary = tiny.run_stage(Trim(enabled=False, max_length=LONGEST), [teacher, rows], folder / "trim")
    frontends.build(load_classifier(teacher.path)).save_pretrained(folder / "student")
    student = Student(folder / "student", "")
    made = tiny.run_stage(Compare(), [teacher, student, vocabulary, rows], folder / "run")
    return Compared(teacher, student, vocabulary, rows, made)


def array(made: Reference, name: str) -> np.ndarray:
    """Reads one of the arrays."""
    found: np.ndarray = np.load(made.path / f"{name}.npy")
    return found


def texts(compared: Compared) -> list[str]:
    return [text for text, _ in data.read(compared.rows.path).test]


def teacher_ids(compared: Compared) -> list[np.ndarray]:
    """Tokenises the test rows for the teacher, as its users do."""
    tokenizer = AutoTokenizer.from_pretrained(compared.teacher.path)
    return [np.array(tokenizer(text)["input_ids"]) for text in texts(compared)]


def test_the_teachers_logits_are_those_of_transformers_on_test(compared: Compared) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(compared.teacher.path).eval()
    found = array(compared.made, "teacher")
    assert found.shape == (60, 4)
    np.testing.assert_allclose(found, torch_logits(model, teacher_ids(compared)), **CLOSE)


def test_the_students_logits_are_its_own_in_its_own_tokenisation(compared: Compared) -> None:
    rows = token_ids(compared.vocabulary, texts(compared))
    expected = torch_logits(load(compared.student), rows)
    np.testing.assert_allclose(array(compared.made, "student"), expected, **CLOSE)


def test_only_rows_that_the_student_cuts_are_answered_otherwise(compared: Compared) -> None:
    cut = np.array([len(row) > LONGEST for row in teacher_ids(compared)])
    assert 5 < cut.sum() < 55
    assert compared.made.facts["rows_cut"] == cut.sum()
    assert compared.made.facts["rows"] == 60
    apart = np.abs(array(compared.made, "teacher") - array(compared.made, "student")).max(axis=1)
    assert apart[~cut].max() < 1e-4
    assert np.median(apart[cut]) > 1e-2


def test_expected_classes_are_the_teachers(compared: Compared) -> None:
    expected = [LABELS.index(label) for _, label in data.read(compared.rows.path).test]
    assert array(compared.made, "expected").tolist() == expected
    assert expected != [tiny.LABELS.index(label) for _, label in data.read(compared.rows.path).test]


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_scores_are_those_of_the_confusion_matrix(compared: Compared, name: str) -> None:
    expected, answers = array(compared.made, "expected"), array(compared.made, name).argmax(-1)
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (expected, answers), 1)
    hits = np.diag(confusion)
    precision, recall = hits / np.maximum(confusion.sum(0), 1), hits / confusion.sum(1)
    f1 = 2 * hits / (confusion.sum(0) + confusion.sum(1))
    assert compared.made.facts[name] == pytest.approx({
        "accuracy": 100 * hits.sum() / 60,
        "macro_precision": 100 * precision.mean(),
        "macro_recall": 100 * recall.mean(),
        "macro_f1": 100 * f1.mean(),
    })  # fmt: skip
    assert compared.made.facts["teacher"]["accuracy"] > 90  # so that the labels' order is not a matter of chance


def test_labels_that_the_teacher_lacks_are_refused(compared: Compared, tmp_path: Path) -> None:
    tiny.config_of("bert", 100, ("alarm", "lights", "music", "other")).save_pretrained(tmp_path / "other")
    given = [Teacher(tmp_path / "other", ""), compared.student, compared.vocabulary, compared.rows]
    with pytest.raises(DataError, match="'weather'"):
        tiny.run_stage(Compare(), given, tmp_path / "run")
