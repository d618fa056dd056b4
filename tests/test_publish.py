"""What lies in `dist/`: whole bundles that name no place of this machine, and verdicts that hold for their figures."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import builds
import numpy as np
import pytest
from builds import TARGET, TinyBuild, cli

import edgekit

Content = dict[str, Any]


def test_a_bundle_is_what_its_manifest_says(tiny_build: TinyBuild) -> None:
    bundle, content = tiny_build.bundle, builds.manifest(tiny_build.bundle)
    there = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    named = {file["path"]: file for file in content["files"]} | {content["model"]["path"]: content["model"]}
    assert set(there) == set(named) | {"manifest.json", "report.html"}
    assert {"model.onnx", "golden.jsonl", "tokenizer/tokenizer.json"} <= set(named)
    for name, file in named.items():
        assert file["sha256"] == hashlib.sha256(there[name].read_bytes()).hexdigest()
        assert file["bytes"] == there[name].stat().st_size
    assert [step["stage"] for step in content["lineage"]] == list(builds.STAGES)


def test_a_bundle_names_no_place_of_this_machine(tiny_build: TinyBuild) -> None:
    for path in tiny_build.bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for place in (tiny_build.sources.root, tiny_build.cache, tiny_build.out, Path.home()):
                assert str(place).encode() not in content, path.name


def test_leftovers_of_a_killed_build_go(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out = tmp_path / "dist"
    for name in (f".{TARGET}.new", f".{TARGET}.old"):
        (out / name).mkdir(parents=True)
        (out / name / "half").write_text("half")
    (out / TARGET).mkdir()
    result = cli(*tiny_build.sources.args(out), cache=tiny_build.copy_cache(tmp_path / "cache"))
    assert result.exit_code == 0, result.output
    assert [path.name for path in out.iterdir()] == [TARGET]
    assert (out / TARGET / "manifest.json").is_file()


def test_a_fresh_process_loads_the_student(tiny_build: TinyBuild) -> None:
    """`import edgekit` is all that transformers needs to know the IR; the logits are those of the reference."""
    store = tiny_build.cache / "store"
    objects = {
        stage: store / "objects" / json.loads((store / "actions" / f"{step['key']}.json").read_text())["digest"]
        for stage, step in builds.lineage(tiny_build.bundle).items()
    }
    program = """
