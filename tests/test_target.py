"""Target profiles: the shipped files, and what a wrong one says."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgekit import backends
from edgekit.errors import StageContractError, TargetError
from edgekit.stages import ORDER
from edgekit.target import Target, TargetView, field_of, load_target, read_target, shipped_targets

REMOVED = object()


def toml(table: dict[str, Any], prefix: str = "") -> str:
    """Writes a table as TOML; JSON's strings, numbers, booleans and lists are TOML's too."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    text = "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, dict):
            text += f"[{prefix}{key}]\n" + toml(value, f"{prefix}{key}.")
    return text


def changed(folder: Path, path: str, value: object) -> Path:
    """Writes the shipped x86-64 profile as `own.toml` with one key set, or removed."""
    table = tomllib.loads(shipped_targets()["x86-64"].read_text())
    table["name"] = "own"
    *sections, key = path.split(".")
    inner = table
    for section in sections:
        inner = inner.setdefault(section, {})
    if value is REMOVED:
        del inner[key]
    else:
        inner[key] = copy.deepcopy(value)
    file = folder / "own.toml"
    file.write_text(toml(table))
    return file


@pytest.mark.parametrize("name", sorted(shipped_targets()))
def test_a_shipped_profile_is_valid(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.runtime.name in backends.names()
    assert target.summary
    assert target.source
    assert json.loads(json.dumps(target.as_dict()))["name"] == name
    assert isinstance(target.gate.max_drop, float)


def test_the_promised_targets_are_shipped() -> None:
    assert {"x86-64", "arm64", "mobile-npu"} <= set(shipped_targets())


@pytest.mark.parametrize("name", sorted(shipped_targets()))
def test_every_field_that_a_stage_declares_is_there(name: str) -> None:
    target = load_target(name)
    for stage in ORDER:
        view = TargetView(target, stage.READS, stage.NAME)
        for field in stage.READS:
            assert view[field] == field_of(target, field)
            json.dumps(view[field])


def test_a_profile_of_the_users_own_is_read_by_its_path(tmp_path: Path) -> None:
    target = load_target(str(changed(tmp_path, "budget.latency_p95_ms", 20)))
    assert isinstance(target, Target)
    assert (target.name, target.budget.latency_p95_ms) == ("own", 20.0)
    assert target.budget.peak_rss_bytes is None


def test_an_unknown_target_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="unknown target 'amr64'; did you mean 'arm64'"):
        load_target("amr64")
    with pytest.raises(TargetError, match="known: android, "):
        load_target("toaster")
    with pytest.raises(TargetError, match=r"gone\.toml does not exist"):
        load_target(str(tmp_path / "gone.toml"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "unknown key 'colour'"),
        ("device.thread", 1, "unknown key 'device.thread'; did you mean 'threads'"),
        ("quant.weight.granularty", "x", "unknown key 'quant.weight.granularty'; did you mean 'granularity'"),
        ("extends", "arm64", "unknown key 'extends'"),
        ("device.ram", 4, "unknown key 'device.ram': give it with its unit, as 'ram_bytes'"),
        ("budget.file", 4, "unknown key 'budget.file': give it with its unit, as 'file_bytes'"),
        ("budget.latency_p95", 4, "unknown key 'budget.latency_p95': give it with its unit, as 'latency_p95_ms'"),
        ("budget.peak_rss", 4, "unknown key 'budget.peak_rss': give it with its unit, as 'peak_rss_bytes'"),
        ("budget.file_mb", 4, "unknown key 'budget.file_mb'"),
        ("schema", REMOVED, "key 'schema' is missing"),
        ("source", REMOVED, "key 'source' is missing"),
        ("gate", REMOVED, "key 'gate' is missing"),
        ("device.arch", REMOVED, "key 'device.arch' is missing"),
        ("quant.activation.dtype", REMOVED, "key 'quant.activation.dtype' is missing"),
        ("device.threads", "1", "'device.threads' is '1'; expected an integer"),
        ("device.threads", 1.0, r"'device.threads' is 1\.0; expected an integer"),
        ("device.threads", True, "'device.threads' is True; expected an integer"),
        ("shape.batch", True, "'shape.batch' is True; expected an integer"),
        ("device.isa", "avx2", "'device.isa' is 'avx2'; expected a list of strings"),
        ("device.isa", [1, 2], r"'device.isa' is \[1, 2\]; expected a list of strings"),
        ("device.arch", "riscv64", "'device.arch' is 'riscv64'; expected 'x86_64' or 'aarch64'"),
        ("runtime.version", 1.18, "'runtime.version' is 1.18; expected a string"),
        ("runtime.option", {"a": "1"}, "unknown key 'runtime.option'; did you mean 'options'"),
        ("runtime.version", "1.x", "expected numbers such as 1.18"),
        ("runtime.provider", "CUDA", "'runtime.provider' is 'CUDA'; expected "),
        ("runtime", ["a"], "'runtime' must be a table"),
        ("quant.weight.dtype", "int4", "'quant.weight.dtype' is 'int4'; expected "),
        ("shape.sequence_length", "static", "'shape.sequence_length' is 'static'; expected an integer or 'dynamic'"),
        ("shape.sequence_length", 12.5, "'shape.sequence_length' is 12.5"),
        ("quant.weight", "int8", "'quant.weight' must be a table"),
        ("quant.weight.symmetric", "yes", "'quant.weight.symmetric' is 'yes'; expected true or false"),
        ("quant.io", "int8", "'quant.io' is 'int8'; expected 'float32'"),
        ("gate.max_drop", "1.5", "'gate.max_drop' is '1.5'; expected a number"),
        ("gate.max_drop", True, "'gate.max_drop' is True; expected a number"),
        ("gate.max_drop", -0.1, "must not be negative"),
        ("gate.confidence", 0.5, "must lie between 0.5 and 1"),
        ("gate.confidence", 1.0, "must lie between 0.5 and 1"),
        ("gate.min_examples", 0, "'gate.min_examples' is 0; it must be positive"),
        ("device.threads", 0, "'device.threads' is 0; it must be positive"),
        ("device.ram_bytes", -1, "'device.ram_bytes' is -1; it must be positive"),
        ("shape.head_multiple", 0, "'shape.head_multiple' is 0; it must be positive"),
        ("shape.ffn_multiple", -32, "'shape.ffn_multiple' is -32; it must be positive"),
        ("shape.sequence_length", 0, "'shape.sequence_length' is 0; it must lie between 8 and 512"),
        ("shape.buckets", 0, "'shape.buckets' is 0; it must be positive"),
        ("shape.batch", 2, "only 1 is supported"),
        ("budget.file_bytes", 0, "'budget.file_bytes' is 0; it must be positive"),
        ("budget.latency_p95_ms", -2.5, "'budget.latency_p95_ms' is -2.5; it must be positive"),
        ("schema", 2, "'schema' is 2; this edgekit reads 1"),
        ("name", "other", "'name' is 'other'; it must be the file's name, 'own'"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong_and_where(tmp_path: Path, path: str, value: object, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        read_target(changed(tmp_path, path, value))
    assert str(tmp_path / "own.toml") in str(caught.value)


@pytest.mark.parametrize("literal", ["nan", "inf"])
@pytest.mark.parametrize("path", ["gate.max_drop", "budget.latency_p95_ms"])
def test_a_limit_that_is_not_a_number_is_refused(tmp_path: Path, path: str, literal: str) -> None:
    file = changed(tmp_path, path, 77.5)
    file.write_text(file.read_text().replace("77.5", literal))
    with pytest.raises(TargetError, match=path):
        read_target(file)


@pytest.mark.parametrize("content", [b"schema = ", b"\xff\xfe", b"[device\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(TargetError, match=r"own\.toml: not a readable TOML file"):
        read_target(tmp_path / "own.toml")


def test_a_stage_sees_only_the_fields_that_it_declared() -> None:
    view = TargetView(load_target("arm64"), ("shape.ffn_multiple", "quant"), "prune")
    assert view["shape.ffn_multiple"] == 32
    assert view["quant"]["weight"]["granularity"] == "per-channel"
    for name in ("shape.head_multiple", "shape", "device.arch", "quant.weight", "name"):
        with pytest.raises(StageContractError, match=f"stage prune read target field '{name}'"):
            view[name]


def test_options_of_the_runtime_and_all_operators(tmp_path: Path) -> None:
    options = {"session.set_denormal_as_zero": "1"}
    assert read_target(changed(tmp_path, "runtime.options", options)).runtime.options == options
    assert read_target(changed(tmp_path, "quant.ops", "all")).quant.ops == "all"
    with pytest.raises(TargetError, match=r"'runtime.options' is .*; expected a table of strings"):
        read_target(changed(tmp_path, "runtime.options", {"session.set_denormal_as_zero": 1}))
    with pytest.raises(TargetError, match=r"'quant.ops' is 'every'; expected a list of strings or 'all'"):
        read_target(changed(tmp_path, "quant.ops", "every"))
