"""Limits and figures in, a verdict out: one check a limit, and one over all of them.

A check passes only on a figure that was taken and that settles the question; everything else has a name of its own.
The whole verdict is the worst of its checks: fail, then invalid, then inconclusive and not-measured, then pass.

Exit codes: 0 pass, 3 fail, 4 for the other three. `invalid` is among them and not a failure (3), because a baseline
below its floor says nothing about the artifact: the question stays open, as with a figure that nobody took. It is no
invalid input (2) either: the command and its files are in order.

`judge_dist` derives the verdict again from the figures of the manifests, so that neither an edited verdict nor an
older edgekit's rules let a bundle through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from edgekit import manifest as manifests
from edgekit.errors import ArtifactError
from edgekit.manifest import Check, Gate, Limits, Manifest, Verdict
from edgekit.measured import Accuracy, Agreement, Coverage, Instructions, Latency, Memory
from edgekit.provenance import Provenance
from edgekit.statistics import rows_to_settle, tango_lower, tango_upper

__all__ = ["Check", "Gate", "Limits", "Verdict", "contradictions", "exit_code", "judge", "judge_dist", "worst"]

_RANK = (Verdict.PASS, Verdict.NOT_MEASURED, Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.FAIL)
_EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 3, Verdict.INVALID: 4, Verdict.INCONCLUSIVE: 4, Verdict.NOT_MEASURED: 4}
_ROUNDING = 1e-9  # 92.3 - 90.8 is 1.5000000000000000 and a bit
_DROP = "accuracy drop"
# Where each limit that a target can set stands in its profile.
_OF_TARGET = {
    "max_drop": ("gate", "max_drop"),
    "confidence": ("gate", "confidence"),
    "min_examples": ("gate", "min_examples"),
    "max_latency_ms": ("budget", "latency_p95_ms"),
    "max_instructions": ("budget", "instructions"),
    "max_bytes": ("budget", "file_bytes"),
    "max_peak_rss_bytes": ("budget", "peak_rss_bytes"),
    "min_coverage": ("gate", "min_coverage"),
    "min_agreement": ("gate", "min_agreement"),
}
DEFAULT_CONFIDENCE = 0.95  # one-sided, where the gate asks for none and too few rows leave a doubt


@dataclass(frozen=True)
class _Question:
    """A figure held against one limit: its largest value allowed, or its smallest."""

    name: str
    limit: str  # field of Limits
    figure: str  # dotted name in the manifest
    unit: str
    at_most: bool


_QUESTIONS = (
    _Question("score", "min_score", "accuracy.artifact", "%", at_most=False),
    _Question("flips", "max_flips", "accuracy.flips", "%", at_most=True),
    _Question("churn", "max_churn", "accuracy.churn", "%", at_most=True),
    _Question("latency p95", "max_latency_ms", "latency.p95_ms", "ms", at_most=True),
    _Question("speedup", "min_speedup", "latency.speedup", "x", at_most=False),
    _Question("instructions", "max_instructions", "instructions.per_inference", "instructions", at_most=True),
    _Question("peak memory", "max_peak_rss_bytes", "memory.peak_rss_bytes", "bytes", at_most=True),
    _Question("coverage", "min_coverage", "coverage.percent", "%", at_most=False),
    _Question("agreement", "min_agreement", "agreement.percent", "%", at_most=False),
)
_SIZE = _Question("model size", "max_bytes", "model.device_bytes", "bytes", at_most=True)
_Section = Accuracy | Latency | Instructions | Memory | Coverage | Agreement


def judge(
    limits: Limits,
    *,
    accuracy: Accuracy | None,
    latency: Latency | None,
    instructions: Instructions | None,
    memory: Memory | None,
    coverage: Coverage | None,
    agreement: Agreement | None,
    model_bytes: int,
    unmeasured: Mapping[str, str],
) -> Gate:
    """Judges figures by limits.

    Args:
        limits: what is asked; a limit of None asks nothing.
        accuracy, latency, instructions, memory, coverage, agreement: the figures, None where nobody took them.
        model_bytes: size of all that a device loads.
        unmeasured: why a figure is None, by its dotted name as in the manifest.

    Returns:
        The verdict, the limits, and one check for each limit given (plus the baseline's, where its floor is known).
    """
    sections = {
        "accuracy": accuracy,
        "latency": latency,
        "instructions": instructions,
        "memory": memory,
        "coverage": coverage,
        "agreement": agreement,
    }
    checks = [*_baseline(limits, accuracy), *_drop(limits, accuracy, unmeasured)]
    for question in _QUESTIONS:
        limit = getattr(limits, question.limit)
        section_name, _, figure = question.figure.partition(".")
        section = sections[section_name]
        if limit is not None:
            value = None if section is None else getattr(section, figure)
            checks.append(_compare(question, value, limit, section, _why(question.figure, unmeasured)))
    if limits.max_bytes is not None:
        checks.append(_compare(_SIZE, model_bytes, limits.max_bytes, None, ""))
    return Gate(worst(check.verdict for check in checks), limits, tuple(checks))


def judge_dist(folder: Path) -> list[tuple[str, Manifest, Gate]]:
    """Judges the bundles in a folder from their manifests alone.

    Args:
        folder: `dist`, whose folders each hold a manifest, or one of those folders.

    Returns:
        Target, manifest and derived gate of each, in the order of the targets' names. Where a manifest contradicts
        itself or records another verdict than its figures give, the gate has a check `manifest` that says so.

    Raises:
        ArtifactError: there is no such folder, it holds no bundle, or a manifest in it cannot be read.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: not a folder; expected the one that `edgekit build` wrote, such as dist")
    if (folder / manifests.FILE_NAME).exists():
        bundles = [folder]
    else:
        # Anything else may lie beside bundles; a folder that lost its manifest is none any more.
        bundles = sorted(item.parent for item in folder.glob(f"[!.]*/{manifests.FILE_NAME}"))
    if not bundles:
        raise ArtifactError(f"{folder}: holds no bundle; run `edgekit build` first")
    read = [manifests.read(bundle / manifests.FILE_NAME) for bundle in bundles]
    return sorted(((item.target_name, item, rejudge(item)) for item in read), key=lambda found: found[0])


def rejudge(item: Manifest) -> Gate:
    """Derives the gate of a manifest from its figures and limits, and checks what it records against that."""
    gate = judge(
        item.gate.limits,
        accuracy=item.accuracy,
        latency=item.latency,
        instructions=item.instructions,
        memory=item.memory,
        coverage=item.coverage,
        agreement=item.agreement,
        model_bytes=item.model.device_bytes,
        unmeasured=item.unmeasured,
    )
    faults = contradictions(item)
    if item.gate.verdict is not gate.verdict:
        faults.append(f"records the verdict {item.gate.verdict}, its figures say {gate.verdict}")
    if not faults:
        return gate
    check = Check("manifest", None, None, "", Verdict.INVALID, "; ".join(faults))
    return Gate(worst([gate.verdict, check.verdict]), gate.limits, (*gate.checks, check))


def limits_of(budget: Mapping[str, Any], gate: Mapping[str, Any]) -> Limits:
    """Returns the gate's limits from the target's sections."""
    sections = {"budget": budget, "gate": gate}
    return Limits(**{name: sections[section].get(key) for name, (section, key) in _OF_TARGET.items()})


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Returns the worst of some verdicts; pass where there is none, for nothing was asked."""
    return max(verdicts, key=_RANK.index, default=Verdict.PASS)


def exit_code(gates: Iterable[Gate]) -> int:
    """Returns the exit code over several targets: 3 if one failed, else 4 if one is open, else 0."""
    return _EXIT_CODES[worst(gate.verdict for gate in gates)]


def contradictions(item: Manifest) -> list[str]:
    """Returns what in a manifest's figures cannot be true together, empty where nothing is."""
    faults = []
    acc, lat, cov = item.accuracy, item.latency, item.coverage
    if acc is not None:
        if not math.isclose(acc.drop, acc.teacher - acc.artifact, abs_tol=0.01):
            faults.append(f"accuracy.drop is {acc.drop:g}, teacher - artifact is {acc.teacher - acc.artifact:g}")
        if acc.lost is not None and acc.gained is not None:
            if acc.lost + acc.gained > acc.examples:
                faults.append(f"accuracy: {acc.lost} + {acc.gained} rows flipped of {acc.examples}")
            elif not math.isclose(acc.drop, 100 * (acc.lost - acc.gained) / acc.examples, abs_tol=0.01):
                faults.append(
                    f"accuracy.drop is {acc.drop:g}, lost and gained give "
                    f"{100 * (acc.lost - acc.gained) / acc.examples:g}"
                )
        if not acc.ci95[0] - 0.01 <= acc.drop <= acc.ci95[1] + 0.01:
            faults.append("accuracy.drop lies outside accuracy.ci95")
    if lat is not None:
        if not lat.p50_ms <= lat.p90_ms <= lat.p95_ms <= lat.p99_ms:
            faults.append("latency: the percentiles do not rise")
        if None not in (lat.speedup, lat.speedup_low, lat.speedup_high) and not (
            lat.speedup_low <= lat.speedup <= lat.speedup_high  # type: ignore[operator]
        ):
            faults.append("latency.speedup lies outside its own range")
    budget, gate = item.target.get("budget"), item.target.get("gate")
    if isinstance(budget, dict) and isinstance(gate, dict):
        given = limits_of(budget, gate)
        for name in _OF_TARGET:
            limit, asked = getattr(item.gate.limits, name), getattr(given, name)
            if limit != asked:
                faults.append(f"gate.limits.{name} is {limit}, the target's is {asked}")
    model = item.model
    if model.device_bytes < model.bytes or (not model.files and model.device_bytes != model.bytes):
        faults.append(f"model.device_bytes is {model.device_bytes}, model.bytes is {model.bytes}")
    if cov is not None and cov.delegated > cov.nodes:
        faults.append(f"coverage: {cov.delegated} of {cov.nodes} nodes delegated")
    return faults


def _baseline(limits: Limits, accuracy: Accuracy | None) -> Iterable[Check]:
    """Yields the check that the teacher is worth comparing with: above the best constant answer, and its own limit."""
    if accuracy is None or (accuracy.floor is None and limits.min_teacher is None):
        return
    floor = max(value for value in (accuracy.floor, limits.min_teacher) if value is not None)
    # The best constant answer must be beaten, a limit only met.
    below = accuracy.teacher < floor or (accuracy.floor is not None and accuracy.teacher <= accuracy.floor)
    if below:
        reason = (
            f"the teacher's {accuracy.metric} of {accuracy.teacher:.2f} % is not above its floor of {floor:.2f} "
            "%; a comparison with it says nothing. Check the data and the labels' order, or train it further"
        )
    else:
        reason = "the teacher is above its floor"
    yield Check(
        "teacher",
        accuracy.teacher,
        floor,
        "%",
        Verdict.INVALID if below else Verdict.PASS,
        reason,
        accuracy.float_provenance,
    )


def _drop(limits: Limits, accuracy: Accuracy | None, unmeasured: Mapping[str, str]) -> Iterable[Check]:
    """Yields the check of the accuracy drop, the one that few rows may not settle."""
    limit = limits.max_drop
    if limit is None:
        return
    if accuracy is None:
        yield Check(_DROP, None, limit, "points", Verdict.NOT_MEASURED, _why("accuracy", unmeasured))
        return
    verdict, reason, rows = _settle(limits, limit, accuracy)
    if any(check.verdict is Verdict.INVALID for check in _baseline(limits, accuracy)):
        verdict, reason, rows = Verdict.INVALID, "the teacher is not above its own floor", None
    yield Check(_DROP, accuracy.drop, limit, "points", verdict, reason, accuracy.provenance, rows)


def _settle(limits: Limits, limit: float, accuracy: Accuracy) -> tuple[Verdict, str, int | None]:
    """Returns verdict, reason, and for an inconclusive one the rows that would settle it."""
    least = limits.min_examples
    if least is not None and accuracy.examples < least:
        bounds = _bounds(limits.confidence or DEFAULT_CONFIDENCE, accuracy)
        if bounds is not None and bounds[0] > limit:
            why = f"only {accuracy.examples:,} rows, but even on these the drop is at least {bounds[0]:.2f} points"
            return Verdict.FAIL, why, None
        rows = max(least, _rows_needed(limits.confidence, limit, accuracy) or 0)
        return (
            Verdict.INCONCLUSIVE,
            (f"{accuracy.examples:,} rows, at least {least:,} are asked; about {rows:,} rows would settle it"),
            rows,
        )
    if limits.confidence is None:
        if accuracy.drop <= limit + _ROUNDING:
            return Verdict.PASS, "the drop is within the limit", None
        return Verdict.FAIL, "the drop is beyond the limit", None
    bounds = _bounds(limits.confidence, accuracy)
    share = f"{100 * limits.confidence:g} %"
    if bounds is None:
        return (
            Verdict.NOT_MEASURED,
            (f"no one-sided bounds at {share} were taken for {accuracy.metric}; evaluate again with this confidence"),
            None,
        )
    low, high = bounds
    if high <= limit + _ROUNDING:
        return Verdict.PASS, f"with {share} confidence the drop is at most {high:.2f} points", None
    if low > limit:
        return Verdict.FAIL, f"with {share} confidence the drop is at least {low:.2f} points", None
    needed = _rows_needed(limits.confidence, limit, accuracy)
    settle = (
        "no number of rows settles it while the drop equals the limit"
        if needed is None
        else f"about {needed:,} rows would settle it, {accuracy.examples:,} were used"
    )
    return Verdict.INCONCLUSIVE, f"the drop lies between {low:.2f} and {high:.2f} points ({share}); {settle}", needed


def _bounds(confidence: float, accuracy: Accuracy) -> tuple[float, float] | None:
    """Returns the one-sided bounds of the drop: from the counts, else those that evaluation took at this confidence."""
    lost, gained, rows = accuracy.lost, accuracy.gained, accuracy.examples
    if lost is not None and gained is not None and lost + gained <= rows:
        return tango_lower(lost, gained, rows, confidence), tango_upper(lost, gained, rows, confidence)
    taken = accuracy.bounds
    if taken is not None and math.isclose(taken.confidence, confidence, abs_tol=1e-6):
        return taken.lower, taken.upper
    return None


def _rows_needed(confidence: float | None, limit: float, accuracy: Accuracy) -> int | None:
    """Returns the rows that would settle the drop at this confidence, always more than there are."""
    if confidence is None or limit >= 100:
        return None
    if accuracy.lost is not None and accuracy.gained is not None:
        flips = 100 * (accuracy.lost + accuracy.gained) / accuracy.examples
        needed = rows_to_settle(flips, accuracy.drop, limit, confidence)
    else:
        bounds = _bounds(confidence, accuracy)
        if bounds is None or math.isclose(accuracy.drop, limit):
            return None
        # A bound comes nearer with the root of the rows; 80 % power asks for more of them, as in `rows_to_settle`.
        reach = bounds[1] - accuracy.drop if accuracy.drop < limit else accuracy.drop - bounds[0]
        z = NormalDist().inv_cdf(confidence)
        power = (z + NormalDist().inv_cdf(0.8)) / z
        needed = math.ceil(accuracy.examples * (power * reach / (limit - accuracy.drop)) ** 2)
    return None if needed is None else max(needed, accuracy.examples + 1)


def _compare(
    question: _Question, value: float | None, limit: float, section: _Section | None, why_absent: str
) -> Check:
    """Returns the check of one figure against its limit."""
    name, unit = question.name, question.unit
    if value is None:
        return Check(name, None, limit, unit, Verdict.NOT_MEASURED, why_absent)
    good = value <= limit + _ROUNDING if question.at_most else value >= limit - _ROUNDING
    reason = "within the limit" if good else "beyond the limit" if question.at_most else "under the limit"
    if section is None:
        return Check(name, value, limit, unit, Verdict.PASS if good else Verdict.FAIL, reason)
    if section.provenance is Provenance.ESTIMATED:
        if not isinstance(section, Accuracy):  # another machine's time, memory or instructions settle nothing
            return Check(name, value, limit, unit, Verdict.NOT_MEASURED, f"an estimate only: {section.reason}")
        reason = f"{reason}; an estimate: {section.reason}"
    return Check(name, value, limit, unit, Verdict.PASS if good else Verdict.FAIL, reason, section.provenance)


def _why(name: str, unmeasured: Mapping[str, str]) -> str:
    """Returns why a figure is missing: its own reason, or that of the section it stands in."""
    return unmeasured.get(name) or unmeasured.get(name.partition(".")[0]) or "nobody took this figure"
