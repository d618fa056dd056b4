"""The device `htp`: programs of Qualcomm's compiler in its simulator, and what is refused there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_qnn
from tiny_models import expected, mean_classifier, token_rows
from tiny_qnn import EIGHT_BITS, PAD, VOCABULARY

from edgekit import devices
from edgekit.backends import qnn
from edgekit.devices import LatencyPlan, ModelFile, Processor, TokenRows, Unavailable, connect, htp, module_for
from edgekit.errors import DeviceError, InputError
from edgekit.provenance import Provenance
from edgekit.target import load_target

pytest.importorskip("onnxruntime_qnn")

PHONE = devices.processor_of(load_target("mobile-npu").device)
CPU = Processor("aarch64", "cortex-a76", ("asimd",))
LENGTH = 16


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for one length, its portable file beside it."""
    folder = tmp_path_factory.mktemp("htp")
    graph = tiny_qnn.quantize(tiny_qnn.export(folder / "float.onnx"), EIGHT_BITS, folder / "model.onnx")
    tiny_qnn.compile_for(graph, folder / "out", shape={"sequence_length": LENGTH})
    return folder / "out"


def program(folder: Path) -> ModelFile:
    """Returns what the device is given of a program."""
    path = folder / "SM8650" / f"model-{LENGTH}.onnx"
    return ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), PAD, by="qnn")


def rows(count: int, seed: int = 0) -> TokenRows:
    lengths = np.random.default_rng(seed).integers(2, LENGTH + 1, size=count).tolist()
    return TokenRows(tiny.token_rows(VOCABULARY, lengths, seed))


def refused(folder: Path, model: ModelFile | None = None) -> str:
    """Returns why the device does not run a program."""
    with pytest.raises(DeviceError) as caught:
        connect("htp").logits(model or program(folder), rows(2), 1, None)
    return str(caught.value)


