"""What an app takes: golden rows that replay from the text alone, labels in order, and what tells devices apart."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from builds import TinyBuild, made
from test_export import onnx_logits, token_ids

from edgekit import data
from edgekit.artifact import Artifact, Bundle, LabelledData, Program, Teacher, Vocabulary, file_digest
from edgekit.stages.bundle import TOLERANCE, Pack, differences, golden_row

ROW = golden_row("rain now", np.array([2, 7, 3]), np.array([4.0, -6.0, 3.9, 0.0]), tiny.LABELS)
ALLOWED = 10 * TOLERANCE  # of a spread of ten


def pack(build: TinyBuild, folder: Path, stage: Pack, *others: Artifact) -> Bundle:
    """Runs the stage on what the finished build gave it, some of it replaced."""
    given = {kind: made(build, kind) for kind in stage.IN} | {type(other): other for other in others}
    found: Bundle = tiny.run_stage(stage, list(given.values()), folder)
    return found


def golden(bundle: Bundle) -> list[dict[str, Any]]:
    """Reads the golden rows."""
    return [json.loads(line) for line in (bundle.path / "golden.jsonl").read_bytes().splitlines()]


def test_golden_rows_replay_from_the_text_alone(tiny_build: TinyBuild) -> None:
    bundle = made(tiny_build, Bundle)
    rows = golden(bundle)
    assert len(rows) == bundle.facts["golden_rows"] == 32
    ids = token_ids(made(tiny_build, Vocabulary), [row["text"] for row in rows])
    logits = onnx_logits(bundle.path / "model.onnx", ids)
    for row, got, values in zip(rows, ids, logits, strict=True):
        assert row["input_ids"] == got.tolist()
        np.testing.assert_allclose(row["logits"], values, rtol=0, atol=1e-5)
        assert row["label"] == tiny.LABELS[int(values.argmax())]
        assert differences(row, got, values) == []


def test_the_files_are_those_of_the_stages_before(tiny_build: TinyBuild) -> None:
    bundle, graph, vocabulary = (made(tiny_build, kind) for kind in (Bundle, Program, Vocabulary))
    assert (bundle.path / "model.onnx").read_bytes() == graph.model.read_bytes()
    for file in vocabulary.tokenizer.iterdir():
        assert (bundle.path / "tokenizer" / file.name).read_bytes() == file.read_bytes()
    assert bundle.facts == {
        "golden_rows": 32,
        "labels": list(tiny.LABELS),
        "pad_token_id": vocabulary.facts["pad_token_id"],
        "max_length": vocabulary.max_length,
        "model_sha256": file_digest(graph.model),
        "bytes": len(graph.model.read_bytes()),
        "nodes": len(onnx.load(graph.model).graph.node),
    }


@pytest.mark.parametrize("count", [1, 6, 32, 500])
def test_golden_rows_are_the_first_of_each_label_in_dev(tiny_build: TinyBuild, tmp_path: Path, count: int) -> None:
    dev = data.read(made(tiny_build, LabelledData).path).dev
    texts = [row["text"] for row in golden(pack(tiny_build, tmp_path, Pack(golden_rows=count)))]
    assert len(texts) == min(count, len(dev))
    labels = dict(dev)
    taken = Counter(labels[text] for text in texts)
    assert max(taken.values()) - min(taken.get(label, 0) for label in tiny.LABELS) <= 1
    for label, number in taken.items():
        of_label = [text for text, other in dev if other == label]
        assert [text for text in texts if labels[text] == label] == of_label[:number]


def test_rare_labels_are_among_the_golden_rows(tiny_build: TinyBuild, tmp_path: Path) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    common = [row for row in dataset.dev if row[1] == "alarm"]
    rare = next(row for row in dataset.dev if row[1] == "music")
    data.write(dataclasses.replace(dataset, dev=(*common, rare)), tmp_path)
    bundle = pack(tiny_build, tmp_path / "run", Pack(golden_rows=3), LabelledData(tmp_path, ""))
    assert rare[0] in [row["text"] for row in golden(bundle)]


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        (tiny.LABELS[::-1], tiny.LABELS, tiny.LABELS[::-1]),
        ([f"LABEL_{i}" for i in range(4)], ("0", "1", "2", "3"), ("0", "1", "2", "3")),
        (("alarm", "lights", "music", "other"), ("alarm", "music"), ("alarm", "lights", "music", "other")),
    ],
    ids=["another order", "unnamed", "more than the data's"],
)
def test_labels_stand_in_the_order_of_the_logits(
    tiny_build: TinyBuild, tmp_path: Path, theirs: tuple[str, ...], ours: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    tiny.config_of("bert", 100, theirs).save_pretrained(tmp_path / "teacher")
    dataset = data.read(made(tiny_build, LabelledData).path)
    rows = tuple((text, ours[tiny.LABELS.index(label) % len(ours)]) for text, label in dataset.dev)
    (tmp_path / "rows").mkdir()
    data.write(dataclasses.replace(dataset, train=rows, dev=rows, test=rows, labels=ours), tmp_path / "rows")
    others = Teacher(tmp_path / "teacher", ""), LabelledData(tmp_path / "rows", "")
    bundle = pack(tiny_build, tmp_path / "run", Pack(), *others)
    assert json.loads((bundle.path / "labels.json").read_text()) == bundle.facts["labels"] == list(expected)
    for row in golden(bundle):
        assert row["label"] == expected[int(np.argmax(row["logits"]))]


def test_a_golden_row_holds_plain_values() -> None:
    row = golden_row("é", np.array([2, 3]), np.array([0.12345678, -1.0], dtype=np.float32), ("a", "b"))
    assert row == {"text": "é", "input_ids": [2, 3], "logits": [0.123457, -1.0], "label": "a"}
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("ids", [[2, 7], [2, 7, 3, 0], [2, 8, 3], [7, 2, 3]])
def test_other_ids_are_told(ids: list[int]) -> None:
    assert differences(ROW, np.array(ids), np.array(ROW["logits"])) == ["the tokenizer gives other ids"]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_logit_may_move_by_a_twentieth_of_the_rows_spread(place: int, sign: int) -> None:
    ids = np.array(ROW["input_ids"])
    for factor, agrees in ((0.0, True), (0.99, True), (1.01, False), (20.0, False)):
        logits = np.array(ROW["logits"])
        logits[place] += sign * factor * ALLOWED
        found = differences(ROW, ids, logits)
        assert found == ([] if agrees else [f"a logit differs by {factor * ALLOWED:.3g}, more than {ALLOWED:.3g}"])


@pytest.mark.parametrize("logits", [[4.0, -6.0, 3.9], [4.0, -6.0, 3.9, np.nan], [4.0, -6.0, 3.9, np.inf], [[4.0] * 4]])
def test_logits_that_are_none_are_told(logits: list[float]) -> None:
    (found,) = differences(ROW, np.array(ROW["input_ids"]), np.array(logits))
    assert found.startswith("a logit differs by ")


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="golden_rows is 0"):
        Pack(golden_rows=0)
