"""Model folders: what they hold, and what is said of one that is not whole or does not fit."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from edgekit.artifact import Model, Teacher
from edgekit.checkpoint import embedding_width, inspect, locate, position_limit, read_labels
from edgekit.errors import InputError, ModelError

TASK = "text-classification"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_teacher(tmp_path_factory.mktemp("teacher"), ["no", "yes", "maybe"])


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change_config(folder: Path, **changes: object) -> None:
    """Sets keys of config.json; None removes them."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_a_fine_tuned_checkpoint_is_a_teacher_with_its_labels(tmp_path: Path, model_type: str) -> None:
    found = inspect(tiny.write_teacher(tmp_path / "t", ["b", "a"], model_type), TASK)
    assert (found.model_type, found.labels, found.fine_tuned) == (model_type, ("b", "a"), True)
    assert isinstance(found.artifact(), Teacher)


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_a_base_model_has_no_labels_and_is_no_teacher(tmp_path: Path, model_type: str) -> None:
    found = inspect(tiny.write_base(tmp_path / "b", model_type), TASK)
    assert (found.model_type, found.labels, found.fine_tuned) == (model_type, (), False)
    assert type(found.artifact()) is Model


def test_a_config_that_promises_a_head_without_its_weights_is_a_base_model(folder: Path) -> None:
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("classifier")}
    save_file(weights, folder / "model.safetensors")
    assert not inspect(folder, TASK).fine_tuned


def test_a_masked_language_model_is_a_base_model(folder: Path) -> None:
    change_config(folder, architectures=["BertForMaskedLM"])
    assert not inspect(folder, TASK).fine_tuned


def test_labels_are_in_the_order_of_their_numbers_not_of_their_text(folder: Path) -> None:
    change_config(folder, id2label={str(i): f"label {i}" for i in (10, 2, 0, 1, *range(3, 10))})
    assert read_labels(folder) == tuple(f"label {i}" for i in range(11))


def test_labels_that_transformers_leaves_out_are_its_defaults(tmp_path: Path, folder: Path) -> None:
    change_config(folder, id2label=None, label2id=None)
    assert read_labels(folder) == ("LABEL_0", "LABEL_1")


def test_the_digest_is_of_what_counts_and_nothing_else(folder: Path) -> None:
    before = inspect(folder, TASK).artifact().digest
    (folder / "README.md").write_text("text")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert inspect(folder, TASK).artifact().digest == before
    change_config(folder, note="x")
    assert inspect(folder, TASK).artifact().digest != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "has no tokenizer; expected one of tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=message) as caught:
        inspect(folder, TASK)
    assert str(folder) in str(caught.value)


def test_an_empty_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        inspect(tmp_path, TASK)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        inspect(tmp_path / "model.safetensors", TASK)


@pytest.mark.parametrize("content", ["{", "[]", '"bert"', ""])
def test_a_config_that_is_no_object_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        inspect(folder, TASK)


def test_a_config_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        inspect(folder, TASK)


def test_a_config_without_a_model_type_is_refused(folder: Path) -> None:
    change_config(folder, model_type=None)
    with pytest.raises(ModelError, match="no 'model_type'"):
        inspect(folder, TASK)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_truncated_weights_are_found(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ModelError, match="truncated or not a safetensors file"):
        inspect(folder, TASK)


@pytest.mark.parametrize("content", [b"\x80\x04pickle", struct.pack("<Q", 2**62) + b"{}"])
def test_weights_that_are_no_safetensors_are_found(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="truncated or not a safetensors file"):
        inspect(folder, TASK)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_pickled_weights_are_refused_and_not_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match="only pickled weights") as caught:
        inspect(folder, TASK)
    assert name in str(caught.value)
    assert "safe_serialization=True" in str(caught.value)


def shard(folder: Path) -> None:
    """Splits the weights into two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: weights[name] for name in members}, folder / file)
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights_are_read(folder: Path) -> None:
    shard(folder)
    assert inspect(folder, TASK).labels == ("no", "yes", "maybe")


def test_a_missing_or_truncated_shard_is_named(folder: Path) -> None:
    shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors is truncated"):
        inspect(folder, TASK)
    second.unlink()
    with pytest.raises(ModelError, match=r"names files that are not there: model-00002-of-00002\.safetensors"):
        inspect(folder, TASK)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": "../outside.safetensors"}}']
)
def test_an_index_that_cannot_be_used_is_refused(folder: Path, content: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        inspect(folder, TASK)


@pytest.mark.parametrize(
    ("architecture", "other"),
    [
        ("BertForTokenClassification", "token-classification"),
        ("RobertaForQuestionAnswering", "question-answering"),
        ("BertForMultipleChoice", "multiple-choice"),
        ("GPT2ForCausalLM", "text-generation"),
        ("T5ForConditionalGeneration", "text2text-generation"),
    ],
)
def test_a_head_for_another_task_is_refused(folder: Path, architecture: str, other: str) -> None:
    change_config(folder, architectures=[architecture])
    with pytest.raises(ModelError, match=f"is a {architecture}, fine-tuned for {other}; the task is {TASK}"):
        inspect(folder, TASK)


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_the_longest_input_is_what_transformers_can_embed(tmp_path: Path, model_type: str) -> None:
    tiny.config_of(model_type, 100).save_pretrained(tmp_path)
    assert position_limit(tmp_path) == tiny.POSITIONS


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_the_word_tables_columns_are_those_of_the_weights(tmp_path: Path, model_type: str) -> None:
    model = tiny.classifier(model_type)
    model.save_pretrained(tmp_path)
    assert embedding_width(tmp_path) == model.get_input_embeddings().weight.shape[1]


def test_a_configuration_without_widths_is_refused(folder: Path) -> None:
    change_config(folder, hidden_size=None)
    with pytest.raises(ModelError, match="gives no hidden_size"):
        embedding_width(folder)


def test_a_folder_is_located_as_it_is(folder: Path) -> None:
    assert locate(str(folder), allow_download=False) == folder


@pytest.mark.parametrize("location", ["./gone/model", "/gone/model", "~/gone", "a/b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(location: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        locate(location, allow_download=False)


def test_a_package_that_is_not_installed_is_said_so() -> None:
    with pytest.raises(InputError, match="not installed"):
        locate("package:no_such_package_here/model", allow_download=False)


def test_a_hub_id_that_is_not_cached_says_so_without_touching_the_network(tmp_path: Path) -> None:
    program = """
import socket, sys
def refuse(*arguments, **options):
    print("network"); raise SystemExit(3)
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from edgekit.checkpoint import locate
from edgekit.errors import ModelError
try:
    locate("some-owner/some-model", allow_download=False)
except ModelError as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "'some-owner/some-model' is neither a folder nor in the hub's cache" in done.stdout
    assert "--allow-download" in done.stdout
    assert "network" not in done.stdout


def test_a_hub_id_is_found_in_the_cache(folder: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--some-owner--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    program = "import sys; from edgekit.checkpoint import *; print(locate('some-owner/some-model', False))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert inspect(Path(done.stdout.strip()), TASK).labels == ("no", "yes", "maybe")


def test_no_weights_are_loaded_to_look_at_a_checkpoint(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edgekit.checkpoint import inspect; "
        "inspect(Path(sys.argv[1]), 'text-classification').artifact(); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert np.isfinite(load_file(folder / "model.safetensors")["classifier.weight"]).all()
