"""LiteRT files on this machine and under emulation, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_litert import litert_classifier
from tiny_models import CLASSES, expected, mean_classifier, token_rows

from edgekit.devices import LatencyPlan, ModelFile, TokenRows, connect
from edgekit.devices._empty_model import write_empty_model
from edgekit.errors import DeviceError, ModelError

pytestmark = pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="ai-edge-litert is not installed")


@pytest.fixture(params=["local", "qemu:cortex-a76"])
def device(request: pytest.FixtureRequest) -> str:
    """A device that has the runtime; skipped by name where it has not."""
    uri = str(request.param)
    if (missing := connect(uri).unavailable("litert")) is not None:
        pytest.skip(missing.reason)
    return uri


def test_logits_of_rows_of_any_length_agree_with_numpy(device: str, tmp_path: Path) -> None:
    rows = token_rows(20)
    logits = connect(device).logits(litert_classifier(tmp_path / "m.tflite"), rows, 1, None)
    assert logits.dtype == np.float32
    assert logits.shape == (20, CLASSES)
    np.testing.assert_allclose(logits, expected(rows), atol=1e-5)


def test_a_static_length_is_filled_up(tmp_path: Path) -> None:
    rows = token_rows(5, longest=6)
    model = litert_classifier(tmp_path / "m.tflite", length=8, pad_id=3)
    padded = TokenRows([np.pad(ids, (0, 8 - len(ids)), constant_values=3) for ids in rows.ids])
    np.testing.assert_allclose(connect("local").logits(model, rows, 1, None), expected(padded), atol=1e-5)
    with pytest.raises(DeviceError, match="row 0 has 9 tokens, but the model's input input_ids takes 8"):
        connect("local").logits(model, TokenRows([np.arange(9)]), 1, None)


def test_models_of_both_runtimes_are_timed_in_one_run(tmp_path: Path) -> None:
    rows = token_rows(5)
    models = {
        "onnx": (mean_classifier(tmp_path / "m.onnx"), rows),
        "tflite": (litert_classifier(tmp_path / "m.tflite"), rows),
    }
    timed = connect("local").latency(models, LatencyPlan(rounds=2, block_runs=50, loads=1))
    assert isinstance(timed, dict)
    assert {name: one.block_ms.shape for name, one in timed.items()} == {"onnx": (2, 50), "tflite": (2, 50)}
    assert all((one.block_ms > 0).all() for one in timed.values())


def test_instructions_are_net_of_the_call_and_the_same_each_time(tmp_path: Path) -> None:
    arm = connect("qemu:cortex-a76")
    if (missing := arm.unavailable("litert")) is not None:
        pytest.skip(missing.reason)
    model, rows = litert_classifier(tmp_path / "m.tflite"), TokenRows([np.arange(1, 9), np.arange(1, 9)])
    one, other = (arm.instructions({"m": (model, rows)}, 1) for _ in range(2))
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert one["m"].per_inference == pytest.approx(other["m"].per_inference, rel=0.01)
    assert 0 < one["m"].per_inference < 1e6
    assert one["m"].runner_overhead > 1000


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    whole = litert_classifier(tmp_path / "m.tflite").path.read_bytes()
    data = whole[: len(whole) // 3] if damage == "cut" else b"no model"
    (tmp_path / "bad.tflite").write_bytes(data)
    bad = ModelFile(tmp_path / "bad.tflite", sha256(data).hexdigest())
    with pytest.raises(DeviceError, match=r"litert \S+ cannot load .*not a valid Flatbuffer"):
        connect("local").logits(bad, token_rows(1), 1, None)


def test_session_options_are_refused(tmp_path: Path) -> None:
    model = replace(litert_classifier(tmp_path / "m.tflite"), options={"a.b": "1"})
    with pytest.raises(DeviceError, match=r"LiteRT has no session options, but the target gives a\.b"):
        connect("local").logits(model, token_rows(1), 1, None)


def without_inputs(model: Any) -> None:
    """Damages a graph: it has no inputs, though its signature names one."""
    model.subgraphs[0].inputs = []


def with_another_input(model: Any) -> None:
    """Damages a signature: what it names is no input of the graph."""
    model.signatureDefs[0].inputs[0].tensorIndex = 3


@pytest.mark.parametrize("damage", [without_inputs, with_another_input])
def test_an_empty_model_is_not_made_of_a_damaged_one(damage: Callable[[Any], None], tmp_path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT.InitFromPackedBuf(litert_classifier(tmp_path / "m.tflite").path.read_bytes())
    damage(made)
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    (tmp_path / "bad.tflite").write_bytes(bytes(builder.Output()))
    with pytest.raises(ModelError, match=r"cannot read .*bad\.tflite as a \.tflite model of one signature"):
        write_empty_model(ModelFile(tmp_path / "bad.tflite", ""), tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
