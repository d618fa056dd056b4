"""What a compiled .tflite file carries, and that MediaPipe classifies raw text by it as Python's tokenizer does."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from litert_graphs import MAX_LENGTH, operators_of, request
from test_onnxruntime import student
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from edgekit.artifact import file_digest
from edgekit.backends import Compiled, Tensor, litert
from edgekit.backends import _litert_file as file
from edgekit.backends._litert_metadata import BUFFER, accents_kept, finding_of
from edgekit.devices import ModelFile, TokenRows, connect
from edgekit.tokenization import encode, load_tokenizer

pytestmark = pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metadata")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Path:
    return tiny.write_tokenizer(folder / "tokenizer", tiny.wordpiece())


@pytest.fixture(scope="module", params=["dynamic", "buckets"])
def length(request: pytest.FixtureRequest) -> str:
    """Whether rows are run as long as they are, or filled up to the longest."""
    return str(request.param)


@pytest.fixture(scope="module")
def graph(length: str, folder: Path) -> Path:
    (folder / length).mkdir()
    litert.export_student(student("bert"), length, MAX_LENGTH + 2, folder / length / "model.tflite")
    return folder / length / "model.tflite"


@pytest.fixture(scope="module")
def compiled(length: str, graph: Path, tokenizer: Path, folder: Path) -> Path:
    out = folder / length / "out"
    out.mkdir()
    made = litert.compile(graph, request(tokenizer), out)
    written = out / made.model
    assert made == Compiled("model.tflite", written.stat().st_size, () if length == "dynamic" else (40,))
    return written


def texts() -> list[str]:
    """Returns 200 texts: capitals, punctuation, words that the vocabulary lacks, and longer ones than are read."""
    random = np.random.default_rng(0)
    found = [text for text, _ in tiny.sentences(150, seed=3)]
    for text, _ in tiny.sentences(50, seed=4):
        extra = ["harbours!", "Quantum-mosaic's", "7 o'clock", "(please)", "x" * 30, "  Snow,rain ", "dim. DIM?"]
        found.append(" ".join([text, *random.permutation(extra)] * int(random.integers(1, 4))))
    return found


def test_mediapipe_gives_the_probabilities_of_the_python_tokenizer(compiled: Path, tokenizer: Path) -> None:
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    from mediapipe.tasks.python import BaseOptions, text

    rows = encode(load_tokenizer(tokenizer, MAX_LENGTH + 2), texts())
    assert len(rows) == 200
    assert max(map(len, rows)) == 40
    expected = np.exp(litert.logits(compiled, rows, 0))
    options = text.TextClassifierOptions(base_options=BaseOptions(model_asset_path=str(compiled)))
    near = []
    with text.TextClassifier.create_from_options(options) as classifier:
        for raw, probabilities in zip(texts(), expected, strict=True):
            (head,) = classifier.classify(raw).classifications
            scores = {one.category_name: one.score for one in head.categories}
            assert set(scores) == set(tiny.LABELS)
            found = [scores[label] for label in tiny.LABELS]
            near.append(bool(np.abs(np.array(found) - probabilities).max() <= 1e-2))
    assert sum(near) >= 198


def test_rows_of_which_mediapipe_makes_other_tokens_are_counted(compiled: Path, tokenizer: Path) -> None:
    """Its answer to a text with accents is that to the tokens of a tokenizer that keeps them."""
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    from mediapipe.tasks.python import BaseOptions, text

    plain = [one for one, _ in tiny.sentences(12, seed=6)]
    accented = [one.replace("a", "\u00e1").replace("e", "\u00e9") for one in plain]
    changed = sum(one != another for one, another in zip(plain, accented, strict=True))
    assert changed >= 6
    finding = accents_kept(tokenizer, [*plain, *accented])
    assert finding is not None
    assert finding.detail.startswith(f"of {changed} of 24 training rows")
    assert accents_kept(tokenizer, plain) is None
    kept = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    kept.normalizer = BertNormalizer(strip_accents=False, lowercase=True)
    rows = [np.array(kept.encode(one).ids) for one in accented]
    expected = np.exp(litert.logits(compiled, rows, 0)).max(axis=1)
    options = text.TextClassifierOptions(base_options=BaseOptions(model_asset_path=str(compiled)), max_results=1)
    with text.TextClassifier.create_from_options(options) as classifier:
        found = [classifier.classify(one).classifications[0].categories[0].score for one in accented]
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_what_ships_gives_probabilities_and_its_readers_logits(graph: Path, compiled: Path) -> None:
    rows = tiny.token_rows(100, (2, 9, 38))
    assert litert.describe(compiled).outputs == (Tensor("probabilities", "float32", (1, 4)),)
    assert operators_of(compiled) == [*operators_of(graph), "SOFTMAX"]
    logits, found = litert.logits(graph, rows, 0), litert.logits(compiled, rows, 0)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found - found[:, :1], logits - logits[:, :1], atol=1e-5)
    on_device = connect("local").logits(ModelFile(compiled, file_digest(compiled)), TokenRows(rows), 1, None)
    np.testing.assert_allclose(on_device, found, atol=1e-5)


def test_the_vocabulary_and_the_labels_are_lines_by_their_numbers(compiled: Path, tokenizer: Path) -> None:
    vocabulary = load_tokenizer(tokenizer, 8).get_vocab()
    with zipfile.ZipFile(compiled) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["vocab.txt", "labels.txt"]
        words = archive.read("vocab.txt").decode().splitlines()
        assert archive.read("labels.txt").decode().splitlines() == list(tiny.LABELS)
    assert {word: number for number, word in enumerate(words)} == vocabulary


def test_the_table_reads_as_mediapipes_own_schema(compiled: Path) -> None:
    schema = pytest.importorskip("mediapipe.tasks.metadata.metadata_schema_py_generated")
    model = file.read(compiled)
    (entry,) = (one for one in model.metadata if one.name in (BUFFER, BUFFER.encode()))
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"
    table = schema.ModelMetadataT.InitFromPackedBuf(data, 0)
    (graph,) = table.subgraphMetadata
    assert [one.name for one in graph.inputTensorMetadata] == [b"ids", b"segment_ids", b"mask"]
    (unit,) = graph.inputProcessUnits
    assert unit.optionsType == schema.ProcessUnitOptions.BertTokenizerOptions
    (vocabulary,), (scores,) = unit.options.vocabFile, graph.outputTensorMetadata
    (labels,) = scores.associatedFiles
    kinds = schema.AssociatedFileType
    assert (vocabulary.name, vocabulary.type) == (b"vocab.txt", kinds.VOCABULARY)
    assert (labels.name, labels.type) == (b"labels.txt", kinds.TENSOR_AXIS_LABELS)
    assert scores.content.contentPropertiesType == schema.ContentProperties.FeatureProperties


def test_compiling_again_gives_the_same_bytes(graph: Path, compiled: Path, tokenizer: Path, tmp_path: Path) -> None:
    litert.compile(graph, request(tokenizer), tmp_path)
    assert (tmp_path / "model.tflite").read_bytes() == compiled.read_bytes()


def changed(tokenizer: Path, out: Path, change: Any) -> Path:
    """Writes a tokenizer with its settings changed."""
    settings = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    change(settings)
    out.mkdir()
    (out / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    return out


def keep_case(settings: dict[str, Any]) -> None:
    settings["normalizer"]["lowercase"] = False


def split_otherwise(settings: dict[str, Any]) -> None:
    settings["pre_tokenizer"] = {"type": "Whitespace"}


def leave_a_gap(settings: dict[str, Any]) -> None:
    settings["model"]["vocab"]["pyramid"] = 1000


def break_a_line(settings: dict[str, Any]) -> None:
    vocabulary = settings["model"]["vocab"]
    vocabulary["a\nb"] = vocabulary.pop("pyramid")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (keep_case, "the tokenizer keeps upper case"),
        (split_otherwise, "the tokenizer splits words by Whitespace"),
        (leave_a_gap, "the vocabulary's ids are not its lines' numbers"),
        (break_a_line, r"the vocabulary's 'a\\nb' is not one line"),
    ],
)
def test_a_vocabulary_that_metadata_cannot_carry_is_found(
    tokenizer: Path, tmp_path: Path, change: Any, reason: str
) -> None:
    finding = finding_of(changed(tokenizer, tmp_path / "t", change), tiny.LABELS)
    assert finding is not None
    assert finding.check == "no-metadata"
    assert re.search(reason, finding.detail)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (("a", "", "c", "d"), "the label '' is not one line"),
        (("a", "b\nc", "c", "d"), r"the label 'b\nc' is not one line"),
        (("a", "b", "a", "d"), "two classes have the label 'a'"),
    ],
)
def test_labels_that_metadata_cannot_carry_are_found(tokenizer: Path, labels: tuple[str, ...], reason: str) -> None:
    finding = finding_of(tokenizer, labels)
    assert finding is not None
    assert finding.detail == reason.replace("\n", "\\n")


@pytest.mark.parametrize("kind", ["mpnet", "roberta", "xlm-roberta"])
def test_a_file_of_another_tokenizer_works_without_metadata(graph: Path, tmp_path: Path, kind: str) -> None:
    other = tiny.write_tokenizer(tmp_path / "tokenizer", tiny.tokenizer_of(kind))
    (tmp_path / "out").mkdir()
    made = litert.compile(graph, request(other), tmp_path / "out")
    assert [finding.check for finding in made.findings] == ["no-metadata"]
    rows = tiny.token_rows(100, (5, 30))
    found, logits = litert.logits(tmp_path / "out" / made.model, rows, 0), litert.logits(graph, rows, 0)
    np.testing.assert_allclose(found - found[:, :1], logits - logits[:, :1], atol=1e-5)
    assert not zipfile.is_zipfile(tmp_path / "out" / made.model)
