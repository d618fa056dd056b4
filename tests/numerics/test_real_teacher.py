"""The shared banking77 teacher on real rows: frontend, lean graph and int8 file, and the same answers on two ISAs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgekit import data, devices, frontends
from edgekit.artifact import file_digest
from edgekit.backends import Precision, load_backend
from edgekit.backends._onnx_schemes import STATIC
from edgekit.devices import ModelFile, TokenRows
from edgekit.inference import run_rows
from edgekit.quant.ranges import observe, ranges_of
from edgekit.stages.teach import encode_for_teacher, load_teacher
from edgekit.target import load_target
from edgekit.tasks import load_task

SHARED = Path(__file__).parents[3] / "shared"
TEACHER, DATA = SHARED / "teachers" / "banking77-minilm-l6", SHARED / "data" / "banking77"
CALIBRATION_ROWS, ROWS, ARM_ROWS = 100, 300, 60

pytestmark = pytest.mark.skipif(not TEACHER.is_dir(), reason="../shared with the banking77 teacher is missing")


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Texts of train and test."""
    columns = data.Columns(load_task("text-classification").COLUMNS)
    files = data.find_splits(DATA)
    assert files.test is not None
    return {
        "train": [row["text"] for row in data.read_rows(files.train, columns)[::97]],
        "test": [row["text"] for row in data.read_rows(files.test, columns)[::10]],
    }


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, list[str]]) -> Path:
    """The whole teacher as an int8 file, without distillation or pruning."""
    folder = tmp_path_factory.mktemp("teacher")
    backend, quant = load_backend("onnxruntime"), dataclasses.asdict(load_target("x86-64").quant)
    model, pad_id = load_teacher(TEACHER)
    backend.export_student(model, "dynamic", 128, folder / "float.onnx")
    rows = encode_for_teacher(TEACHER, texts["train"][:CALIBRATION_ROWS])
    tensors = backend.quantized_tensors(folder / "float.onnx", quant["ops"])
    ranges = ranges_of(observe(backend.activations(folder / "float.onnx", tensors, rows, pad_id)), "minmax")
    backend.quantize(folder / "float.onnx", ranges, quant, STATIC[0], Precision(), folder / "int8.onnx")
    return folder / "int8.onnx"


def test_frontend_agrees_with_transformers(texts: dict[str, list[str]]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(TEACHER, local_files_only=True).eval()
    ours = frontends.build(theirs)
    rows = encode_for_teacher(TEACHER, texts["test"][:64])
    with torch.inference_mode():
        expected = np.concatenate([theirs(torch.from_numpy(row)[None]).logits.numpy() for row in rows])
    np.testing.assert_allclose(run_rows(ours, rows, 0, lambda *_: None), expected, atol=1e-5)


def test_int8_file_keeps_the_float_answers(int8_file: Path, texts: dict[str, list[str]]) -> None:
    backend = load_backend("onnxruntime")
    rows = encode_for_teacher(TEACHER, texts["test"][:ROWS])
    exact = backend.logits(int8_file.with_name("float.onnx"), rows, 0)
    rounded = backend.logits(int8_file, rows, 0)
    assert np.mean(exact.argmax(-1) == rounded.argmax(-1)) >= 0.97
    assert int8_file.stat().st_size < 0.3 * int8_file.with_name("float.onnx").stat().st_size


def test_int8_file_answers_alike_on_arm(int8_file: Path, texts: dict[str, list[str]]) -> None:
    arm = devices.connect("qemu:cortex-a76")
    missing = arm.unavailable()
    if missing is not None:
        pytest.skip(f"qemu:cortex-a76 is not ready: {missing.reason}")
    rows = TokenRows(encode_for_teacher(TEACHER, texts["test"][:ARM_ROWS]))
    model = ModelFile(int8_file, file_digest(int8_file))
    here = load_backend("onnxruntime").logits(int8_file, rows.ids, 0)
    there = arm.logits(model, rows, 1, None)
    assert (here.argmax(-1) == there.argmax(-1)).all()
    assert np.sqrt(np.mean((here - there) ** 2)) < 0.1  # a file that saturates differs by 0.2 (measured)