import json, sys
import edgekit
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(json.dumps([
    {"type": model.config.model_type, "labels": model.config.id2label, "heads": list(model.config.heads)},
    [model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0].tolist()
     for text in json.load(sys.stdin)],
]))
"""
    lines = (tiny_build.sources.data / "test.jsonl").read_text().splitlines()[:20]
    done = subprocess.run(
        [sys.executable, "-c", program, str(objects["prune"])],
        input=json.dumps([json.loads(line)["text"] for line in lines]),
        capture_output=True,
        text=True,
        check=False,
        env=builds.environment(tiny_build.cache),
    )
    assert done.returncode == 0, done.stderr
    config, logits = json.loads(done.stdout)
    assert config["type"] == "edgekit"
    assert sorted(config["labels"].values()) == ["alarm", "lights", "music", "weather"]
    assert len(config["heads"]) == 2
    expected = np.load(objects["reference"] / "student.npy")[:20]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def verdict_passed(content: Content) -> None:
    content["gate"]["verdict"] = "pass"


def verdict_failed(content: Content) -> None:
    content["gate"]["verdict"] = "fail"


def drop_edited(content: Content) -> None:
    content["accuracy"]["drop"] = 99.0


def score_edited(content: Content) -> None:
    content["accuracy"]["artifact"] -= 1.5
    content["accuracy"]["drop"] += 1.5


def limit_tightened(content: Content) -> None:
    content["gate"]["limits"]["max_bytes"] = 10


def accuracy_removed(content: Content) -> None:
    content["accuracy"] = None
    content["unmeasured"]["accuracy"] = "lost"


def nothing(content: Content) -> None:
    pass


@pytest.mark.parametrize(
    ("edit", "code", "message"),
    [
        (nothing, 0, "pass"),
        (verdict_passed, 0, "pass"),
        (verdict_failed, 4, "records the verdict fail, its figures say pass"),
        (drop_edited, 3, "teacher - artifact is"),
        (score_edited, 4, "lost and gained give"),
        (limit_tightened, 3, "records the verdict pass, its figures say fail"),
        (accuracy_removed, 4, "records the verdict pass, its figures say not-measured"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_gate_judges_the_figures(
    edit: Callable[[Content], None], code: int, message: str, tiny_build: TinyBuild, tmp_path: Path
) -> None:
    dist, junit = tmp_path / "dist", tmp_path / "gate.xml"
    bundle, content = tiny_build.copy_bundle(dist / TARGET), builds.manifest(tiny_build.bundle)
    edit(content)
    (bundle / "manifest.json").write_text(json.dumps(content))
    result = cli("gate", dist, "--junit", junit, cache=tmp_path / "cache")
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stdout.split())
    suites = ElementTree.parse(junit).getroot()
    cases = list(suites.iter("testcase"))
    assert len(cases) >= 3
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    assert bool(failed) == (code != 0)
    as_json = cli("gate", dist, "--json", cache=tmp_path / "cache")
    assert as_json.exit_code == code
    assert (json.loads(as_json.stdout)[TARGET]["verdict"] == "pass") == (code == 0)


def test_the_gate_over_two_bundles_is_that_of_the_worse(tiny_build: TinyBuild, tmp_path: Path) -> None:
    for name in ("one", "two"):
        content = builds.manifest(tiny_build.bundle)
        content["target"]["name"] = name
        if name == "two":
            content["gate"]["limits"]["max_bytes"] = 10
        (tiny_build.copy_bundle(tmp_path / "dist" / name) / "manifest.json").write_text(json.dumps(content))
    assert cli("gate", tmp_path / "dist", cache=tmp_path / "cache").exit_code == 3
    judged = edgekit.gate(tmp_path / "dist")
    assert [(name, str(gate.verdict)) for name, _, gate in judged] == [("one", "pass"), ("two", "fail")]
    shutil.rmtree(tmp_path / "dist" / "two")
    assert cli("gate", tmp_path / "dist", cache=tmp_path / "cache").exit_code == 0


def test_the_gate_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "x").mkdir(parents=True)
    for name in ("empty", "broken", "missing"):
        result = cli("gate", tmp_path / name, cache=tmp_path / "cache")
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("Error: ")


def test_a_report_that_cannot_be_written(tiny_build: TinyBuild, tmp_path: Path) -> None:
    result = cli("gate", tiny_build.out, "--junit", tmp_path / "no" / "gate.xml", cache=tmp_path / "cache")
    assert result.exit_code == 2
    assert "gate.xml cannot be written: No such file or directory" in result.stderr


def test_a_build_does_not_delete_the_users_own_files(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out = tmp_path / "dist"
    bundle = tiny_build.copy_bundle(out / TARGET)
    (bundle / "notes.txt").write_text("mine")
    result = cli(*tiny_build.sources.args(out), cache=tiny_build.cache)
    assert result.exit_code == 2
    assert "holds files that are not part of the bundle: notes.txt" in result.stderr
    assert (bundle / "notes.txt").read_text() == "mine"


def test_the_gate_passes_over_what_is_no_bundle(tiny_build: TinyBuild, tmp_path: Path) -> None:
    tiny_build.copy_bundle(tmp_path / TARGET)
    (tmp_path / "notes").mkdir()
    result = cli("gate", tmp_path, cache=tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert TARGET in result.stdout


def test_the_gate_notices_limits_that_were_edited(tiny_build: TinyBuild, tmp_path: Path) -> None:
    bundle = tiny_build.copy_bundle(tmp_path / TARGET)
    content = builds.manifest(bundle)
    content["gate"]["limits"]["max_drop"] = 99.0
    (bundle / "manifest.json").write_text(json.dumps(content))
    result = cli("gate", tmp_path, cache=tmp_path / "cache")
    assert result.exit_code == 4, result.output
    assert "gate.limits.max_drop is 99.0, the target's is 30.0" in " ".join(result.stdout.split())
