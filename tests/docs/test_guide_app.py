"""The guide's app: its code runs on a bundle with nothing but onnxruntime, tokenizers and numpy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from docs_markdown import GUIDE_APP

from edgekit.stages.bundle import TOLERANCE

WIDTH, MAX_LENGTH = 8, 16


def write_bundle(folder: Path) -> None:
    """Writes a bundle's files by hand: a bag of words as the model, with a bundle's inputs, outputs and golden rows."""
    import onnx
    import onnxruntime  # here: it must come after edgekit, which switches its telemetry off
    from onnx import TensorProto, helper, numpy_helper

    tokenizer = tiny.wordpiece()
    tokenizer.enable_truncation(MAX_LENGTH)
    random = np.random.default_rng(0)
    table = random.normal(size=(tokenizer.get_vocab_size(), WIDTH)).astype(np.float32)
    weight = random.normal(size=(WIDTH, len(tiny.LABELS))).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("ReduceMean", ["words", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(tiny.LABELS)])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    tiny.write_tokenizer(folder / "tokenizer", tokenizer, MAX_LENGTH)
    manifest = {
        "labels": list(tiny.LABELS),
        "model": {"path": "model.onnx"},
        "tokenizer": {"path": "tokenizer", "max_length": MAX_LENGTH},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    lines = []
    for text, _ in tiny.sentences(8):
        ids = tokenizer.encode(text).ids
        logits = session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})[0][0]
        lines.append(json.dumps({"text": text, "input_ids": ids, "logits": [round(float(v), 6) for v in logits]}))
    (folder / "golden.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_app(folder: Path, more: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the guide's code in a process of its own, with `folder` as its working folder."""
    command = [sys.executable, "-c", GUIDE_APP + more]
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_app_answers_and_tests_itself(tmp_path: Path) -> None:
    write_bundle(tmp_path / "dist" / "x86-64")
    done = run_app(tmp_path, "\nimport sys\nprint(classify('wake me'), *({'edgekit', 'torch'} & set(sys.modules)))\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in tiny.LABELS


@pytest.mark.parametrize("pattern", [r'"logits": \[[-\d.]+', r'"input_ids": \[\d+'])
def test_app_notices_another_answer(tmp_path: Path, pattern: str) -> None:
    write_bundle(tmp_path / "dist" / "x86-64")
    golden = tmp_path / "dist" / "x86-64" / "golden.jsonl"
    text = golden.read_text(encoding="utf-8")
    golden.write_text(re.sub(pattern, lambda found: found[0].split("[")[0] + "[77", text, count=1), encoding="utf-8")
    done = run_app(tmp_path)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def test_app_needs_what_the_guide_says() -> None:
    imported = set(re.findall(r"^(?:import|from) (\w+)", GUIDE_APP, re.MULTILINE))
    assert imported == {"json", "pathlib", "numpy", "onnxruntime", "tokenizers"}


def test_app_tolerates_what_verify_tolerates() -> None:
    assert f"tolerance = {TOLERANCE} *" in GUIDE_APP
