"""The manifest: what is written is read back, what is wrong is refused by its key, and the schema says the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from manifests import accuracy, digest, example, example_arm64, schema

from edgekit import manifest as manifests
from edgekit import measured
from edgekit.errors import ArtifactError, OutputError
from edgekit.provenance import Provenance

SCHEMA_FILE = Path(manifests.__file__).with_name("manifest.schema.json")
EXAMPLES = [
    example(),
    example_arm64(),
    example(
        "ethos",
        accuracy=None,
        latency=None,
        memory=None,
        unmeasured=dict.fromkeys(manifests.SECTIONS, "no simulator"),
    ),
]


def changed(path: str, value: object) -> dict[str, Any]:
    """Returns an example as JSON with one key set; `...` removes it."""
    plain = copy.deepcopy(EXAMPLES[0].to_json())
    plain = json.loads(json.dumps(plain))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    owner: Any = plain
    for part in parents:
        owner = owner[part]
    if value is ...:
        del owner[last]
    else:
        owner[last] = value
    return plain


@pytest.mark.parametrize("item", EXAMPLES, ids=lambda item: item.target_name)
def test_round_trip_is_exact_and_canonical(tmp_path: Path, item: manifests.Manifest) -> None:
    file = tmp_path / "manifest.json"
    manifests.write(file, item)
    first = file.read_bytes()
    read = manifests.read(file)
    assert manifests.read(tmp_path) == read
    assert read.to_json() == json.loads(json.dumps(item.to_json()))
    manifests.write(file, read)
    assert file.read_bytes() == first
    plain = json.loads(first)
    assert first.decode() == json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert os.listdir(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize("item", EXAMPLES, ids=lambda item: item.target_name)
def test_examples_fit_the_schema(item: manifests.Manifest) -> None:
    committed = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(committed)
    jsonschema.Draft202012Validator(committed).validate(json.loads(json.dumps(item.to_json())))


def test_schema_agrees_with_the_dataclasses() -> None:
    committed = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(schema()))
    assert committed == fresh, "run: python tests/manifests.py > edgekit/manifest.schema.json"
    kinds = {
        name: kind
        for name, kind in {**vars(measured), **vars(manifests)}.items()
        if dataclasses.is_dataclass(kind) and name in committed["$defs"]
    }
    assert set(committed["$defs"]) == set(kinds)
    for name, kind in kinds.items():
        fields = {field.name for field in dataclasses.fields(kind)}
        assert fields == set(committed["$defs"][name]["properties"]) == set(committed["$defs"][name]["required"])
        assert committed["$defs"][name]["additionalProperties"] is False


# Each is refused by both, the reader and the schema, and the reader names the key.
REFUSED = [
    ("model/size", 1, "model.size: unknown key"),
    ("latncy", None, "latncy: unknown key; did you mean 'latency'?"),
    ("accuracy/drop", ..., "accuracy.drop: missing"),
    ("gate", ..., "gate: missing"),
    ("latency/p50_ms", "fast", "latency.p50_ms: expected a number, got 'fast'"),
    ("latency/p50_ms", True, "latency.p50_ms: expected a number"),
    ("latency/p50_ms", -1, "latency.p50_ms: expected at"),
    ("latency/threads", 1.5, "latency.threads: expected an integer"),
    ("latency/threads", 0, "latency.threads"),
    ("latency/sequence_length", "long", "latency.sequence_length: expected an integer or one of dynamic, got 'long'"),
    ("accuracy/teacher", 101, "accuracy.teacher: expected -100 to 100"),
    ("accuracy/ci95", [1], "accuracy.ci95: expected"),
    ("accuracy/ci95", {"low": 1}, "accuracy.ci95: expected a list"),
    ("accuracy/examples", None, "accuracy.examples"),
    ("accuracy/provenance", "guessed", "accuracy.provenance: expected one of measured, simulated, estimated"),
    ("lineage/0/key", "abcd1234", "lineage[0].key: expected a sha256"),
    ("lineage/1/cached", 1, "lineage[1].cached"),
    ("labels", "a,b", "labels: expected a list"),
    ("labels/2", 7, "labels[2]: expected a string"),
    ("model/path", "../model.onnx", "model.path: expected a relative path"),
    ("model/path", "/etc/passwd", "model.path"),
    ("model/path", "a/../../b", "model.path"),
    ("model/path", "C:\\model.onnx", "model.path"),
    ("model/path", "", "model.path"),
    ("model/path", ".", "model.path"),
    ("tokenizer/path", "..", "tokenizer.path"),
    ("files/0/path", "a\\..\\b", "files[0].path"),
    ("files/0/path", "a\x00b", "files[0].path"),
    ("created", "yesterday", "created: expected a UTC time"),
    ("teacher/name", "", "teacher.name: expected a string that"),
    ("data/rows/test", -1, "data.rows.test: expected at least 0"),
    ("unmeasured/latency", "", "unmeasured.latency"),
    ("gate/verdict", "fine", "gate.verdict: expected one of pass, fail"),
    ("target/name", ..., "target.name: missing"),
    ("schema", 2, "schema: 2 is not known"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_refuses_what_the_schema_refuses(tmp_path: Path, path: str, value: object, message: str) -> None:
    plain = changed(path, value)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        manifests.read(file)
    assert f"{file}: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))).validate(plain)


# What a schema cannot say: across keys.
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("latency", None, "latency: null without a reason"),
        ("accuracy/student_fp32", None, "accuracy.student_fp32: null without a reason"),
        (
            "unmeasured/memory",
            "forgot",
            "unmeasured.memory: has a reason for not being measured, but is in the manifest",
        ),
        ("unmeasured/speed", "forgot", "unmeasured.speed: not a figure that can be null"),
        ("accuracy/provenance", "estimated", "accuracy.reason: empty"),
        ("latency/histogram/artifact", [1, 2], "latency.histogram: 61 edges need 60 counts, got 2"),
        ("target/facts", [1, {"deep": math.inf}], "target.facts[1].deep: expected a finite number"),
    ],
)
def test_refuses_what_does_not_fit_together(path: str, value: object, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        manifests.Manifest.from_json(changed(path, value))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: "),
        (b"[]", "the manifest: expected an object"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"schema": 1, "schema": 1}', "schema: stands twice"),
        (b'{"schema": "\xff"}', "not UTF-8 at byte"),
        (b"[" * 100_000, "not JSON that can be read"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
    ],
)
def test_refuses_what_is_no_json(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(text)
    with pytest.raises(ArtifactError) as caught:
        manifests.read(file)
    assert message in str(caught.value)


def test_refuses_infinity_written_as_a_number_and_lone_surrogates(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    text = json.dumps(changed("latency/p99_ms", 12345.25))
    file.write_text(text.replace("12345.25", "1e999"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"latency\.p99_ms: expected a finite number"):
        manifests.read(file)
    file.write_text(json.dumps(changed("labels/0", "\ud800")), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"labels\[0\]: expected a string that UTF-8 can write"):
        manifests.read(file)


def test_refuses_a_file_that_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        manifests.read(tmp_path)
    with pytest.raises(ArtifactError, match=r"cannot be read .*; expected a bundle"):
        manifests.read(tmp_path / ("a" * 5000))
    large = tmp_path / "manifest.json"
    with large.open("wb") as stream:
        stream.truncate(manifests.MAX_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 16 MiB"):
        manifests.read(large)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: dataclasses.replace(item, accuracy=accuracy(drop=math.nan)),
        lambda item: dataclasses.replace(item, latency=None),
        lambda item: dataclasses.replace(item, model=dataclasses.replace(item.model, path="/model.onnx")),
        lambda item: dataclasses.replace(item, recipe={"seed": {1, 2}}),
    ],
    ids=["NaN", "null without reason", "absolute path", "not JSON"],
)
def test_write_refuses_and_keeps_what_was_there(
    tmp_path: Path, spoil: Callable[[manifests.Manifest], manifests.Manifest]
) -> None:
    file = tmp_path / "manifest.json"
    manifests.write(file, EXAMPLES[0])
    before = file.read_bytes()
    with pytest.raises(ArtifactError):
        manifests.write(file, spoil(EXAMPLES[0]))
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_write_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match="No space left"):
        manifests.write(tmp_path / "manifest.json", EXAMPLES[0])
    assert os.listdir(tmp_path) == []
    with pytest.raises(OutputError, match="cannot be written"):
        manifests.write(tmp_path / "absent" / "manifest.json", EXAMPLES[0])


def test_estimated_figures_say_why() -> None:
    item = example(accuracy=accuracy(provenance=Provenance.ESTIMATED, reason="no qemu: ran on the host's kernels"))
    assert manifests.Manifest.from_json(item.to_json()).accuracy == item.accuracy
    assert item.teacher.sha256 == digest("teacher")


def test_starts_without_the_heavy_imports() -> None:
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "datasets", "scipy", "numpy", "rich", "jinja2")
    code = f"import sys, edgekit.verdict; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(manifests.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
