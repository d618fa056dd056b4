"""What a second build finds in the store, what it runs again, and the reasons it gives."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import builds
import pytest
from builds import STAGES, TARGET, TinyBuild, check_store, cli, lineage, manifest, ran

MEASURING = ["timing", "evaluate", "benchmark", "gate"]  # with one form there is nothing to select anew
JUDGING = ["quantize", "select", "gate"]  # what reads the limits


def after(stage: str) -> list[str]:
    """Returns a stage and all behind it."""
    return list(STAGES[STAGES.index(stage) :])


@pytest.fixture
def again(tiny_build: TinyBuild, tmp_path: Path) -> TinyBuild:
    """A copy of the finished build, cache and bundle, to build on."""
    cache, out = tiny_build.copy_cache(tmp_path / "cache"), tmp_path / "dist"
    tiny_build.copy_bundle(out / TARGET)
    return TinyBuild(tiny_build.sources, cache, out)


def build(again: TinyBuild, *more: str, target: Path | None = None, code: int = 0) -> str:
    """Builds once more in this process; returns what was printed to stdout."""
    result = cli(*again.sources.args(again.out, *more, target=target), cache=again.cache)
    assert result.exit_code == code, result.output
    check_store(again.cache)
    return result.stdout


def reason(again: TinyBuild, stage: str) -> str:
    return str(lineage(again.bundle)[stage]["reason"])


def record(again: TinyBuild, stage: str) -> Path:
    """The action file of a stage of the bundle."""
    return again.cache / "store" / "actions" / f"{lineage(again.bundle)[stage]['key']}.json"


def artifact(again: TinyBuild, stage: str) -> Path:
    """The object that a stage made."""
    return again.cache / "store" / "objects" / json.loads(record(again, stage).read_text())["digest"]


def files(bundle: Path) -> dict[str, bytes]:
    """Everything in a bundle that must be the same bytes whenever and wherever it is built."""
    return {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "report.html")
    }


def test_the_first_build_ran_every_stage(tiny_build: TinyBuild) -> None:
    assert ran(tiny_build.bundle) == list(STAGES)
    assert {step["reason"] for step in lineage(tiny_build.bundle).values()} == {"not built before"}
    assert manifest(tiny_build.bundle)["gate"]["verdict"] == "pass"
    check_store(tiny_build.cache)


def test_the_same_command_finds_everything(again: TinyBuild, tiny_build: TinyBuild) -> None:
    build(again)
    assert ran(again.bundle) == []
    assert {step["reason"] for step in lineage(again.bundle).values()} == {"nothing that it depends on changed"}
    assert files(again.bundle) == files(tiny_build.bundle)
    assert [path.name for path in again.out.iterdir()] == [TARGET]


def test_plan_runs_nothing(again: TinyBuild, tmp_path: Path) -> None:
    steps = json.loads(build(again, "--plan", "--json"))
    assert [(step["stage"], step["cached"]) for step in steps] == [(stage, True) for stage in STAGES]
    actions = sorted((again.cache / "store" / "actions").iterdir())
    before = (again.bundle / "manifest.json").read_bytes()
    record(again, "quantize").unlink()
    steps = json.loads(build(again, "--plan", "--json"))
    assert [step["stage"] for step in steps if not step["cached"]] == [
        "quantize", "timing", "select", "compile", "evaluate", "benchmark", "gate", "bundle",
    ]  # fmt: skip
    assert len(list((again.cache / "store" / "actions").iterdir())) == len(actions) - 1
    assert (again.bundle / "manifest.json").read_bytes() == before
    fresh = cli(*again.sources.args(tmp_path / "new", "--plan"), cache=tmp_path / "empty")
    assert fresh.exit_code == 0
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty" / "store" / "actions").iterdir())


def test_a_target_added_later_runs_its_own_stages_only(again: TinyBuild, tmp_path: Path) -> None:
    stricter = builds.write_target(tmp_path / "stricter.toml", ("max_drop = 30.0", "max_drop = 29.0"))
    build(again, "--target", str(stricter))
    assert ran(again.bundle) == []
    assert ran(again.out / "stricter") == JUDGING
    assert lineage(again.out / "stricter")["prune"]["cached"]
    wider = builds.write_target(tmp_path / "wider.toml", ("threads = 1", "threads = 2"))
    build(again, target=wider)
    assert ran(again.out / "wider") == MEASURING
    assert sorted(path.name for path in again.out.iterdir()) == ["stricter", TARGET, "wider"]


def test_two_targets_at_once_share_what_they_can(again: TinyBuild, tmp_path: Path) -> None:
    wider = builds.write_target(tmp_path / "wider.toml", ("threads = 1", "threads = 2"))
    build(again, "--target", str(wider), "--set", "calibrate.rows=60")
    assert ran(again.out / "wider") == MEASURING
    assert lineage(again.out / "wider")["quantize"]["reason"] == f"shared with {TARGET}"


@pytest.mark.parametrize(
    ("setting", "stages", "why"),
    [
        ("prune.epochs=3", [s for s in after("prune") if s != "baseline"], "option epochs 4 → 3"),
        ("calibrate.rows=50", after("calibrate"), "option rows 0 → 50"),
        ("bundle.golden_rows=8", ["bundle"], "option golden_rows 32 → 8"),
    ],
    ids=["prune", "calibrate", "bundle"],
)
def test_a_changed_option_runs_what_depends_on_it(again: TinyBuild, setting: str, stages: list[str], why: str) -> None:
    build(again, "--set", setting)
    assert ran(again.bundle) == list(stages)
    assert reason(again, stages[0]) == why
    if "quantize" in stages:
        assert reason(again, "quantize") == "ranges changed" or "graph changed" in reason(again, "quantize")
    build(again)
    assert ran(again.bundle) == [], "the earlier build's entries are still there"


def test_the_limit_and_the_seed_are_named_too(again: TinyBuild) -> None:
    build(again, "--max-drop", "25")
    assert ran(again.bundle) == JUDGING
    assert all("max_drop" in reason(again, stage) for stage in JUDGING)
    steps = json.loads(build(again, "--seed", "1", "--plan", "--json"))
    assert not any(step["cached"] for step in steps)


@pytest.mark.slow
def test_no_cache_runs_everything_to_the_same_bytes(again: TinyBuild, tiny_build: TinyBuild) -> None:
    """In another process and another cache than the first build, so this is the test of reproducibility too."""
    build(again, "--no-cache")
    assert ran(again.bundle) == list(STAGES)
    assert {step["reason"] for step in lineage(again.bundle).values()} == {"the cache is off"}
    assert files(again.bundle) == files(tiny_build.bundle)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_byte(again: TinyBuild) -> None:
    flip(artifact(again, "select") / "model.onnx")


def delete_a_file(again: TinyBuild) -> None:
    (artifact(again, "select") / "facts.json").unlink()


def add_a_file(again: TinyBuild) -> None:
    (artifact(again, "select") / "more.txt").write_text("more")


def link_a_file(again: TinyBuild) -> None:
    path = artifact(again, "select") / "model.onnx"
    path.rename(again.out / "elsewhere")
    path.symlink_to(again.out / "elsewhere")


def delete_the_object(again: TinyBuild) -> None:
    path = artifact(again, "select")
    path.rename(path.with_name("0" * 64))


def truncate_the_record(again: TinyBuild) -> None:
    path = record(again, "select")
    path.write_bytes(path.read_bytes()[:100])


def empty_the_record(again: TinyBuild) -> None:
    record(again, "select").write_bytes(b"")


def point_the_record_out(again: TinyBuild) -> None:
    path = record(again, "select")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"digest": ".."}))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte, delete_a_file, add_a_file, link_a_file, delete_the_object, truncate_the_record, empty_the_record,
        point_the_record_out,
    ],
)  # fmt: skip
def test_a_damaged_entry_is_found_and_rebuilt(damage: object, again: TinyBuild, tiny_build: TinyBuild) -> None:
    damage(again)  # type: ignore[operator]
    result = cli(*again.sources.args(again.out), cache=again.cache)
    assert result.exit_code == 0, result.output
    assert ran(again.bundle) == ["select"]
    assert reason(again, "select") == "its entry in the store was missing or damaged"
    assert files(again.bundle) == files(tiny_build.bundle)
    if damage is not delete_the_object:
        check_store(again.cache)


@pytest.mark.slow
def test_two_builds_of_one_recipe_at_once(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """Both start with a store that lacks most of it, and race for every stage from there on."""
    cache, out = tiny_build.copy_cache(tmp_path / "cache"), tmp_path / "dist"
    builds.forget(cache, tiny_build.bundle, [stage for stage in after("distill") if stage != "baseline"])
    pair = [builds.start(tiny_build.sources.args(out), cache) for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    assert "Traceback" not in ends[0][1] + ends[1][1]
    assert [path.name for path in out.iterdir()] == [TARGET]
    assert files(out / TARGET) == files(tiny_build.bundle)
    model = (out / TARGET / "model.onnx").read_bytes()
    assert hashlib.sha256(model).hexdigest() == manifest(out / TARGET)["model"]["sha256"]
    check_store(cache)


def test_json_is_all_that_stdout_gets(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """In a process of its own: libraries and child processes write to the descriptors, past Python's streams."""
    cache = tiny_build.copy_cache(tmp_path / "cache")
    args = tiny_build.sources.args(tmp_path / "dist", "--set", "prune.epochs=2", "--json")
    done: subprocess.CompletedProcess[str] = builds.run(args, cache)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == {TARGET: manifest(tmp_path / "dist" / TARGET)}
    assert "Warning" not in done.stderr
    assert all(
        line.startswith((f"  {TARGET}", f"{TARGET}: ", "MODEL is given", "distill."))
        for line in done.stderr.splitlines()
    ), done.stderr


