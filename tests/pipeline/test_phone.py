"""A whole build for a phone's NPU: compiled by the vendor's compiler, judged in its simulator, packed for an app."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import builds
import onnx
import pytest
from builds import Sources, manifest

from edgekit.target import shipped_targets

pytest.importorskip("onnxruntime_qnn")

TARGET = "phone"
SETTINGS = [setting for setting in builds.SETTINGS if not setting.startswith("quantize.")]


def write_target(path: Path) -> Path:
    """Writes the shipped profile under another name, with a gate that 120 rows can pass."""
    text = shipped_targets()["mobile-npu"].read_text(encoding="utf-8")
    for key, value in (("name", f'"{path.stem}"'), ("min_examples", "100"), ("max_drop", "30.0")):
        text = re.sub(f"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle; its cache lies beside it."""
    root = tmp_path_factory.mktemp("phone")
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    target = write_target(root / f"{TARGET}.toml")
    places = ["--data", sources.data, "--target", target, "--out", root / "dist"]
    done = builds.run(["build", sources.teacher, *places, *settings], root / "cache")
    assert done.returncode == 0, done.stderr
    return root / "dist" / TARGET


def run(built: Path, *args: str | Path) -> tuple[int, str]:
    done = builds.run(args, built.parent.parent / "cache")
    return done.returncode, done.stdout + done.stderr


def test_the_program_is_whole_and_its_figures_are_of_the_simulator(built: Path) -> None:
    found = manifest(built)
    model, accuracy = found["model"], found["accuracy"]
    assert (accuracy["device"], accuracy["provenance"], accuracy["examples"]) == ("htp", "simulated", 120)
    assert (found["coverage"]["delegated"], found["coverage"]["fallback"]) == (found["coverage"]["nodes"], [])
    assert found["agreement"]["percent"] >= 99
    assert found["gate"]["verdict"] == "pass"
    assert {check["name"] for check in found["gate"]["checks"]} >= {"coverage", "agreement", "model size"}
    assert set(found["unmeasured"]) >= {"latency", "instructions", "cycles"}
    assert len(model["files"]) == 2
    for chip in ("SM8650", "SM8750"):
        for path in model["files"].values():
            graph = onnx.load(built / path.replace("SM8650", chip), load_external_data=False).graph
            assert [node.op_type for node in graph.node] == ["EPContext"]
    shipped = {file.relative_to(built).as_posix(): file.stat().st_size for file in (built / "SM8650").iterdir()}
    assert model["device_bytes"] == sum(shipped.values())


def test_the_bundle_answers_on_the_npu_and_on_a_cpu(built: Path) -> None:
    for device in ("htp", "local"):
        code, said = run(built, "verify", built, "--device", device)
        assert code == 0, said
        assert "all agree" in said
    code, said = run(built, "gate", built)
    assert code == 0, said


def test_a_build_replaces_its_own_bundle_and_sweeps_nothing(built: Path, sources: Sources) -> None:
    root = built.parent.parent
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    places = ["--data", sources.data, "--target", root / f"{TARGET}.toml", "--out", root / "dist"]
    done = builds.run(["build", sources.teacher, *places, *settings], root / "cache")
    assert done.returncode == 0, done.stderr
    assert builds.ran(built) == []
    done = builds.run(["build", sources.teacher, *places, "--sweep"], root / "cache")
    assert done.returncode == 4, done.stderr
    assert "leave --sweep out" in done.stderr


def test_a_damaged_program_is_refused(built: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(built, tmp_path / TARGET))
    (binary,) = (copy / "SM8650").glob("model-8*.bin")
    binary.write_bytes(binary.read_bytes()[:-100])
    code, said = run(built, "verify", copy, "--device", "htp")
    assert code in (2, 3, 5)
    assert binary.name in said
    assert "Traceback" not in said
    path = copy / "manifest.json"
    item = json.loads(path.read_text())
    item["model"]["files"]["8"] = "nowhere.onnx"
    path.write_text(json.dumps(item))
    code, said = run(built, "verify", copy)
    assert code == 2
    assert "nowhere.onnx is not among files" in said
    item["model"]["files"] = {"eight": item["model"]["path"]}
    path.write_text(json.dumps(item))
    code, said = run(built, "verify", copy)
    assert code == 2
    assert "model.files" in said
