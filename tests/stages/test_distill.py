"""The student before and after training: copied layers against transformers' own, the loss of rows without a label."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from builds import TinyBuild, made
from test_export import CLOSE, load, token_ids, torch_logits
from test_prune import log_softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgekit import data
from edgekit.artifact import LabelledData, Teacher, TeacherOutputs, Vocabulary, WideStudent
from edgekit.errors import RecipeError
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.stage import Inputs
from edgekit.stages.distill import TEACHER_LAYERS, UNLABELLED, Distill, distillation_loss, student_rows
from edgekit.stages.teach import load_teacher

# Steps so small that no float32 changes: what comes out is what training starts from.
STILL: dict[str, Any] = {"epochs": 1, "min_steps": 0, "batch_size": 240, "learning_rate": 1e-30}


def distil(build: TinyBuild, folder: Path, **options: Any) -> WideStudent:
    """Runs the stage on what the finished build gave it."""
    given = [made(build, kind) for kind in Distill.IN]
    found: WideStudent = tiny.run_stage(Distill(**options), given, folder)
    return found


def layers_of(student: WideStudent) -> list[int]:
    """Returns which of the teacher's layers the student has, as its own file says."""
    layers: list[int] = json.loads((student.path / TEACHER_LAYERS).read_text())
    return layers


@pytest.mark.parametrize(
    ("options", "layers"),
    [({"keep": (0, 2)}, [0, 2]), ({"keep": (1,)}, [1]), ({"layers": 3}, [0, 1, 3]), ({}, [0, 1, 2, 3])],
    ids=["keep two", "keep one", "a number", "default"],
)
def test_the_student_starts_as_the_teacher_without_the_other_layers(
    tiny_build: TinyBuild, tmp_path: Path, options: dict[str, Any], layers: list[int]
) -> None:
    student = distil(tiny_build, tmp_path, **STILL, **options)
    assert layers_of(student) == student.facts["teacher_layers"] == layers
    folder = made(tiny_build, Teacher).path
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    teacher.bert.encoder.layer = torch.nn.ModuleList(teacher.bert.encoder.layer[i] for i in layers)
    texts = [text for text, _ in data.read(made(tiny_build, LabelledData).path).dev]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = torch_logits(teacher, [np.array(tokenizer(text)["input_ids"]) for text in texts])
    rows = token_ids(made(tiny_build, Vocabulary), texts)
    np.testing.assert_allclose(torch_logits(load(student), rows), expected, **CLOSE)
    assert student.facts["parameters"] == sum(p.numel() for p in load(student).parameters())


def test_the_students_tables_are_cut_to_its_vocabulary_and_length(tiny_build: TinyBuild, tmp_path: Path) -> None:
    vocabulary = made(tiny_build, Vocabulary)
    student = load(distil(tiny_build, tmp_path, **STILL, keep=(3,)))
    teacher = AutoModelForSequenceClassification.from_pretrained(made(tiny_build, Teacher).path).bert.embeddings
    words = teacher.word_embeddings.weight[vocabulary.teacher_ids]
    assert torch.equal(student.embeddings.word.weight, words)
    positions = teacher.position_embeddings.weight[: vocabulary.max_length]
    assert torch.equal(student.embeddings.position.weight, positions)
    assert student.config.pad_token_id == vocabulary.facts["pad_token_id"]
    assert student.config.dropout == 0


def test_training_helps_and_the_best_epoch_on_dev_is_kept(tiny_build: TinyBuild) -> None:
    student = made(tiny_build, WideStudent)
    history = student.facts["dev_by_epoch"]
    assert student.facts["dev_best"] == max(history) > history[0]
    dataset = data.read(made(tiny_build, LabelledData).path)
    rows = token_ids(made(tiny_build, Vocabulary), [text for text, _ in dataset.dev])
    model = load(student)
    answers = [model.config.id2label[int(i)] for i in torch_logits(model, rows).argmax(-1)]
    right = sum(answer == label for answer, (_, label) in zip(answers, dataset.dev, strict=True))
    assert student.facts["dev_best"] == pytest.approx(100 * right / len(rows))
    assert layers_of(student) == [1, 3]
    for file in made(tiny_build, Vocabulary).tokenizer.iterdir():
        assert (student.path / file.name).read_bytes() == file.read_bytes()