def test_a_failing_gate_still_leaves_bundle_and_report(again: TinyBuild) -> None:
    build(again, "--max-size-mb", "0.001", code=3)
    assert manifest(again.bundle)["gate"]["verdict"] == "fail"
    assert (again.bundle / "model.onnx").is_file()
    assert "model size" in (again.bundle / "report.html").read_text()


def test_too_few_examples_are_inconclusive(again: TinyBuild, tmp_path: Path) -> None:
    target = builds.write_target(tmp_path / "many.toml", ("min_examples = 40", "min_examples = 4000"))
    build(again, target=target, code=4)
    (check,) = [c for c in manifest(again.out / "many")["gate"]["checks"] if c["name"] == "accuracy drop"]
    assert check["verdict"] == "inconclusive"
    assert "120 rows, at least 4,000 are asked" in check["reason"]


def test_a_fixed_input_length_goes_the_whole_way(again: TinyBuild, tmp_path: Path) -> None:
    change = ('sequence_length = "dynamic"', "sequence_length = 24")
    build(again, target=builds.write_target(tmp_path / "fixed.toml", change))
    made = manifest(again.out / "fixed")
    assert [tensor["name"] for tensor in made["model"]["inputs"]] == ["input_ids", "attention_mask"]
    assert all(tensor["shape"] == [1, 24] for tensor in made["model"]["inputs"])
    assert made["tokenizer"]["max_length"] == 24
    assert cli("verify", again.out / "fixed", "--device", "local", cache=again.cache).exit_code == 0
