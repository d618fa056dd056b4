"""Whole builds on the tiny model of `tiny.py`: what tests of the command line, the store and the bundles share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tiny
from click.testing import CliRunner, Result

from edgekit.artifact import Artifact, Teacher, tree_digest
from edgekit.stages import ORDER
from edgekit.store import Store
from edgekit.target import shipped_targets

A = TypeVar("A", bound=Artifact)
TARGET = "tiny-x86"
STAGES = (
    "data", "lint", "floor", "trim", "teach", "distill", "score", "prune", "reference", "baseline", "equalise",
    "export", "calibrate", "quantize", "timing", "select", "compile", "evaluate", "benchmark", "gate", "bundle",
)  # fmt: skip
# One form alone: which family is shipped is decided by time, and no two runs of a test take the same.
SETTINGS = (
    "teach.views=1", "distill.layers=2", "distill.epochs=12", "distill.min_steps=0", "distill.learning_rate=3e-3",
    "prune.heads=0.5", "prune.epochs=4", "prune.min_steps=0", "prune.learning_rate=3e-3", "benchmark.rounds=2",
    "benchmark.block_runs=50", "quantize.scheme=int8-pair-bounded",
)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """What a user has: a fine-tuned teacher, a base model, data, and a target of their own with a mild gate."""

    root: Path

    @property
    def teacher(self) -> Path:
        """A checkpoint that answers the data almost always rightly."""
        return self.root / "teacher"

    @property
    def base(self) -> Path:
        """A checkpoint without a trained head."""
        return self.root / "base"

    @property
    def data(self) -> Path:
        """A folder of 240 train, 80 dev and 120 test rows."""
        return self.root / "data"

    @property
    def target(self) -> Path:
        """A profile of this machine's kind whose gate the tiny student passes."""
        return self.root / f"{TARGET}.toml"

    def args(self, out: Path, *more: str, target: Path | None = None) -> list[str]:
        """Returns the arguments of `edgekit` that build the teacher for the target."""
        settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
        places = ["--data", str(self.data), "--target", str(target or self.target), "--out", str(out)]
        return ["build", str(self.teacher), *places, "--device", "local", *settings, *more]


@dataclass(frozen=True)
class TinyBuild:
    """A finished build that tests only read; they copy what they change."""

    sources: Sources
    cache: Path
    out: Path

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.out / TARGET

    def copy_cache(self, folder: Path) -> Path:
        """Copies the cache, for a test that changes it."""
        return Path(shutil.copytree(self.cache, folder))

    def copy_bundle(self, folder: Path) -> Path:
        """Copies the bundle, for a test that damages it."""
        return Path(shutil.copytree(self.bundle, folder))


def write_sources(root: Path) -> Sources:
    """Makes the models, the data and the target."""
    sources = Sources(root)
    root.mkdir(exist_ok=True)
    tiny.write_teacher(sources.teacher)
    tiny.write_base(sources.base)
    tiny.write_data(sources.data, rows=240, dev=80, test=120)
    write_target(sources.target)
    return sources


def write_target(path: Path, *changes: tuple[str, str]) -> Path:
    """Writes a profile like the shipped x86-64 one, named after its file, whose gate the tiny model passes.

    Args:
        path: of the new file.
        *changes: (old, new) texts; every old one must be there.
    """
    text = shipped_targets()["x86-64"].read_text(encoding="utf-8")
    for key, value in (("name", f'"{path.stem}"'), ("min_examples", "40"), ("max_drop", "30.0")):
        text = re.sub(f"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def cli(*args: str | Path, cache: Path, stdin: str | None = None) -> Result:
    """Runs the command line in this process with a cache of its own; stdout and stderr apart."""
    from edgekit.cli import main

    return CliRunner().invoke(main, [str(a) for a in args], input=stdin, env={"EDGEKIT_CACHE": str(cache)})


def environment(cache: Path) -> dict[str, str]:
    """Returns the environment of a build in a process of its own."""
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **settings, "EDGEKIT_CACHE": str(cache)}


def start(args: Sequence[str | Path], cache: Path, **options: Any) -> subprocess.Popen[str]:
    """Starts `python -m edgekit` as a process of its own, its output in pipes."""
    command = [sys.executable, "-m", "edgekit", *map(str, args)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **({"env": environment(cache)} | pipes | options))


def run(args: Sequence[str | Path], cache: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m edgekit` to its end."""
    process = start(args, cache, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def made(build: TinyBuild, kind: type[A]) -> A:
    """Returns what a finished build made, or for a teacher was given, by its class."""
    if kind is Teacher:
        return kind(build.sources.teacher, "")
    (stage,) = (stage.NAME for stage in ORDER if stage.OUT is kind)
    found = Store(build.cache / "store").find(lineage(build.bundle)[stage]["key"], kind)
    assert found is not None
    return found[1]


def manifest(bundle: Path) -> dict[str, Any]:
    """Returns a bundle's manifest as plain JSON."""
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return content


def lineage(bundle: Path) -> dict[str, dict[str, Any]]:
    """Returns the steps of a bundle by their stage."""
    return {step["stage"]: step for step in manifest(bundle)["lineage"]}


def ran(bundle: Path) -> list[str]:
    """Returns the stages that the last build of a bundle ran, in order."""
    return [stage for stage, step in lineage(bundle).items() if not step["cached"]]


def forget(cache: Path, bundle: Path, stages: Sequence[str]) -> None:
    """Deletes what stages of a bundle's build left in a store: their records and their artifacts."""
    for stage, step in lineage(bundle).items():
        if stage in stages:
            record = cache / "store" / "actions" / f"{step['key']}.json"
            shutil.rmtree(cache / "store" / "objects" / json.loads(record.read_text())["digest"])
            record.unlink()


def check_store(cache: Path, stopped: bool = True) -> None:
    """Asserts that a store holds whole entries only.

    Args:
        cache: EDGEKIT_CACHE.
        stopped: whether no build is under way or was killed, so that nothing unfinished may be left.
    """
    store = cache / "store"
    if not store.exists():
        return
    if stopped:
        assert list((store / "running").iterdir()) == []
        assert list((store / "sessions").iterdir()) == []
    for folder in (store / "objects").iterdir():
        assert tree_digest(folder) == folder.name
    for path in (store / "actions").iterdir():
        assert path.suffix == ".json", path
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["key"] == path.stem
        assert (store / "objects" / record["digest"]).is_dir()
