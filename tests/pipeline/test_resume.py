"""SIGKILL at any moment, then the same command again: it goes on, and ends with the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import builds
import pytest
from builds import STAGES, TARGET, TinyBuild, check_store, lineage

FROM_DISTILL = [stage for stage in STAGES[STAGES.index("teach") :] if stage != "baseline"]
UNTIMED = STAGES[: STAGES.index("timing")]  # later stages, but the bundle, take in how long something took
PATIENCE_S = 120


def same_files(one: Path, other: Path) -> bool:
    names = [p.relative_to(one) for p in sorted((one / "tokenizer").iterdir())] + ["model.onnx", "golden.jsonl"]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    return iter(process.stderr.readline, "")


def whole_checkpoints(folder: Path) -> list[int]:
    return sorted(int(mark.parent.name.rpartition("-")[2]) for mark in folder.glob("checkpoint-*/complete"))


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path, after: int) -> int:
    """Waits for a whole checkpoint beyond a step; returns the last step of them."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        steps = whole_checkpoints(folder)
        if steps and steps[-1] > after:
            return steps[-1]
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint in {folder} (exit code {process.poll()})")


@pytest.fixture
def untrained(tiny_build: TinyBuild, tmp_path: Path) -> TinyBuild:
    """A cache that holds what comes before training, and no bundle."""
    cache = tiny_build.copy_cache(tmp_path / "cache")
    builds.forget(cache, tiny_build.bundle, FROM_DISTILL)
    return TinyBuild(tiny_build.sources, cache, tmp_path / "dist")


def compare(build: TinyBuild, reference: TinyBuild) -> None:
    """Compares a bundle with one that nothing interrupted, and looks for leftovers."""
    assert same_files(build.bundle, reference.bundle)
    assert [path.name for path in build.out.iterdir()] == [TARGET]
    wanted, got = lineage(reference.bundle), lineage(build.bundle)
    for stage in UNTIMED:
        assert got[stage]["key"] == wanted[stage]["key"]
        assert got[stage]["facts"] == wanted[stage]["facts"]
    keys = [step["key"] for step in got.values()]
    assert not [path for path in (build.cache / "store" / "resume").iterdir() if path.name in keys]
    check_store(build.cache, stopped=False)


def finish(build: TinyBuild, reference: TinyBuild) -> None:
    """Runs the same command to its end."""
    done = builds.run(build.sources.args(build.out), build.cache)
    assert done.returncode == 0, done.stderr
    compare(build, reference)


@pytest.mark.slow
def test_training_goes_on_from_its_last_checkpoint(untrained: TinyBuild, tiny_build: TinyBuild) -> None:
    steps = {stage: step["facts"].get("steps") for stage, step in lineage(tiny_build.bundle).items()}
    args = untrained.sources.args(untrained.out)
    process = builds.start(args, untrained.cache)
    for stage in ("distill", "prune"):
        key = lineage(tiny_build.bundle)[stage]["key"]
        folder = untrained.cache / "store" / "resume" / key
        first = wait_for_checkpoint(process, folder, after=0)
        kill(process)
        kept = whole_checkpoints(folder)
        assert first <= kept[-1] < steps[stage], "the kill came in the middle of the training"
        assert not (untrained.cache / "store" / "actions" / f"{key}.json").exists()
        assert not untrained.out.exists()

        process = builds.start(args, untrained.cache)
        wait_for_checkpoint(process, folder, after=kept[-1])
        again = {int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")} - set(kept)
        assert all(step > kept[-1] for step in again), "it went on from the last checkpoint, not from nothing"
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    compare(untrained, tiny_build)


@pytest.mark.parametrize("stage", ["quantize", "bundle"])
def test_killed_as_a_stage_starts(stage: str, tiny_build: TinyBuild, tmp_path: Path) -> None:
    cache = tiny_build.copy_cache(tmp_path / "cache")
    builds.forget(cache, tiny_build.bundle, STAGES[STAGES.index(stage) :])
    build = TinyBuild(tiny_build.sources, cache, tmp_path / "dist")
    process = builds.start(build.sources.args(build.out), cache)
    assert any(f"{stage:<10} runs" in line for line in lines_of(process))
    kill(process)
    finish(build, tiny_build)


@pytest.mark.slow
def test_killed_at_random_moments(untrained: TinyBuild, tiny_build: TinyBuild) -> None:
    """Each build is killed some time after its first stage started; what it had finished, the next one finds."""
    moments = random.Random(7)
    for _ in range(8):
        process = builds.start(untrained.sources.args(untrained.out), untrained.cache)
        started = any(" runs " in line for line in lines_of(process))
        time.sleep(moments.uniform(0, 4))
        if not started or process.poll() is not None:
            process.communicate()
            break
        kill(process)
        check_store(untrained.cache, stopped=False)
    finish(untrained, tiny_build)
