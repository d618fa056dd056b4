"""Two processes of torchrun train data-parallel and end with one bundle like that of a single process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import builds
import pytest
import torch.distributed
from builds import TARGET, Sources, TinyBuild, check_store, manifest, ran


@pytest.mark.slow
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo"
)
def test_two_processes_build_one_bundle(tiny_build: TinyBuild, tmp_path: Path) -> None:
    cache, out = tiny_build.copy_cache(tmp_path / "cache"), tmp_path / "dist"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgekit"]
    # A temperature so little different that the outcome is alike, but the store has no entry for it. By Muon the word
    # table's gradients are sparse, as in the trainings of a search.
    settings = ("--set", "distill.temperature=2.001", "--set", "prune.optimizer=muon")
    args = tiny_build.sources.args(out, *settings, "--json")
    done = subprocess.run([*launch, *args], env=builds.environment(cache), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    bundle = out / TARGET
    assert json.loads(done.stdout) == {TARGET: manifest(bundle)}, "one process prints"
    assert ran(bundle)[:3] == ["distill", "score", "prune"]
    alone, together = manifest(tiny_build.bundle), manifest(bundle)
    assert abs(together["accuracy"]["artifact"] - alone["accuracy"]["artifact"]) <= 5
    steps = [{s["stage"]: s["facts"] for s in m["lineage"]}["distill"]["steps"] for m in (alone, together)]
    assert steps[0] == steps[1], "the rows of a step are shared out, not doubled"
    assert done.stderr.count("distill    runs") == 1
    assert [path.name for path in out.iterdir()] == [TARGET]
    check_store(cache)
    verified = builds.cli("verify", bundle, "--device", "local", cache=cache)
    assert verified.exit_code == 0, verified.output


@pytest.mark.slow
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo"
)
def test_two_processes_fine_tune_a_base_model(sources: Sources, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgekit"]
    settings = ("finetune.epochs=8", "finetune.learning_rate=3e-3", "finetune.embedding_rate=1")
    more = [argument for setting in settings for argument in ("--set", setting)]
    args = sources.args(tmp_path / "dist", *more)
    args[args.index(str(sources.teacher))] = str(sources.base)
    cache = tmp_path / "cache"
    done = subprocess.run([*launch, *args], env=builds.environment(cache), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    facts = {step["stage"]: step["facts"] for step in manifest(tmp_path / "dist" / TARGET)["lineage"]}["finetune"]
    assert facts["dev"]["accuracy"] > 60  # four labels: a constant answer has 25 %
    assert len(facts["dev_by_epoch"]) >= 3
    check_store(cache)


def test_a_fault_in_two_processes_is_told_once(tiny_build: TinyBuild, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgekit"]
    args = tiny_build.sources.args(tmp_path / "dist", "--set", "data.text=utterance")
    cache = tiny_build.copy_cache(tmp_path / "cache")
    done = subprocess.run([*launch, *args], env=builds.environment(cache), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert len(re.findall(r"^(?:Internal e|E)rror: ", done.stderr, re.MULTILINE)) == 1
    assert "train.jsonl has no column 'utterance'" in done.stderr
    assert not (tmp_path / "dist").exists()
    assert not (cache / "crashes").exists(), "the other process ends quietly"
    check_store(cache, stopped=False)
