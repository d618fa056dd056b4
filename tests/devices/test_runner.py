"""The program that is pushed to a device, driven by hand-written jobs as any device would drive it."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CLASSES, expected, masked_classifier, mean_classifier, token_rows

from edgekit.devices import FORMATS, RUNTIMES, ModelFile, TokenRows

RUNNER = Path(__file__).parents[2] / "edgekit" / "devices" / "runner.py"


def run(
    folder: Path, models: dict[str, tuple[ModelFile, TokenRows]], runner: Path = RUNNER, **job: Any
) -> tuple[list[dict[str, Any]], int]:
    """Writes a job, runs it, and returns its events and exit status."""
    entries = []
    for name, (model, rows) in models.items():
        offsets = np.cumsum([0, *map(len, rows.ids)])
        np.savez(folder / f"{name}.npz", ids=np.concatenate(rows.ids).astype(np.int64), offsets=offsets)
        entries.append(
            {
                "name": name,
                "path": str(model.path),
                "sha256": model.sha256,
                "runtime": model.runtime,
                "rows": str(folder / f"{name}.npz"),
                "pad_id": model.pad_id,
                "min_runtime": model.min_runtime,
                "options": dict(model.options),
            }
        )
    (folder / "job.json").write_text(
        json.dumps({"threads": 1, "out": str(folder / "out.npy"), "models": entries, **job})
    )
    done = subprocess.run([sys.executable, runner, folder / "job.json"], capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def error_of(events: list[dict[str, Any]], status: int) -> str:
    """Returns the message of the error event, which must come last, with exit status 1."""
    assert status == 1
    assert events[-1]["event"] == "error"
    return str(events[-1]["message"])


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("runner", {"numpy"}),
        ("runner_onnxruntime", {"onnxruntime"}),
        ("runner_litert", {"numpy", "ai_edge_litert.interpreter"}),
        ("runner_qnn", {"onnxruntime", "onnxruntime_qnn"}),
    ],
)
def test_it_is_python_3_9_and_needs_only_numpy_and_the_runtime(module: str, needs: set[str]) -> None:
    tree = ast.parse(RUNNER.with_stem(module).read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == needs


def test_the_runner_knows_the_runtimes_that_devices_do() -> None:
    assigned = {
        target.id: node.value
        for node in ast.parse(RUNNER.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert ast.literal_eval(assigned["RUNTIMES"]) == {name: package for name, (package, _) in RUNTIMES.items()}
    assert set(FORMATS.values()) < set(RUNTIMES)  # programs of accelerators are told by no suffix
    assert all(RUNNER.with_stem(f"runner_{name}").is_file() for name in RUNTIMES)


def test_telemetry_is_off_before_the_runtime_is_loaded() -> None:
    text = RUNNER.with_stem("runner_onnxruntime").read_text()
    assert text.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < text.index("import onnxruntime")


def test_logits_agree_with_numpy(tmp_path: Path) -> None:
    rows = token_rows(9)
    events, status = run(tmp_path, {"m": (mean_classifier(tmp_path / "m.onnx"), rows)}, mode="logits")
    logits = np.load(tmp_path / "out.npy")
    assert status == 0
    assert [event["event"] for event in events] == ["ready", "progress", "result"]
    assert events[0]["threads"] == 1
    assert events[0]["allow_spinning"] is False
    assert {"python", "numpy", "runtimes", "machine", "inter_op_threads"} <= set(events[0])
    assert events[0]["runtimes"] == {"onnxruntime": version("onnxruntime")}
    assert events[0]["load_ms"]["m"] > 0
    assert events[1] == {"event": "progress", "done": 9, "total": 9}
    assert events[2]["peak_rss_bytes"] > 1_000_000
    assert logits.dtype == np.float32
    assert logits.shape == (9, CLASSES)
    np.testing.assert_allclose(logits, expected(rows), atol=1e-5)


@pytest.mark.parametrize("length", ["sequence", 12, 20])
def test_masked_int32_inputs_of_dynamic_and_static_length(tmp_path: Path, length: int | str) -> None:
    rows = token_rows(7)
    events, status = run(tmp_path, {"m": (masked_classifier(tmp_path / "m.onnx", length), rows)}, mode="logits")
    assert status == 0, events
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(rows), atol=1e-5)


def test_a_static_length_is_filled_with_the_models_own_pad_id(tmp_path: Path) -> None:
    import onnx
    from tiny_models import save

    plain = onnx.load(mean_classifier(tmp_path / "plain.onnx").path)
    plain.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 8
    model = save(plain, tmp_path / "static.onnx", pad_id=3)
    rows = token_rows(4, longest=6)
    _, status = run(tmp_path, {"m": (model, rows)}, mode="logits")
    padded = TokenRows([np.pad(ids, (0, 8 - len(ids)), constant_values=3) for ids in rows.ids])
    assert status == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(padded), atol=1e-5)


def test_a_row_longer_than_a_static_length_is_refused(tmp_path: Path) -> None:
    model = masked_classifier(tmp_path / "m.onnx", 4)
    rows = TokenRows([np.arange(1, 4), np.arange(1, 8)])
    message = error_of(*run(tmp_path, {"m": (model, rows)}, mode="logits"))
    assert message == "row 1 has 7 tokens, but the model's input input_ids takes 4"
    assert not (tmp_path / "out.npy").exists()


def test_a_model_that_is_not_the_one_named_is_not_loaded(tmp_path: Path) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"something else")
    message = error_of(*run(tmp_path, {"m": (model, token_rows(1))}, mode="logits"))
    assert "sha256" in message
    assert model.sha256 in message
    assert "not loaded" in message


def test_a_runtime_that_is_too_old_is_named(tmp_path: Path) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    newer = replace(model, min_runtime="99.1")
    message = error_of(*run(tmp_path, {"m": (newer, token_rows(1))}, mode="logits"))
    assert "needs onnxruntime >= 99.1" in message


def test_a_file_that_the_runtime_refuses_is_an_error_event(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "m.onnx").write_bytes(b"no model")
    model = ModelFile(tmp_path / "m.onnx", hashlib.sha256(b"no model").hexdigest())
    assert "cannot load" in error_of(*run(tmp_path, {"m": (model, token_rows(1))}, mode="logits"))


def test_a_runtime_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    monkeypatch.setitem(FORMATS, ".onnx", "tea")
    message = error_of(*run(tmp_path, {"m": (model, token_rows(1))}, mode="logits"))
    assert message == "unknown runtime 'tea': expected one of ['litert', 'onnxruntime', 'qnn']"
    (tmp_path / "alone").mkdir()
    shutil.copyfile(RUNNER, tmp_path / "alone" / "runner.py")  # without the module of any runtime
    monkeypatch.setitem(FORMATS, ".onnx", "litert")
    message = error_of(*run(tmp_path, {"m": (model, token_rows(1))}, tmp_path / "alone" / "runner.py", mode="logits"))
    assert "install ai-edge-litert for" in message


def test_an_empty_row_and_an_unknown_mode_are_refused(tmp_path: Path) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    empty = TokenRows([np.arange(3), np.arange(0)])
    assert "row 1 has no tokens" in error_of(*run(tmp_path, {"m": (model, empty)}, mode="logits"))
    assert "unknown mode 'tea'" in error_of(*run(tmp_path, {"m": (model, token_rows(1))}, mode="tea"))


def test_latency_alternates_the_models_in_blocks(tmp_path: Path) -> None:
    rows = token_rows(3)
    models = {
        "teacher": (mean_classifier(tmp_path / "t.onnx", hidden=32), rows),
        "student": (mean_classifier(tmp_path / "s.onnx"), rows),
    }
    plan = {"rounds": 4, "block_runs": 7, "warmup_runs": 2}
    events, status = run(tmp_path, models, mode="latency", latency=plan, out=str(tmp_path / "out.npz"))
    assert status == 0, events
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["block_ms"].shape == (2, 4, 7)
        assert arrays["block_cold_ms"].shape == (2, 4)
        assert arrays["order"].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
        assert (arrays["block_ms"] > 0).all()
        assert (arrays["block_cold_ms"] > 0).all()
    assert [(e["done"], e["total"]) for e in events if e["event"] == "progress"] == [(n, 8) for n in range(1, 9)]
    assert [entry["name"] for entry in events[-1]["models"]] == ["teacher", "student"]
    assert all(entry["load_ms"] > 0 and entry["cold_ms"] > 0 for entry in events[-1]["models"])


def test_later_rounds_of_a_shared_plan_go_on_in_order(tmp_path: Path) -> None:
    models = {name: (mean_classifier(tmp_path / f"{name}.onnx"), token_rows(3)) for name in ("teacher", "student")}
    plan = {"rounds": 2, "first_round": 3, "block_runs": 2, "warmup_runs": 1}
    events, status = run(tmp_path, models, mode="latency", latency=plan, out=str(tmp_path / "out.npz"))
    assert status == 0, events
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["order"].tolist() == [[1, 0], [0, 1]]


def test_a_latency_plan_without_warm_up_is_refused(tmp_path: Path) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    plan = {"rounds": 4, "block_runs": 7, "warmup_runs": 0}
    assert "at least 1" in error_of(*run(tmp_path, {"m": (model, token_rows(1))}, mode="latency", latency=plan))


def test_passes_say_nothing_between_ready_and_result(tmp_path: Path) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    events, status = run(tmp_path, {"m": (model, token_rows(5))}, mode="passes", passes=3, mark_fd=1_000_003)
    assert status == 0
    assert [event["event"] for event in events] == ["ready", "result"]


def test_no_job_is_a_usage_error(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, RUNNER], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["event"] == "error"


def test_the_targets_options_reach_the_session(tmp_path: Path) -> None:
    model = replace(mean_classifier(tmp_path / "m.onnx"), options={"session.set_denormal_as_zero": "1"})
    events, status = run(tmp_path, {"m": (model, token_rows(1))}, mode="logits")
    assert status == 0
    (ready,) = (event for event in events if event["event"] == "ready")
    assert ready["options"] == {"m": {"session.set_denormal_as_zero": "1"}}
