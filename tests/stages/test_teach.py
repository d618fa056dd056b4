"""The teacher's recorded outputs against transformers, row by row: logits and first-token states, never of test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from builds import TinyBuild, made
from test_export import CLOSE
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edgekit import data
from edgekit.artifact import LabelledData, Teacher, TeacherOutputs, Vocabulary
from edgekit.errors import ModelError
from edgekit.stages.teach import Teach, answered, encode_for_teacher
from edgekit.target import load_target

EVERY = 7  # rows that are run again; all would only take longer


def again(build: TinyBuild, folder: Path, stage: Teach, seed: int = 0) -> TeacherOutputs:
    """Runs the stage anew on what the finished build gave it."""
    found: TeacherOutputs = tiny.run_stage(stage, [made(build, kind) for kind in stage.IN], folder, seed=seed)
    return found


def texts(build: TinyBuild, split: str) -> list[str]:
    """Returns a split's texts, those of train followed by their views."""
    rows = data.read(made(build, LabelledData).path).splits()[split]
    return [text for text, _ in rows] + (made(build, TeacherOutputs).views if split == "train" else [])


def answers(build: TinyBuild, some: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns transformers' own logits and first-token states of texts, one at a time."""
    folder = made(build, Teacher).path
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        found: list[Any] = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True) for text in some]
    logits = np.concatenate([output.logits.numpy() for output in found])
    return logits, np.stack([[state[0, 0].numpy() for state in output.hidden_states] for output in found])


@pytest.mark.parametrize("split", ["train", "dev"])
def test_outputs_are_the_teachers_own(tiny_build: TinyBuild, split: str) -> None:
    outputs, rows = made(tiny_build, TeacherOutputs), texts(tiny_build, split)
    logits = np.load(outputs.array(split, "logits"), mmap_mode="r")
    states = np.load(outputs.array(split, "states"), mmap_mode="r")
    assert (logits.dtype, states.dtype) == (np.float32, np.float16)
    assert logits.shape == (len(rows), 4)
    assert states.shape == (len(rows), tiny.LAYERS + 1, tiny.HIDDEN)
    expected_logits, expected_states = answers(tiny_build, rows[::EVERY])
    np.testing.assert_allclose(logits[::EVERY], expected_logits, **CLOSE)
    np.testing.assert_allclose(states[::EVERY], expected_states, rtol=2e-3, atol=2e-3)


def test_nothing_is_recorded_of_test(tiny_build: TinyBuild) -> None:
    outputs = made(tiny_build, TeacherOutputs)
    arrays = {f"{split}.{what}.npy" for split in ("train", "dev") for what in ("logits", "states")}
    assert {path.name for path in outputs.path.iterdir()} == arrays | {
        "rows.json",
        "unlabelled.json",
        "views.json",
        "facts.json",
    }
    assert not set(texts(tiny_build, "test")) & set(outputs.views)


def test_accuracy_is_that_of_the_labelled_rows_alone(tiny_build: TinyBuild) -> None:
    outputs, dataset = made(tiny_build, TeacherOutputs), data.read(made(tiny_build, LabelledData).path)
    names = json.loads((made(tiny_build, Teacher).path / "config.json").read_text())["id2label"]
    assert outputs.facts["views"] == len(outputs.views) == 240
    for split in ("train", "dev"):
        answered = [names[str(i)] for i in np.load(outputs.array(split, "logits")).argmax(-1)]
        rows = dataset.splits()[split]
        right = sum(answer == label for answer, (_, label) in zip(answered, rows, strict=False))
        assert outputs.facts[f"accuracy_{split}"] == pytest.approx(100 * right / len(rows))


def test_without_views_the_labelled_rows_are_the_same(tiny_build: TinyBuild, tmp_path: Path) -> None:
    outputs = again(tiny_build, tmp_path, Teach(views=0))
    assert (outputs.views, outputs.facts["views"]) == ([], 0)
    for split, count in (("train", 240), ("dev", 80)):
        with_views = np.load(made(tiny_build, TeacherOutputs).array(split, "logits"))
        np.testing.assert_allclose(np.load(outputs.array(split, "logits")), with_views[:count], **CLOSE)


