"""The gate: each verdict on figures that give it, and the verdict derived again from manifests alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from manifests import accuracy, example, example_arm64, latency

from edgekit import manifest as manifests
from edgekit.errors import ArtifactError
from edgekit.manifest import Limits, Manifest
from edgekit.measured import Bounds, Coverage, Instructions, Memory
from edgekit.provenance import Provenance
from edgekit.verdict import Check, Gate, Verdict, contradictions, exit_code, judge, judge_dist, rejudge, worst

PASS, FAIL, INVALID = Verdict.PASS, Verdict.FAIL, Verdict.INVALID
INCONCLUSIVE, NOT_MEASURED = Verdict.INCONCLUSIVE, Verdict.NOT_MEASURED


def judged(limits: Limits, **figures: Any) -> Gate:
    none = dict.fromkeys(("accuracy", "latency", "instructions", "memory", "coverage", "agreement"))
    return judge(limits, **{**none, "model_bytes": 4_800_000, "unmeasured": {}, **figures})


def drop_check(limits: Limits, **figures: Any) -> Check:
    return next(check for check in judged(limits, **figures).checks if check.name == "accuracy drop")


@pytest.mark.parametrize(("lost", "gained", "verdict"), [(30, 0, PASS), (31, 0, FAIL), (0, 30, PASS), (40, 10, PASS)])
def test_without_confidence_the_drop_itself_decides(lost: int, gained: int, verdict: Verdict) -> None:
    # 30 of 2,000 rows are 1.5 points exactly, though 92.3 - 90.8 is more in binary.
    check = drop_check(Limits(max_drop=1.5), accuracy=accuracy(lost, gained, 2000, 1846))
    assert check.verdict is verdict
    assert check.unit == "points"
    assert check.provenance is Provenance.MEASURED


@pytest.mark.parametrize(
    ("lost", "gained", "rows", "verdict"),
    [
        (20, 20, 4000, PASS),
        (120, 20, 4000, FAIL),
        (20, 14, 1000, INCONCLUSIVE),
        (0, 0, 100, INCONCLUSIVE),
        (0, 0, 300, PASS),
        (18, 6, 1000, INCONCLUSIVE),
    ],
)
def test_with_confidence_the_bounds_decide(lost: int, gained: int, rows: int, verdict: Verdict) -> None:
    check = drop_check(Limits(max_drop=1.0, confidence=0.95), accuracy=accuracy(lost, gained, rows, int(0.9 * rows)))
    assert check.verdict is verdict
    assert (check.rows_needed is not None) == (verdict is INCONCLUSIVE)
    if check.rows_needed is not None:
        assert check.rows_needed > rows
        assert f"{check.rows_needed:,} rows" in check.reason


def test_a_drop_equal_to_the_limit_is_never_settled() -> None:
    check = drop_check(Limits(max_drop=1.0, confidence=0.95), accuracy=accuracy(15, 5, 1000, 900))
    assert (check.verdict, check.rows_needed) == (INCONCLUSIVE, None)
    assert "no number of rows" in check.reason


def test_few_rows_are_inconclusive() -> None:
    check = drop_check(Limits(max_drop=1.5, min_examples=400), accuracy=accuracy(0, 0, 50, 46))
    assert (check.verdict, check.rows_needed) == (INCONCLUSIVE, 400)
    strict = Limits(max_drop=1.0, min_examples=400, confidence=0.95)
    many = drop_check(strict, accuracy=accuracy(2, 1, 50, 46))
    assert many.rows_needed is not None
    assert many.rows_needed > 400


def test_a_metric_without_counts_uses_the_bounds_taken() -> None:
    limits = Limits(max_drop=1.0, confidence=0.95)
    f1 = dataclasses.replace(accuracy(), metric="macro-F1", method="bootstrap", lost=None, gained=None, drop=0.7)
    bounds = [Bounds(0.95, -0.2, 0.9), Bounds(0.95, 1.1, 2.0), Bounds(0.95, 0.2, 1.6), Bounds(0.9, -0.2, 0.9), None]
    found = [drop_check(limits, accuracy=dataclasses.replace(f1, bounds=item)) for item in bounds]
    assert [check.verdict for check in found] == [PASS, FAIL, INCONCLUSIVE, NOT_MEASURED, NOT_MEASURED]
    assert found[2].rows_needed is not None
    assert found[2].rows_needed > 3080
    assert "no one-sided bounds at 95 % were taken" in found[3].reason


@pytest.mark.parametrize(
    ("right", "floor", "min_teacher", "verdict"),
    [
        (900, 50.0, None, PASS),
        (500, 50.0, None, INVALID),
        (400, 50.0, None, INVALID),
        (900, 50.0, 90.0, PASS),
        (899, 50.0, 90.0, INVALID),
        (899, None, 90.0, INVALID),
    ],
)
def test_a_baseline_below_its_floor_is_invalid(
    right: int, floor: float | None, min_teacher: float | None, verdict: Verdict
) -> None:
    limits = Limits(max_drop=1.5, min_teacher=min_teacher)
    for lost in (0, 300):  # neither a drop within the limit nor one beyond it says anything then
        gate = judged(limits, accuracy=accuracy(lost, 0, 1000, right, floor=floor))
        by_name = {check.name: check.verdict for check in gate.checks}
        assert by_name["teacher"] is verdict
        assert by_name["accuracy drop"] is (INVALID if verdict is INVALID else FAIL if lost else PASS)


DEVICE = {"device": "board", "provenance": Provenance.MEASURED, "reason": ""}
MEMORY = Memory(50_000_000, **DEVICE)
COUNTED = Instructions(18_000_000, 120_000_000, **DEVICE)
COVERED = Coverage("HTP", 100, 96, ("Erf",), Provenance.SIMULATED, "")


@pytest.mark.parametrize(
    ("good", "bad", "figures", "name"),
    [
        (Limits(max_latency_ms=2), Limits(max_latency_ms=1), {"latency": latency()}, "latency p95"),
        (Limits(min_speedup=4), Limits(min_speedup=40), {"latency": latency()}, "speedup"),
        (
            Limits(max_instructions=18_000_000),
            Limits(max_instructions=17_999_999),
            {"instructions": COUNTED},
            "instructions",
        ),
        (
            Limits(max_peak_rss_bytes=50_000_000),
            Limits(max_peak_rss_bytes=49_000_000),
            {"memory": MEMORY},
            "peak memory",
        ),
        (Limits(max_bytes=4_800_000), Limits(max_bytes=4_799_999), {}, "model size"),
        (Limits(min_coverage=96), Limits(min_coverage=97), {"coverage": COVERED}, "coverage"),
        (Limits(min_score=90), Limits(min_score=99), {"accuracy": accuracy(floor=None)}, "score"),
        (Limits(max_flips=3), Limits(max_flips=1), {"accuracy": accuracy(floor=None)}, "flips"),
        (Limits(max_churn=5), Limits(max_churn=1), {"accuracy": accuracy(floor=None)}, "churn"),
    ],
)
def test_each_limit(good: Limits, bad: Limits, figures: dict[str, Any], name: str) -> None:
    for limits, verdict in ((good, PASS), (bad, FAIL)):
        gate = judged(limits, **figures)
        assert [(check.name, check.verdict) for check in gate.checks] == [(name, verdict)]
        assert gate.verdict is verdict
    if figures:  # the same limit on a figure that nobody took
        gate = judged(good)
        assert [check.verdict for check in gate.checks] == [NOT_MEASURED]
        assert gate.checks[0].value is None


def test_not_measured_says_why() -> None:
    gate = judged(
        Limits(max_latency_ms=5, max_drop=1, min_speedup=2, max_churn=3),
        accuracy=accuracy(churn=None),
        unmeasured={"latency": "qemu's time is no device's time", "accuracy.churn": "a regression"},
    )
    reasons = {check.name: check.reason for check in gate.checks if check.verdict is NOT_MEASURED}
    assert reasons == {
        "latency p95": "qemu's time is no device's time",
        "speedup": "qemu's time is no device's time",
        "churn": "a regression",
    }
    assert gate.verdict is NOT_MEASURED


def test_an_estimate_says_that_it_is_one() -> None:
    taken = latency(provenance=Provenance.ESTIMATED, reason="the host's kernels")
    check = judged(Limits(max_latency_ms=5), latency=taken).checks[0]
    assert check.verdict is NOT_MEASURED
    assert check.reason == "an estimate only: the host's kernels"
    guessed = accuracy(provenance=Provenance.ESTIMATED, reason="the host's kernels")
    check = judged(Limits(min_score=50), accuracy=guessed).checks[-1]
    assert (check.verdict, check.provenance) == (PASS, Provenance.ESTIMATED)
    assert check.reason == "within the limit; an estimate: the host's kernels"


def test_few_rows_suffice_for_a_drop_that_is_beyond_doubt() -> None:
    taken = accuracy(teacher=99.0, artifact=25.0, drop=74.0, lost=90, gained=1, examples=120)
    assert judged(Limits(max_drop=1.5, min_examples=400), accuracy=taken).checks[-1].verdict is FAIL


def test_order_of_verdicts_and_exit_codes() -> None:
    assert worst([]) is PASS
    assert worst([PASS, NOT_MEASURED]) is NOT_MEASURED
    assert worst([NOT_MEASURED, INCONCLUSIVE, PASS]) is INCONCLUSIVE
    assert worst([INCONCLUSIVE, INVALID]) is INVALID
    assert worst([INVALID, FAIL, PASS]) is FAIL
    codes = {verdict: exit_code([Gate(verdict, Limits(), ())]) for verdict in Verdict}
    assert codes == {PASS: 0, FAIL: 3, INVALID: 4, INCONCLUSIVE: 4, NOT_MEASURED: 4}
    assert exit_code([Gate(PASS, Limits(), ()), Gate(INVALID, Limits(), ()), Gate(FAIL, Limits(), ())]) == 3
    assert exit_code([]) == 0


def put(dist: Path, item: Manifest, folder: str | None = None) -> Path:
    target = dist / (folder or item.target_name)
    target.mkdir(parents=True)
    manifests.write(target / "manifest.json", item)
    return target / "manifest.json"


def test_judge_dist_derives_what_the_build_judged(tmp_path: Path) -> None:
    items = [example(), example_arm64()]
    for item in items:
        put(tmp_path, item)
    (tmp_path / "junit.xml").write_text("<x/>")
    (tmp_path / ".tmp").mkdir()
    found = judge_dist(tmp_path)
    assert [(name, gate) for name, _, gate in found] == [("arm64", items[1].gate), ("x86-64", items[0].gate)]
    assert judge_dist(tmp_path / "arm64")[0][2] == items[1].gate


@pytest.mark.parametrize(
    ("path", "value", "verdict", "reason"),
    [
        (("gate", "verdict"), "fail", INVALID, "records the verdict fail, its figures say pass"),
        (("accuracy", "drop"), 0.0, INVALID, "accuracy.drop is 0, teacher - artifact is 0.7792"),
        (("accuracy", "lost"), 3, INVALID, "accuracy.drop is 0.779221, lost and gained give -0.357143"),
        (("accuracy", "gained"), 3080, INVALID, "rows flipped of 3080"),
        (("accuracy", "ci95"), [1.0, 2.0], INVALID, "accuracy.drop lies outside accuracy.ci95"),
        (("latency", "p90_ms"), 9.0, INVALID, "latency: the percentiles do not rise"),
        (("latency", "speedup"), 90.0, INVALID, "latency.speedup lies outside its own range"),
        (("gate", "limits", "max_drop"), 0.5, FAIL, "records the verdict pass, its figures say fail"),
        (("model", "device_bytes"), 9_000_000, FAIL, "model.bytes is 4812345; records the verdict pass"),
    ],
)
def test_an_edited_manifest_is_found_out(
    tmp_path: Path, path: tuple[str, ...], value: object, verdict: Verdict, reason: str
) -> None:
    file = put(tmp_path, example())
    plain = json.loads(file.read_text(encoding="utf-8"))
    owner = plain
    for part in path[:-1]:
        owner = owner[part]
    owner[path[-1]] = value
    file.write_text(json.dumps(plain), encoding="utf-8")
    [(_, _, gate)] = judge_dist(tmp_path)
    assert gate.verdict is verdict
    assert gate.checks[-1].name == "manifest"
    assert reason in gate.checks[-1].reason


def test_coverage_cannot_exceed_the_graph() -> None:
    item = dataclasses.replace(example(), coverage=dataclasses.replace(COVERED, delegated=101))
    assert contradictions(item) == ["coverage: 101 of 100 nodes delegated"]
    assert contradictions(example()) == []
    assert rejudge(example()) == example().gate


def test_an_empty_dist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a folder") as caught:
        judge_dist(tmp_path / "dist")
    assert caught.value.exit_code == 2
    with pytest.raises(ArtifactError, match="holds no bundle"):
        judge_dist(tmp_path)
    put(tmp_path, example())
    (tmp_path / "arm64").mkdir()
    assert [name for name, _, _ in judge_dist(tmp_path)] == [example().target_name], "a folder without one is no bundle"
    (tmp_path / "arm64" / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"arm64.manifest\.json: not JSON"):
        judge_dist(tmp_path)
