"""The command and the functions that make, write and show tables of costs; what they refuse and how they exit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import builds
import pytest
from builds import Sources
from cost_tables import table

import edgekit
from edgekit import profiling
from edgekit.errors import OutputError, RecipeError, UnmeasurableError
from edgekit.search.costs import CostTable


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Takes the place of the measurement; holds what it was asked for."""
    asked: dict[str, Any] = {}

    def measure(target: Any, device: str, setting: Any, rounds: int, seed: int, progress: Any) -> CostTable:
        asked.update(target=target["name"], device=device, width=(setting.hidden, setting.head_dim), seed=seed)
        asked["rounds"] = rounds
        progress(1, 1, "students")
        return table()

    monkeypatch.setattr(profiling, "measure", measure)
    return asked


def test_a_table_is_made_written_and_shown(measured: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    width = ["--hidden", "32", "--head-dim", "8"]
    asked = ["--target", "x86-64", "--device", "local", *width, "--seed", "7", "--rounds", "9", "--out", out]
    made = builds.cli("profile", *asked, cache=tmp_path)
    assert made.exit_code == 0, made.stderr
    assert measured == {"target": "x86-64", "device": "local", "width": (32, 8), "seed": 7, "rounds": 9}
    assert f"wrote {out}" in made.stderr
    assert edgekit.read_costs(out) == table()
    shown = builds.cli("profile", out, cache=tmp_path)
    assert shown.exit_code == 0
    for text in ("instructions an inference", "width 32", "static", "dynamic", "22 tokens", "as the test says"):
        assert text in " ".join(shown.stdout.split())
    as_json = json.loads(builds.cli("profile", out, "--json", cache=tmp_path).stdout)
    assert as_json == json.loads(out.read_text())


def test_a_models_width_is_its_own(measured: dict[str, Any], sources: Sources, tmp_path: Path) -> None:
    made = builds.cli(
        "profile", sources.teacher, "--target", sources.target, "--device", "local", "--json", cache=tmp_path
    )
    assert made.exit_code == 0, made.stderr
    config = json.loads((sources.teacher / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    assert measured["width"] == (hidden, hidden // heads)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden", "32", "--head-dim", "8"], "--target"),
        (["--target", "x86-64"], "needs the teacher's width"),
        (["--target", "x86-64", "--hidden", "32"], "needs the teacher's width"),
        (["--target", "x86-64", "--hidden", "30", "--head-dim", "8"], "multiple of head_dim"),
        (["--target", "x86-64", "--hidden", "0", "--head-dim", "0"], "multiple of head_dim"),
        (["--target", "x86-46", "--hidden", "32", "--head-dim", "8"], "did you mean 'x86-64'"),
        (["--target", "x86-64", "--hidden", "32", "--head-dim", "8", "--device", "lokal"], "no device scheme"),
        (["--target", "x86-64", "--hidden", "32", "--head-dim", "8", "--seed", "-1"], "seed is -1"),
        (
            ["--target", "x86-64", "--hidden", "32", "--head-dim", "8", "--out", "no/such/costs.json"],
            "cannot be written",
        ),
        (["--target", "x86-64", "--hidden", "32", "--head-dim", "8", "--rounds", "1"], "rounds is 1"),
        (["none.json"], "cannot be read"),
        (["none.json", "--target", "x86-64"], "--target: only for making one"),
        (["no-such-model", "--target", "x86-64"], "no-such-model"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_anything_runs(
    measured: dict[str, Any], tmp_path: Path, args: list[str], message: str
) -> None:
    result = builds.cli("profile", *args, cache=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not measured


def test_a_runtime_that_nothing_serves_is_refused(measured: dict[str, Any], tmp_path: Path) -> None:
    target = builds.write_target(tmp_path / "other.toml", ('name = "onnxruntime"', 'name = "onnxruntme"'))
    args = ("--target", target, "--hidden", "32", "--head-dim", "8", "--out", tmp_path / "costs.json")
    result = builds.cli("profile", *args, cache=tmp_path)
    assert result.exit_code == 2
    assert "no backend for runtime 'onnxruntme'; did you mean 'onnxruntime'" in result.stderr
    assert not measured


def test_a_model_and_a_width_are_one_too_many(measured: dict[str, Any], sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="width of its own"):
        edgekit.profile("x86-64", model=sources.teacher, hidden=32, head_dim=8)
    assert not measured


def test_what_no_device_times_exits_with_4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(*_: Any) -> CostTable:
        raise UnmeasurableError("null gives no cost of a model")

    monkeypatch.setattr(profiling, "measure", measure)
    out = tmp_path / "costs.json"
    args = ["--target", "x86-64", "--device", "local", "--hidden", "32", "--head-dim", "8"]
    result = builds.cli("profile", *args, "--out", out, cache=tmp_path)
    assert result.exit_code == 4
    assert "no cost of a model" in result.stderr
    assert not out.exists()


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="costs cannot be written"):
        edgekit.write_costs(tmp_path, table())


@pytest.mark.slow
def test_a_whole_table_is_taken_on_this_machine(tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    args = ["--target", "x86-64", "--device", "local", "--hidden", "32", "--head-dim", "8", "--out", out, "--json"]
    made = builds.cli("profile", *args, cache=tmp_path)
    assert made.exit_code == 0, made.stderr
    found = edgekit.read_costs(out)
    assert (found.unit, found.families, len(found.points)) == ("ms", ("static", "dynamic"), 23)
    least, *_, most = found.points
    assert found.cost(most.shape, [20]) > found.cost(least.shape, [20]) > 0