def test_views_are_of_the_seed_and_of_words_that_the_student_knows(tiny_build: TinyBuild, tmp_path: Path) -> None:
    same = again(tiny_build, tmp_path / "same", Teach(views=1))
    other = again(tiny_build, tmp_path / "other", Teach(views=1), seed=1)
    assert same.views == made(tiny_build, TeacherOutputs).views
    assert other.views != same.views
    dataset = data.read(made(tiny_build, LabelledData).path)
    changed = [view != text for view, (text, _) in zip(same.views, dataset.train, strict=True)]
    assert np.mean(changed) > 0.9
    vocabulary = made(tiny_build, Vocabulary)
    known = set(json.loads((vocabulary.tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    assert {word.strip("?").lower() for view in same.views for word in view.split()} - {""} <= known


def test_a_row_is_cut_at_the_teachers_last_position(tmp_path: Path) -> None:
    for model_type in ("bert", "mpnet"):  # mpnet's table has two rows that are never read
        folder = tmp_path / model_type
        tokenizer = tiny.tokenizer_of(model_type)
        tiny.config_of(model_type, tokenizer.get_vocab_size()).save_pretrained(folder)
        tiny.write_tokenizer(folder, tokenizer, max_length=10**6)
        short, long = encode_for_teacher(folder, ["rain now", "rain " * 200])
        assert short.tolist() == tokenizer.encode("rain now").ids
        assert len(long) == tiny.POSITIONS
        assert long[-1] == tokenizer.encode("rain").ids[-1]


def test_an_architecture_that_no_frontend_serves_is_refused_at_once(tiny_build: TinyBuild, tmp_path: Path) -> None:
    tiny.classifier("albert", vocab_size=60, embedding_size=16).save_pretrained(tmp_path / "albert")
    tiny.write_tokenizer(tmp_path / "albert", tiny.wordpiece())
    given = [Teacher(tmp_path / "albert", ""), made(tiny_build, LabelledData), made(tiny_build, Vocabulary)]
    with pytest.raises(ModelError, match="no frontend for model type 'albert'; there are: bert, "):
        tiny.run_stage(Teach(), given, tmp_path / "run")
    assert not list((tmp_path / "run" / "out").iterdir())


@pytest.mark.parametrize("given", [{"views": -1}, {"view_rate": 0.0}, {"view_rate": 1.1}, {"most_tokens": -1}])
def test_impossible_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Teach(**given)


def test_a_search_wants_views_and_a_given_structure_none(
    tiny_build: TinyBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(texts(tiny_build, "train")) - len(made(tiny_build, TeacherOutputs).views)
    searched = Teach().knowing({"search": {"enabled": "true"}})
    assert again(tiny_build, tmp_path / "searched", searched).facts["views"] == 8 * rows
    given = Teach().knowing({"search": {"enabled": "true"}, "prune": {"ffn": 0.5}})
    assert again(tiny_build, tmp_path / "given", given).facts["views"] == 0
    assert (
        again(tiny_build, tmp_path / "own", Teach(views=1).knowing({"search": {"enabled": True}})).facts["views"]
        == rows
    )
    tokens = sum(map(len, encode_for_teacher(made(tiny_build, Teacher).path, texts(tiny_build, "train")[:rows])))
    monkeypatch.setattr("edgekit.stages.teach.MOST_TOKENS", 2 * tokens + 1)
    assert again(tiny_build, tmp_path / "large", searched).facts["views"] == rows


def test_of_more_text_than_the_teacher_has_time_for_a_draw_is_taken(
    tiny_build: TinyBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = data.read(made(tiny_build, LabelledData).path).train
    tokens = [len(row) for row in encode_for_teacher(made(tiny_build, Teacher).path, [text for text, _ in train])]
    monkeypatch.setattr("edgekit.stages.teach.LEAST_ROWS", 3)
    whole = np.load(again(tiny_build, tmp_path / "whole", Teach(views=0)).array("train", "logits"))
    few = again(tiny_build, tmp_path / "few", Teach(most_tokens=sum(tokens) // 2))
    assert few.rows == sorted(set(few.rows))
    assert sum(tokens[i] for i in few.rows) <= sum(tokens) // 2 < sum(tokens[i] for i in few.rows) + max(tokens)
    np.testing.assert_allclose(np.load(few.array("train", "logits")), whole[few.rows], **CLOSE)
    assert few.facts["left_out"] == len(train) - len(few.rows)
    assert [one["check"] for one in few.facts["findings"]] == ["texts-left-out"]
    searched = Teach(most_tokens=sum(tokens) // 2).knowing({})
    assert again(tiny_build, tmp_path / "searched", searched).rows == few.rows
    assert len(again(tiny_build, tmp_path / "least", Teach(most_tokens=1)).rows) == 3
    assert answered(data.read(made(tiny_build, LabelledData).path), few).train == tuple(train[i] for i in few.rows)
    monkeypatch.setattr("edgekit.stages.teach.USUAL_WEIGHTS", 1)
    assert len(again(tiny_build, tmp_path / "large", Teach(most_tokens=sum(tokens))).rows) == 3, "a larger teacher"


def test_texts_without_labels_are_taught_as_those_of_train(tiny_build: TinyBuild, tmp_path: Path) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    known, new = dataset.test[0][0], ["please play the song in the kitchen", "is it cold outside"]
    file = tmp_path / "more.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [new[0], known, *new, dataset.train[0][0]]))
    outputs = again(tiny_build, tmp_path / "run", Teach(views=2, unlabelled=str(file)))
    assert outputs.unlabelled == new, "each once, and none that a split has"
    rows = len(dataset.train) + 2
    logits = np.load(outputs.array("train", "logits"))
    assert len(outputs.views) == 2 * rows
    assert len(logits) == 3 * rows
    np.testing.assert_allclose(logits[len(dataset.train) : rows], answers(tiny_build, new)[0], **CLOSE)


def test_an_edited_file_is_another_action(tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text('{"text": "a"}\n')
    before = Teach(unlabelled=str(file)).resolved(load_target("x86-64"))
    file.write_text('{"text": "b"}\n')
    assert Teach(unlabelled=str(file)).resolved(load_target("x86-64")) != before


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file"):
        Teach(unlabelled=str(tmp_path / "none.jsonl"))