def test_rows_are_train_with_its_views_and_the_states_of_the_copied_layers(
    tiny_build: TinyBuild, tmp_path: Path
) -> None:
    outputs, dataset = made(tiny_build, TeacherOutputs), data.read(made(tiny_build, LabelledData).path)
    inputs = Inputs({kind: made(tiny_build, kind) for kind in Distill.IN}, Distill.IN)
    train, dev = student_rows(inputs, tiny.context(tmp_path, Distill), [0, 2])
    for split, rows, views in (("train", train, outputs.views), ("dev", dev, [])):
        labelled = dataset.splits()[split]
        ids = token_ids(made(tiny_build, Vocabulary), [*(text for text, _ in labelled), *views])
        assert [row.tolist() for row in rows.ids] == [row.tolist() for row in ids]
        classes = [tiny.LABELS.index(label) for _, label in labelled]
        assert rows.expected.tolist() == classes + [UNLABELLED] * len(views)
        some = [len(ids) - 1, 0, 5]
        states = np.load(outputs.array(split, "states"))
        np.testing.assert_array_equal(rows.arrays["teacher_states"][some], states[some][:, [0, 1, 3]])
        np.testing.assert_array_equal(rows.arrays["teacher_logits"], np.load(outputs.array(split, "logits")))


@pytest.mark.parametrize("views", [0, 1, 4, 6])
def test_rows_without_a_label_have_no_part_in_its_loss(views: int) -> None:
    random = np.random.default_rng(views)
    ours, theirs = random.normal(size=(6, 4)) * 3, random.normal(size=(6, 4)) * 3
    labels = random.integers(0, 4, size=6)
    labels[:views] = UNLABELLED
    p, q = log_softmax(theirs / 3), log_softmax(ours / 3)
    expected = 0.5 * 3**2 * np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    if views < 6:
        expected -= 0.25 * np.mean([log_softmax(ours)[row, labels[row]] for row in range(views, 6)])
    output = SimpleNamespace(logits=torch.tensor(ours, requires_grad=True), hidden_states=())
    batch = {"teacher_logits": torch.tensor(theirs), "labels": torch.tensor(labels)}
    loss = distillation_loss(3.0, 0.5, 0.0, 0.25)(output, batch)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert torch.isfinite(output.logits.grad).all()


def test_no_epochs_take_the_copied_layers_as_they_are(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """All layers and the whole vocabulary: the student is the teacher, to be quantized and nothing else."""
    distilled = distil(tiny_build, tmp_path, epochs=0, layers=4)
    student = EdgekitForSequenceClassification.from_pretrained(distilled.path).eval()
    teacher, _ = load_teacher(made(tiny_build, Teacher).path)
    kept = made(tiny_build, Vocabulary).teacher_ids
    ids = torch.arange(len(kept))[None, :12]
    with torch.inference_mode():
        ours = student(ids).logits
        theirs = teacher(torch.tensor(kept)[ids]).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert "dev_best" not in distilled.facts


def test_a_layer_that_the_teacher_lacks_is_refused(tiny_build: TinyBuild, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"keep names layer 4; the teacher has 4, counted from 0"):
        distil(tiny_build, tmp_path / "keep", keep=(1, 4))
    with pytest.raises(RecipeError, match=r"distill\.layers is 5, but the teacher has 4 layers"):
        distil(tiny_build, tmp_path / "layers", layers=5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 2, "keep": (0, 2)}, "layers and keep are both given"),
        ({"keep": (2, 0)}, r"keep is \[2, 0\]; expected layers .* increasing"),
        ({"keep": (1, 1)}, "each once"),
        ({"keep": (-1, 2)}, "counted from 0"),
        ({"layers": -1}, "layers and epochs must not be negative"),
        ({"epochs": -1}, "must not be negative"),
        ({"min_steps": -1}, "min_steps is -1"),
        ({"temperature": 0.0}, "must be positive"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; known: adamw, muon"),
    ],
)
def test_impossible_options_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distill(**given)