@pytest.fixture
def damaged(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the program to be damaged."""
    return Path(shutil.copytree(compiled, tmp_path / "damaged"))


def test_answers_are_those_of_a_cpu_by_the_portable_file(compiled: Path) -> None:
    some, seen = rows(12), list[tuple[int, int]]()
    logits = connect("htp").logits(program(compiled), some, 1, lambda done, total: seen.append((done, total)))
    reference = qnn.logits(compiled / "model.onnx", list(some.ids), PAD)
    assert logits.dtype == np.float32
    assert logits.shape == reference.shape
    assert np.sqrt(np.mean((logits - reference) ** 2)) < 0.1 * reference.std()
    assert seen[-1] == (12, 12)


def test_rows_that_are_dealt_out_come_back_in_their_order(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, seen = rows(19, seed=1), list[tuple[int, int]]()
    monkeypatch.setattr(htp, "usable_cores", lambda: 1)
    alone = connect("htp").logits(program(compiled), some, 1, None)
    monkeypatch.setattr(htp, "usable_cores", lambda: 2)
    shared = connect("htp").logits(program(compiled), some, 1, lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(alone, shared)
    assert seen[-1] == (19, 19)


def test_padding_does_not_change_an_answer_but_a_longer_row_is_refused(compiled: Path) -> None:
    some = rows(3)
    first = connect("htp").logits(program(compiled), some, 1, None)
    other = ModelFile(**{**vars(program(compiled)), "pad_id": 7})
    np.testing.assert_array_equal(first, connect("htp").logits(other, some, 1, None))
    with pytest.raises(DeviceError, match="row 0 has 17 tokens, but the model's input input_ids takes 16"):
        connect("htp").logits(program(compiled), TokenRows([np.arange(5, 22)]), 1, None)


@pytest.mark.parametrize("kept", [0, 100, 20_000, -1])
def test_a_context_that_is_cut_short_is_refused(damaged: Path, kept: int) -> None:
    context = damaged / "SM8650" / f"model-{LENGTH}_qnn.bin"
    context.write_bytes(context.read_bytes()[:kept])
    assert f"its context {context.name} is cut short or another one's: push both files again" in refused(damaged)


def test_a_context_with_a_bit_flipped_is_refused(damaged: Path) -> None:
    context = damaged / "SM8650" / f"model-{LENGTH}_qnn.bin"
    content = bytearray(context.read_bytes())
    content[len(content) // 2] ^= 1
    context.write_bytes(content)
    assert "is cut short or another one's" in refused(damaged)


def test_a_context_that_is_gone_is_named(damaged: Path) -> None:
    (damaged / "SM8650" / f"model-{LENGTH}_qnn.bin").unlink()
    assert f"its context model-{LENGTH}_qnn.bin is not beside it: push both files" in refused(damaged)


def test_a_context_that_the_runtime_cannot_read_is_refused(damaged: Path) -> None:
    # Signed, but no context: what the simulator itself says.
    path = damaged / "SM8650" / f"model-{LENGTH}.onnx"
    context = path.with_name(f"model-{LENGTH}_qnn.bin")
    before = hashlib.sha256(context.read_bytes()).hexdigest()
    context.write_bytes(b"no context" * 100)
    path.write_bytes(
        path.read_bytes().replace(before.encode(), hashlib.sha256(context.read_bytes()).hexdigest().encode())
    )
    message = refused(damaged)
    assert message.startswith("htp: qnn ")
    assert "Failed to get context binary info" in message


def test_a_file_that_is_no_program_is_refused(compiled: Path, tmp_path: Path) -> None:
    portable = compiled / "model.onnx"
    model = ModelFile(portable, hashlib.sha256(portable.read_bytes()).hexdigest(), PAD, by="qnn")
    assert "it is no program for HTP, or was not compiled by edgekit" in refused(compiled, model)
    (tmp_path / "text.onnx").write_bytes(b"no model")
    text = ModelFile(tmp_path / "text.onnx", hashlib.sha256(b"no model").hexdigest(), by="qnn")
    assert "it is no program for HTP" in refused(compiled, text)


def test_another_file_than_the_one_named_is_refused(compiled: Path) -> None:
    model = program(compiled)
    assert "not loaded; push it again" in refused(compiled, ModelFile(model.path, "0" * 64, PAD, by="qnn"))


def test_a_plain_model_runs_on_the_cpu(tmp_path: Path) -> None:
    some = token_rows(5)
    found = connect("htp").logits(mean_classifier(tmp_path / "m.onnx"), some, 1, None)
    np.testing.assert_allclose(found, expected(some), atol=1e-5)


def test_it_is_taken_for_targets_of_that_accelerator_alone() -> None:
    module: Any = module_for("htp")
    assert (module.nearest(PHONE), module.nearest(CPU)) == ("htp", None)
    device = connect("htp")
    assert device.accelerates(PHONE)
    assert not device.accelerates(CPU)
    kind, reason = device.provenance(PHONE)
    assert kind is Provenance.SIMULATED
    assert "Qualcomm's HTP simulator, onnxruntime-qnn 2." in reason
    assert device.provenance(CPU)[0] is Provenance.ESTIMATED
    assert devices.choose("mobile-npu", PHONE, "") == ("htp", "")
    assert devices.choose("arm64", CPU, "")[0] != "htp"


def test_times_and_counts_are_not_to_be_had(compiled: Path) -> None:
    device, models = connect("htp"), {"m": (program(compiled), rows(2))}
    assert isinstance(device.timeless(), Unavailable)
    assert device.latency(models, LatencyPlan()) == device.timeless()
    assert device.instructions(models, 1) == device.countless()


def test_the_fingerprint_holds_the_versions() -> None:
    found = connect("htp").fingerprint()
    assert found["device"] == "htp"
    assert found["qnn"].startswith("2.")
    assert found["onnxruntime"].startswith("1.")
    assert json.dumps(dict(found))


def test_what_it_lacks_is_said_with_what_to_install(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = connect("htp")
    assert device.unavailable() is None
    assert "not those of litert" in str(device.unavailable("litert"))
    said: list[str] = []
    module_for("htp").prepare("htp", said.append)
    assert said[0].startswith("htp: onnxruntime-qnn 2.")
    monkeypatch.setattr(htp, "installed", lambda package: None if package == "onnxruntime-qnn" else "1.0")
    missing = device.unavailable()
    assert isinstance(missing, Unavailable)
    assert missing.reason.endswith("pip install edgekit[qnn]")
    assert "onnxruntime-qnn is not installed for" in refused(compiled)
    with pytest.raises(DeviceError, match=r"htp: onnxruntime-qnn is not installed .*edgekit\[qnn\]"):
        module_for("htp").prepare("htp", said.append)
    monkeypatch.setattr(htp, "architecture", lambda: "aarch64")
    assert "is for x86-64 Linux, this is Linux on aarch64" in str(device.unavailable())


def test_a_chip_is_not_given() -> None:
    with pytest.raises(InputError, match="expected just 'htp', the program itself says for which chip it is"):
        connect("htp:sm8650")
