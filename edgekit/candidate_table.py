"""Tells how the form that is shipped was chosen: every form that was tried, with its figures and a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from edgekit import devices
from edgekit.artifact import Artifact, Candidates, Timings
from edgekit.devices import processor_of
from edgekit.measured import Candidate
from edgekit.provenance import Provenance
from edgekit.search.trials import Trial, from_facts, listed
from edgekit.stages.select import chosen_of
from edgekit.target import Target

ON_DEVICE = ("p50_ms", "instructions")
NOT_KEPT = "larger logit error than the form of its kind that was kept"


def candidates(made: Artifact, taken: Artifact, target: Target) -> tuple[Candidate, ...]:
    """Returns the forms in the order in which they were tried; last those that the target's runtime cannot load.

    Args:
        made: of stage `quantize`.
        taken: of stage `timing`.
        target: that they were made for.
    """
    assert isinstance(made, Candidates)
    assert isinstance(taken, Timings)
    chosen, reasons = chosen_of(made, taken, target.gate.max_drop)
    timings = json.loads((taken.path / "timings.json").read_text(encoding="utf-8"))
    on_device = Provenance(timings["provenance"])
    here = devices.connect("local").provenance(processor_of(target.device))[0]
    trials = from_facts(made.facts["trials"])
    rungs = rungs_told([t for t in trials if t.file in made.facts["candidates"]], timings["costs"])
    found = []
    for trial in trials:
        cost = timings["costs"].get(trial.file, {})
        figures: dict[str, float | str | None] = {
            "logit_rmse": trial.logit_rmse,
            "agreement_pct": trial.agreement,
            "dev_pct": trial.score,
            "p50_ms": cost.get("p50_ms"),
            "instructions": cost.get("instructions"),
            "bytes": trial.bytes,
        }
        provenance = {
            name: on_device if name in ON_DEVICE else here
            for name, figure in figures.items()
            if figure is not None and name != "bytes"
        }
        reason = "; ".join(text for text in (reasons.get(trial.file, NOT_KEPT), rungs.get(trial.file)) if text)
        found.append(Candidate(trial.name, trial.file == chosen.file, figures, provenance, reason))
    left_out: Mapping[str, str] = made.facts["left_out"]
    return (*found, *(Candidate(name, False, {}, {}, reason) for name, reason in left_out.items()))


def rungs_told(kept: Sequence[Trial], costs: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Says of each rung of the fallback ladder what its float products brought and cost, by file.

    Args:
        kept: candidates.
        costs: of stage `timing`, by file.
    """
    said = {}
    for trial in (t for t in kept if t.keep_float):
        less = [t for t in kept if _same_but_float(t, trial) and set(t.keep_float) < set(trial.keep_float)]
        if not less:
            continue
        before = max(less, key=lambda t: len(t.keep_float))
        more = [name for name in trial.keep_float if name not in before.keep_float]
        gain = f"{listed(more)} kept float: {trial.score - before.score:+.1f} points on dev"
        now, then = costs.get(trial.file, {}), costs.get(before.file, {})
        if "p50_ms" in now and "p50_ms" in then:
            gain += f", {now['p50_ms'] - then['p50_ms']:+.2f} ms"
        elif "instructions" in now and "instructions" in then:
            gain += f", {(now['instructions'] - then['instructions']) / 1e6:+.2f} M instr."
        said[trial.file] = gain
    return said


def _same_but_float(one: Trial, other: Trial) -> bool:
    return (one.scheme, one.method, one.corrected) == (other.scheme, other.method, other.corrected)
