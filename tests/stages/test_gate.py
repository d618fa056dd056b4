"""The verdict that the stage writes: the target's limits against figures as the measuring stages leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pytest
import tiny
from builds import TinyBuild, made
from manifests import accuracy, latency

from edgekit import manifest
from edgekit.artifact import FACTS, Artifact, Verdict, write_json
from edgekit.manifest import Check
from edgekit.measured import Agreement, Coverage, Instructions, Memory
from edgekit.provenance import Provenance
from edgekit.stages.gate import Gate, linear_is_enough

TAKEN = ("board", Provenance.MEASURED, "")
MODEL_BYTES = 1000
FIGURES: dict[str, Any] = {
    "accuracy": accuracy(lost=20, gained=10, examples=1000, right=900),  # a drop of one point
    "latency": latency(),
    "instructions": Instructions(2_000_000, 9_000_000, *TAKEN),
    "memory": Memory(50_000_000, *TAKEN),
    "coverage": None,
    "agreement": None,
}
OF = {"accuracy": 1, "agreement": 1, "coverage": 0}
"""Place in `Gate.IN` of the artifact that holds a figure; the others are in the one of times."""
DROP = ("max_drop = 30.0", "max_drop = 0.9")


def given(folder: Path, figures: Mapping[str, Any], unmeasured: Mapping[str, str]) -> list[Artifact]:
    """Writes figures as the stages before do; one that is None stands there as null."""
    found: list[Artifact] = [kind(folder / kind.KIND, "") for kind in Gate.IN]
    for artifact in found:
        artifact.path.mkdir(parents=True)
    program, right, taken, floor = found
    write_json(floor.path / FACTS, {"model": "linear SVM", "dev": 10.0, "test": 10.0})
    # Of all rows enough for the limit, of those that were run none.
    np.save(floor.path / "right.npy", abs(np.arange(3000) - 1500) > 500)
    np.save(right.path / "rows.npy", np.arange(1000, 2000))
    write_json(program.path / FACTS, {"bytes": MODEL_BYTES})
    for name, figure in figures.items():
        text = json.dumps(None if figure is None else manifest.encode(figure))
        (found[OF.get(name, 2)].path / f"{name}.json").write_text(text)
    (taken.path / "unmeasured.json").write_text(json.dumps(dict(unmeasured)))
    return found


def judge(
    folder: Path, *changes: tuple[str, str], unmeasured: Mapping[str, str] | None = None, **figures: Any
) -> tuple[manifest.Gate, dict[str, Check]]:
    """Runs the stage for a target with some lines changed; returns what it wrote, and its checks by their names."""
    folder.mkdir(exist_ok=True)
    target = builds.write_target(folder / "limits.toml", *changes)
    verdict: Verdict = tiny.run_stage(
        Gate(), given(folder, FIGURES | figures, unmeasured or {}), folder / "run", str(target)
    )
    found: manifest.Gate = manifest.decode(manifest.Gate, json.loads((verdict.path / "gate.json").read_text()))
    assert verdict.facts == {"verdict": found.verdict, "checks": len(found.checks), "findings": []}
    return found, {check.name: check for check in found.checks}


def budget(key: str, value: float) -> tuple[str, str]:
    """Returns the change of a profile that sets a limit of the device."""
    return "[budget]\n", f"[budget]\n{key} = {value}\n"


def test_figures_within_all_limits_pass(tmp_path: Path) -> None:
    gate, checks = judge(tmp_path)
    assert gate.verdict is manifest.Verdict.PASS
    assert set(checks) == {"teacher", "accuracy drop", "model size"}  # what the profile does not limit is not asked
    assert (checks["accuracy drop"].value, checks["accuracy drop"].limit) == (pytest.approx(1.0), 30.0)
    assert (checks["model size"].value, checks["model size"].limit) == (MODEL_BYTES, 33_554_432)


def test_a_drop_beyond_the_limit_fails_and_is_no_error(tmp_path: Path) -> None:
    gate, checks = judge(tmp_path, DROP)
    assert gate.verdict is checks["accuracy drop"].verdict is manifest.Verdict.FAIL
    assert (checks["accuracy drop"].limit, checks["accuracy drop"].reason) == (0.9, "the drop is beyond the limit")
    assert checks["model size"].verdict is manifest.Verdict.PASS


LIMITS = {
    "latency p95": ("latency_p95_ms", 2.0, 0.5, "latency"),
    "instructions": ("instructions", 2_000_000, 1_999_999, "instructions"),
    "peak memory": ("peak_rss_bytes", 50_000_000, 49_999_999, "memory"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_budget_is_met_missed_or_not_measured(tmp_path: Path, name: str) -> None:
    key, enough, little, figure = LIMITS[name]
    for folder, limit, verdict in (
        ("enough", enough, manifest.Verdict.PASS),
        ("little", little, manifest.Verdict.FAIL),
    ):
        gate, checks = judge(tmp_path / folder, budget(key, limit))
        assert gate.verdict is checks[name].verdict is verdict
        assert checks[name].limit == limit
    unmeasured = {figure: "nobody was there"}
    gate, checks = judge(tmp_path / "none", budget(key, enough), unmeasured=unmeasured, **{figure: None})
    assert gate.verdict is checks[name].verdict is manifest.Verdict.NOT_MEASURED
    assert (checks[name].value, checks[name].reason) == (None, "nobody was there")
    gate, _ = judge(tmp_path / "both", budget(key, enough), DROP, unmeasured=unmeasured, **{figure: None})
    assert gate.verdict is manifest.Verdict.FAIL, "a failure is not hidden by a figure that nobody took"


def test_an_accelerator_that_leaves_nodes_or_answers_otherwise_fails(tmp_path: Path) -> None:
    asked = ("max_drop = 30.0", "max_drop = 30.0\nmin_coverage = 100\nmin_agreement = 99")
    whole, part = (Coverage("NPU", 50, done, (), Provenance.SIMULATED, "") for done in (50, 49))
    same, other = (Agreement(percent, 200, "npu", Provenance.SIMULATED, "") for percent in (99.5, 98.5))
    for place, (coverage, agreement, verdict) in enumerate(
        (
            (whole, same, manifest.Verdict.PASS),
            (part, same, manifest.Verdict.FAIL),
            (whole, other, manifest.Verdict.FAIL),
            (None, same, manifest.Verdict.NOT_MEASURED),
        )
    ):
        gate, checks = judge(tmp_path / str(place), asked, coverage=coverage, agreement=agreement)
        assert gate.verdict is verdict
        assert (checks["coverage"].limit, checks["agreement"].limit) == (100, 99)


def test_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    for size, verdict in ((MODEL_BYTES, manifest.Verdict.PASS), (MODEL_BYTES - 1, manifest.Verdict.FAIL)):
        gate, checks = judge(tmp_path / str(size), ("file_bytes = 33554432", f"file_bytes = {size}"))
        assert gate.verdict is checks["model size"].verdict is verdict


def test_confidence_and_examples_are_the_targets(tmp_path: Path) -> None:
    sure = ("max_drop = 30.0", "max_drop = 1.5\nconfidence = 0.95")
    gate, checks = judge(tmp_path / "sure", sure)
    assert gate.verdict is manifest.Verdict.INCONCLUSIVE
    assert (gate.limits.confidence, gate.limits.max_drop) == (0.95, 1.5)
    assert checks["accuracy drop"].rows_needed is not None
    assert checks["accuracy drop"].rows_needed > 1000
    gate, checks = judge(tmp_path / "few", ("min_examples = 40", "min_examples = 1001"))
    assert gate.verdict is checks["accuracy drop"].verdict is manifest.Verdict.INCONCLUSIVE
    assert gate.limits.min_examples == 1001


def test_a_time_of_other_kernels_settles_nothing(tmp_path: Path) -> None:
    guessed = latency(provenance=Provenance.ESTIMATED, reason="this machine's kernels")
    gate, checks = judge(tmp_path, budget("latency_p95_ms", 1000.0), latency=guessed)
    assert gate.verdict is checks["latency p95"].verdict is manifest.Verdict.NOT_MEASURED
    assert checks["latency p95"].reason == "an estimate only: this machine's kernels"


def test_a_teacher_at_its_floor_is_no_base_of_comparison(tmp_path: Path) -> None:
    gate, checks = judge(tmp_path, accuracy=accuracy(0, 0, 1000, 500, floor=50.0))
    assert gate.verdict is checks["teacher"].verdict is manifest.Verdict.INVALID


def test_the_finished_builds_verdict_is_in_its_manifest(tiny_build: TinyBuild, tmp_path: Path) -> None:
    written = json.loads((made(tiny_build, Verdict).path / "gate.json").read_text())
    assert written == builds.manifest(tiny_build.bundle)["gate"]
    taken = [made(tiny_build, kind) for kind in Gate.IN]
    target = builds.write_target(
        tmp_path / "strict.toml", ("max_drop = 30.0", "max_drop = 0.0"), budget("instructions", 1)
    )
    verdict = tiny.run_stage(Gate(), taken, tmp_path / "run", str(target))
    checks = {c["name"]: c for c in json.loads((verdict.path / "gate.json").read_text())["checks"]}
    assert checks["instructions"]["verdict"] == "not-measured"
    assert "no exact instruction counter" in checks["instructions"]["reason"]
    drop = builds.manifest(tiny_build.bundle)["accuracy"]["drop"]
    assert checks["accuracy drop"]["verdict"] == ("fail" if drop > 0 else "pass")


@pytest.mark.parametrize(("reached", "told"), [(89.0, True), (88.9, False), (95.0, True)])
def test_a_linear_model_that_would_pass_is_told(reached: float, told: bool) -> None:
    taken = accuracy(lost=20, gained=10, examples=1000, right=900)
    right = np.arange(1000) < 10 * reached
    found = linear_is_enough("linear SVM", right, taken, taken.teacher - 89.0)
    assert [one.check for one in found] == (["linear-is-enough"] if told else [])
    assert all(f"{reached:.2f} %" in one.detail for one in found)
