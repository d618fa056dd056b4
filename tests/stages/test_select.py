"""What is shipped: the fastest on the device of the candidates that answer well enough on dev."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from builds import TinyBuild, made

from edgekit import devices
from edgekit.artifact import Candidates, QuantizedGraph, Timings
from edgekit.search.trials import Trial
from edgekit.stage import Inputs
from edgekit.stages.select import Select, choose
from edgekit.stages.timing import Time, candidates_of
from edgekit.target import load_target

STATIC = Trial("static", "static", "int8-pair-bounded", "minmax", False, (), "a", 0.1, 99.0, 92.0, 100, "1.17")
DYNAMIC = dataclasses.replace(STATIC, name="dynamic", family="dynamic", file="b")
WEIGHTS = dataclasses.replace(STATIC, name="weights", family="weight-only", file="c")


def timings(provenance: str = "measured", **ratios: float) -> dict[str, Any]:
    costs = {name: {"ratio": r, "ratio_low": r - 0.01, "ratio_high": r + 0.01} for name, r in ratios.items()}
    return {"device": "local", "provenance": provenance, "reason": "", "costs": costs}


def test_the_fastest_that_passes_is_taken() -> None:
    trials = [STATIC, DYNAMIC, WEIGHTS]
    chosen, reasons = choose(trials, 91.0, timings(a=1.0, b=0.8, c=0.6))
    assert chosen is WEIGHTS
    assert reasons == {
        "a": "1.67 times the shipped one's time",
        "b": "1.33 times the shipped one's time",
        "c": "accurate enough on dev, and of those costs least in time",
    }


def test_the_order_of_candidates_does_not_decide() -> None:
    """Of two that beat the static form by a tenth the faster is taken, though they are near each other."""
    taken = timings(a=1.0, b=0.85, c=0.8)
    assert choose([STATIC, DYNAMIC, WEIGHTS], 91.0, taken)[0] is WEIGHTS
    assert choose([STATIC, WEIGHTS, DYNAMIC], 91.0, taken)[0] is WEIGHTS


def test_of_two_rungs_that_pass_the_one_with_fewer_float_products_is_taken() -> None:
    whole = dataclasses.replace(STATIC, score=80.0)
    more = dataclasses.replace(STATIC, keep_float=("x", "y"), file="b")
    fewer = dataclasses.replace(STATIC, keep_float=("y",), file="c")
    for taken in (timings(a=0.9, b=1.3, c=1.2), timings("estimated", a=1.0, b=1.0, c=1.0), timings()):
        assert choose([whole, more, fewer], 91.0, taken)[0] is fewer


def test_one_that_loses_too_much_is_not_taken_however_fast() -> None:
    bad = dataclasses.replace(WEIGHTS, score=90.99)
    chosen, reasons = choose([STATIC, DYNAMIC, bad], 91.0, timings(a=1.0, b=1.4, c=0.2))
    assert chosen is STATIC
    assert reasons["c"] == "90.99 % on dev, 91.00 % needed"


def test_nearly_as_fast_is_not_faster() -> None:
    """A ratio whose interval reaches the margin could come out otherwise in the next run."""
    chosen, reasons = choose([STATIC, DYNAMIC], 91.0, timings(a=1.0, b=0.895))
    assert chosen is STATIC
    assert reasons == {
        "a": "accurate enough on dev, and of those none costs a tenth less in time",
        "b": "0.90 times the shipped one's time, not surely a tenth less",
    }
    assert choose([STATIC, DYNAMIC], 91.0, timings(a=1.0, b=0.885))[0] is DYNAMIC


def test_a_wide_interval_and_instructions_are_told_as_what_they_are() -> None:
    wide = timings(a=1.0, b=0.85)
    wide["costs"]["b"]["ratio_high"] = 0.95
    assert choose([STATIC, DYNAMIC], 91.0, wide)[1]["b"] == "0.85 times the shipped one's time, not surely a tenth less"
    counted = timings("simulated", a=1.0, b=1.25)
    for cost in counted["costs"].values():
        cost["instructions"] = 1000
    assert choose([STATIC, DYNAMIC], 91.0, counted)[1]["b"] == "1.25 times the shipped one's instructions"


def test_times_of_another_processor_do_not_decide() -> None:
    chosen, reasons = choose([STATIC, DYNAMIC], 91.0, timings("estimated", a=1.0, b=0.5))
    assert chosen is STATIC
    assert "another processor" in reasons["a"]
    assert choose([STATIC, DYNAMIC], 91.0, timings("simulated", a=1.0, b=0.5))[0] is DYNAMIC


def test_where_none_passes_the_most_accurate_is_shipped_and_said_to_miss() -> None:
    better = dataclasses.replace(DYNAMIC, score=92.5)
    chosen, reasons = choose([STATIC, better], 95.0, timings(a=1.0, b=2.0))
    assert chosen is better
    assert reasons == {"a": "below 95.00 % on dev", "b": "the best of those, all below 95.00 % on dev"}


def test_the_stage_copies_the_file_that_is_fastest(candidates: Candidates, tmp_path: Path) -> None:
    trials = candidates_of(candidates)
    facts = candidates.facts
    # The shipped target's limit: what each trial may lose against the teacher.
    needs = facts["teacher_score"] - load_target("x86-64").gate.max_drop
    assert len(trials) > 1
    for number, trial in enumerate(trials):
        (tmp_path / f"timings-{number}").mkdir()
        costs = timings(**{other.file: 0.5 if other is trial else 1.0 for other in trials})
        (tmp_path / f"timings-{number}" / "timings.json").write_text(json.dumps(costs))
        taken = Timings(tmp_path / f"timings-{number}", "")
        found: QuantizedGraph = tiny.run_stage(Select(), [candidates, taken], tmp_path / f"run-{number}")
        same = found.model.read_bytes() == (candidates.path / trial.file).read_bytes()
        assert same == (trial.score >= needs)
        if same:
            assert (found.facts["name"], found.facts["scheme"]) == (trial.name, trial.scheme)
        assert {path.name for path in found.path.iterdir()} == {"model.onnx", "facts.json"}


def run_timing(build: TinyBuild, candidates: Candidates, folder: Path, target: str, device: str) -> dict[str, Any]:
    """Runs the stage on a device; returns what it wrote."""
    stage = Time(counted_texts=1)
    given = {kind: candidates if kind is Candidates else made(build, kind) for kind in Time.IN}
    ctx = dataclasses.replace(tiny.context(folder / "resume", stage, target), device=device)
    (folder / "out").mkdir()
    stage.run(Inputs(given, Time.IN), folder / "out", ctx)
    taken: dict[str, Any] = json.loads((folder / "out" / "timings.json").read_text())
    return taken


def test_every_candidate_is_timed_against_the_first(
    tiny_build: TinyBuild, candidates: Candidates, tmp_path: Path
) -> None:
    taken, trials = run_timing(tiny_build, candidates, tmp_path, "x86-64", "local"), candidates_of(candidates)
    assert set(taken["costs"]) == {trial.file for trial in trials}
    assert taken["costs"][trials[0].file]["ratio"] == pytest.approx(1)
    assert all(cost["ratio_low"] <= cost["ratio"] <= cost["ratio_high"] for cost in taken["costs"].values())
    assert all(cost["p50_ms"] > 0 for cost in taken["costs"].values())


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="block_runs is 49"):
        Time(block_runs=49)
    with pytest.raises(ValueError, match="rounds must be at least 6"):
        Time(rounds=5)


@pytest.mark.slow
def test_under_emulation_instructions_are_counted_instead(
    tiny_build: TinyBuild, candidates: Candidates, tmp_path: Path
) -> None:
    missing = devices.connect("qemu:cortex-a76").unavailable()
    if missing is not None:
        pytest.skip(f"qemu:cortex-a76 is not ready: {missing.reason}")
    taken = run_timing(tiny_build, candidates, tmp_path, "arm64", "qemu:cortex-a76")
    trials = candidates_of(candidates)
    assert (taken["provenance"], taken["device"]) == ("simulated", "qemu:cortex-a76")
    assert all(taken["costs"][trial.file]["instructions"] > 10_000 for trial in trials)
    first = taken["costs"][trials[0].file]["instructions"]
    for trial in trials:
        assert taken["costs"][trial.file]["ratio"] == pytest.approx(
            taken["costs"][trial.file]["instructions"] / first, rel=1e-3
        )


def test_the_backends_first_family_is_the_one_to_beat() -> None:
    taken = timings(a=1.0, b=0.95)
    assert choose([STATIC, DYNAMIC], 91.0, taken)[0] is STATIC
    assert choose([DYNAMIC, STATIC], 91.0, taken)[0] is DYNAMIC
