"""The exported teacher against transformers itself: unpadded and in padded batches, up to its last position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from builds import TinyBuild, made
from onnx import numpy_helper
from test_export import CLOSE, onnx_logits, torch_logits
from transformers import AutoModelForSequenceClassification

from edgekit.artifact import Teacher, TeacherGraph, Vocabulary, write_json
from edgekit.errors import ModelError
from edgekit.stages.baseline import Baseline
from edgekit.tokenization import pad

LENGTHS = (2, 3, 7, 16, 40, tiny.POSITIONS)


def vocabulary(folder: Path, max_length: int = 16) -> Vocabulary:
    """What the stage reads of a vocabulary."""
    (folder / "vocabulary").mkdir()
    write_json(folder / "vocabulary" / "facts.json", {"max_length": max_length})
    return Vocabulary(folder / "vocabulary", "")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, TeacherGraph]:
    """A teacher whose position table has two rows that are never read, and its graph."""
    folder = tmp_path_factory.mktemp("roberta")
    tiny.classifier("roberta", seed=8, vocab_size=120, num_hidden_layers=1).save_pretrained(folder / "teacher")
    teacher = Teacher(folder / "teacher", "")
    return teacher, tiny.run_stage(Baseline(), [teacher, vocabulary(folder)], folder / "run")


@pytest.fixture(params=["bert", "roberta"])
def pair(request: pytest.FixtureRequest) -> tuple[Teacher, TeacherGraph]:
    """A teacher and its graph."""
    if request.param == "roberta":
        found: tuple[Teacher, TeacherGraph] = request.getfixturevalue("roberta")
        return found
    build: TinyBuild = request.getfixturevalue("tiny_build")
    return made(build, Teacher), made(build, TeacherGraph)


def test_logits_are_those_of_transformers_at_every_length(pair: tuple[Teacher, TeacherGraph]) -> None:
    teacher, graph = pair
    model = AutoModelForSequenceClassification.from_pretrained(teacher.path).eval()
    rows = tiny.token_rows(model.config.vocab_size, LENGTHS)
    expected = torch_logits(model, rows)
    np.testing.assert_allclose(onnx_logits(graph.model, rows), expected, **CLOSE)
    ids, mask = pad(rows, graph.facts["pad_token_id"])
    session = onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])
    padded = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(padded, expected, **CLOSE)


def test_facts_are_those_of_the_model_and_the_file(pair: tuple[Teacher, TeacherGraph]) -> None:
    teacher, graph = pair
    model = AutoModelForSequenceClassification.from_pretrained(teacher.path)
    written = onnx.load(graph.model)
    assert graph.facts == {
        "architecture": model.config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": len(graph.model.read_bytes()),
        "nodes": len(written.graph.node),
        "min_runtime": "1.17",
        "pad_token_id": {"bert": 0, "roberta": 1}[model.config.model_type],
        "longest": tiny.POSITIONS,
    }
    # 1.17 reads ONNX 1.15: IR version 9, operator set 20, and no operator that is younger.
    assert (written.ir_version, [o.version for o in written.opset_import]) == (9, [20])
    for node in written.graph.node:
        assert onnx.defs.get_schema(node.op_type, 20, node.domain).since_version <= 20


def test_the_graph_holds_the_teachers_own_weights_in_float32(pair: tuple[Teacher, TeacherGraph]) -> None:
    teacher, graph = pair
    table = AutoModelForSequenceClassification.from_pretrained(teacher.path).get_input_embeddings().weight.detach()
    tensors = onnx.load(graph.model).graph.initializer
    assert not {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT16} & {
        t.data_type for t in tensors
    }
    (written,) = (numpy_helper.to_array(t) for t in tensors if tuple(t.dims) == tuple(table.shape))
    np.testing.assert_array_equal(written, table.numpy())


def test_a_teacher_that_cannot_be_loaded_whole_is_refused(tmp_path: Path) -> None:
    tiny.classifier("bert", vocab_size=50).save_pretrained(tmp_path / "teacher")
    config = (tmp_path / "teacher" / "config.json").read_text()
    (tmp_path / "teacher" / "config.json").write_text(
        config.replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
    )
    with pytest.raises(ModelError, match="lacks 16 of its model's weights"):
        tiny.run_stage(Baseline(), [Teacher(tmp_path / "teacher", ""), vocabulary(tmp_path)], tmp_path / "run")
    assert not list((tmp_path / "run" / "out").iterdir())
