"""The exported student against the torch model it came from, at every length, and what it asks of the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import builds
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from builds import TinyBuild, made
from onnx import numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from edgekit import frontends
from edgekit.artifact import Artifact, EqualisedStudent, Graph, Student, Vocabulary, write_json
from edgekit.backends import onnxruntime as backend
from edgekit.errors import StageContractError, TargetError
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import keep_layers
from edgekit.stages.export import Export, check_logits

A = TypeVar("A", bound=Artifact)
LENGTH, PAD = 16, 1
CLOSE = {"rtol": 0, "atol": 1e-4}  # of logits: tiny's fitted classifier multiplies the rounding of float32


def token_ids(vocabulary: Vocabulary, texts: Sequence[str]) -> list[np.ndarray]:
    """Tokenises each text for the student with nothing but `tokenizers`."""
    tokenizer = Tokenizer.from_file(str(vocabulary.tokenizer / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(vocabulary.max_length)
    return [np.array(tokenizer.encode(text).ids, dtype=np.int64) for text in texts]


def onnx_logits(path: Path, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Runs rows one by one, unpadded, with nothing but ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    feeds = [{"input_ids": row[None], "attention_mask": np.ones_like(row[None])} for row in rows]
    return np.concatenate([session.run(["logits"], {name: feed[name] for name in names})[0] for feed in feeds])


def torch_logits(model: torch.nn.Module, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Runs rows one by one, unpadded, through a torch classifier."""
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(row)[None]).logits.numpy() for row in rows])


def load(student: Student) -> EdgekitForSequenceClassification:
    """Loads a student as its users do."""
    return EdgekitForSequenceClassification.from_pretrained(student.path, local_files_only=True).eval()


def test_the_graph_answers_as_the_torch_student_at_every_length(tiny_build: TinyBuild) -> None:
    model, longest = load(made(tiny_build, Student)), made(tiny_build, Vocabulary).max_length
    rows = tiny.token_rows(model.config.vocab_size, range(2, longest + 1), first=0)
    found = onnx_logits(made(tiny_build, Graph).model, rows)
    np.testing.assert_allclose(found, torch_logits(model, rows), **CLOSE)


def test_facts_are_those_of_the_file(tiny_build: TinyBuild) -> None:
    graph, student = made(tiny_build, Graph), made(tiny_build, Student)
    model = onnx.load(graph.model)
    assert graph.facts == {
        "parameters": sum(tensor.size for tensor in load_file(student.path / "model.safetensors").values()),
        "bytes": len(graph.model.read_bytes()),
        "nodes": len(model.graph.node),
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "min_runtime": "1.17",  # the first that has operator set 20
        "max_length": made(tiny_build, Vocabulary).max_length,
    }
    assert graph.facts["opset"] == 20


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """A student of one layer, its weights random, and as much of a vocabulary as this stage reads."""
    folder = tmp_path_factory.mktemp("given")
    keep_layers(frontends.build(tiny.classifier("mpnet", seed=2)), [3]).save_pretrained(folder / "student")
    (folder / "vocabulary").mkdir()
    write_json(folder / "vocabulary" / "facts.json", {"max_length": LENGTH, "pad_token_id": PAD})
    return [EqualisedStudent(folder / "student", ""), Vocabulary(folder / "vocabulary", "")]


def test_a_target_of_fixed_length_gets_a_mask_and_the_same_answers(tmp_path: Path, given: list[Artifact]) -> None:
    change = ('sequence_length = "dynamic"', f"sequence_length = {LENGTH}")
    target = builds.write_target(tmp_path / "fixed.toml", change)
    graph = tiny.run_stage(Export(), given, tmp_path / "run", str(target))
    assert graph.facts["max_length"] == LENGTH
    session = onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])
    shapes = {i.name: i.shape for i in session.get_inputs()}
    assert shapes == {"input_ids": [1, LENGTH], "attention_mask": [1, LENGTH]}
    rows = tiny.token_rows(90, (2, 9, LENGTH))
    expected = torch_logits(load(given[0]), rows)
    for fill in (PAD, 77):  # what stands behind the row is masked
        for row, logits in zip(rows, expected, strict=True):
            ids = np.concatenate([row, np.full(LENGTH - len(row), fill)])[None]
            mask = (np.arange(LENGTH) < len(row)).astype(np.int64)[None]
            found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            np.testing.assert_allclose(found[0], logits, **CLOSE)


def test_a_runtime_older_than_the_operators_is_refused(tmp_path: Path, given: list[Artifact]) -> None:
    target = builds.write_target(tmp_path / "old.toml", ('version = "1.18"', 'version = "1.9"'))
    with pytest.raises(TargetError, match=r"needs onnxruntime 1\.17, the target has 1\.9"):
        tiny.run_stage(Export(), given, tmp_path / "run", str(target))


def test_a_graph_that_answers_otherwise_is_refused(tiny_build: TinyBuild, tmp_path: Path) -> None:
    graph, model = made(tiny_build, Graph).model, load(made(tiny_build, Student))
    length = made(tiny_build, Vocabulary).max_length
    check_logits(backend, graph, model, length)
    changed = onnx.load(graph)
    (last,) = (node for node in changed.graph.node if node.output[0] == "logits")
    (bias,) = (tensor for tensor in changed.graph.initializer if tensor.name == last.input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(StageContractError, match=r"changed\.onnx: the exported graph's logits differ .* by 0\.01"):
        check_logits(backend, tmp_path / "changed.onnx", model, length)
