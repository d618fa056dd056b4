"""Chooses the candidate that is shipped: the fastest on the device of those that answer well enough on dev."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekit.artifact import FACTS, Candidates, QuantizedGraph, Timings, write_json
from edgekit.backends import load_backend
from edgekit.provenance import Provenance
from edgekit.quant.findings import NO_COST, in_order
from edgekit.search.costs import FASTER
from edgekit.search.trials import Trial, needed
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.timing import candidates_of


@dataclass(frozen=True)
class Select(Pass):
    """Selects by accuracy on dev, then by cost."""

    NAME: ClassVar[str] = "select"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Candidates, Timings)
    OUT: ClassVar = QuantizedGraph
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "gate.max_drop", "device.arch", "device.isa", "quant.ops")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the chosen file and what it is; nothing of the limit, so that another need not run what follows."""
        chosen, _ = chosen_of(inputs[Candidates], inputs[Timings], ctx.target["gate.max_drop"])
        backend = load_backend(ctx.target["runtime.name"])
        out = out_dir / f"model{backend.SUFFIX}"
        shutil.copyfile(inputs[Candidates].path / chosen.file, out)
        described, ops = backend.describe(out), ctx.target["quant.ops"]
        found = backend.findings(
            out, ctx.target["device.arch"], ctx.target["device.isa"], backend.OPS if ops == "all" else ops
        )
        write_json(
            out_dir / FACTS,
            {
                "name": chosen.name,
                "family": chosen.family,
                "scheme": chosen.scheme,
                "method": chosen.method,
                "bytes": chosen.bytes,
                "nodes": described.nodes,
                "min_runtime": described.min_runtime,
                "dev_score": chosen.score,
                "kept_float": list(chosen.keep_float),
                "findings": [dataclasses.asdict(finding) for finding in in_order(found) if finding.cost != NO_COST],
            },
        )


def chosen_of(candidates: Candidates, timings: Timings, max_drop: float) -> tuple[Trial, dict[str, str]]:
    """Chooses among what the stages before wrote; see `choose`.

    Args:
        candidates: of stage `quantize`.
        timings: of stage `timing`.
        max_drop: the gate's limit, in points.
    """
    facts = candidates.facts
    limit = needed(facts["teacher_score"], facts["float_score"], max_drop, facts["max_loss"])
    taken = json.loads((timings.path / "timings.json").read_text(encoding="utf-8"))
    return choose(candidates_of(candidates), limit, taken)


def choose(trials: Sequence[Trial], least: float, timings: Mapping[str, Any]) -> tuple[Trial, dict[str, str]]:
    """Chooses, and says of each trial why.

    Args:
        trials: the one to beat first.
        least: score on dev from which one passes.
        timings: of stage `timing`.

    Returns:
        The chosen trial; a reason by file.
    """
    costs = timings["costs"]
    usable = costs if timings["provenance"] != Provenance.ESTIMATED else {}
    passing = [trial for trial in trials if trial.score >= least]
    if not passing:
        best = max(trials, key=lambda trial: (trial.score, -trial.logit_rmse))
        missed = f"below {least:.2f} % on dev"
        return best, {t.file: f"the best of those, all {missed}" if t is best else missed for t in trials}
    # Of the backend's first family the one with the fewest float products; the first of those is the one to beat.
    families = [trial.family for trial in trials]
    beat = min(passing, key=lambda t: (families.index(t.family), len(t.keep_float)))
    limit = FASTER * usable[beat.file]["ratio"] if usable else 0.0
    faster = [t for t in passing if usable and usable[t.file]["ratio_high"] < limit]
    chosen = min(faster, key=lambda t: float(usable[t.file]["ratio"]), default=beat)
    reasons = {}
    for trial in trials:
        if trial is chosen:
            reasons[trial.file] = _why(trials, passing, bool(faster), bool(usable), timings)
        elif trial.score < least:
            reasons[trial.file] = f"{trial.score:.2f} % on dev, {least:.2f} % needed"
        elif not usable:
            reasons[trial.file] = "not compared in time"
        else:
            ratio = usable[trial.file]["ratio"] / usable[chosen.file]["ratio"]
            less = ", not surely a tenth less" if ratio < 1 else ""
            reasons[trial.file] = f"{ratio:.2f} times the shipped one's {_measure(timings)}{less}"
    return chosen, reasons


def _why(
    trials: Sequence[Trial], passing: Sequence[Trial], cheapest: bool, usable: bool, timings: Mapping[str, Any]
) -> str:
    if len(trials) == 1:
        return "accurate enough on dev, and the only one that was made"
    if len(passing) == 1:
        return "the only one that is accurate enough on dev"
    if cheapest:
        return f"accurate enough on dev, and of those costs least in {_measure(timings)}"
    if usable:
        return f"accurate enough on dev, and of those none costs a tenth less in {_measure(timings)}"
    if timings["costs"]:
        return "accurate enough on dev; times on another processor than the target's do not decide"
    return "accurate enough on dev; the device took no times"


def _measure(timings: Mapping[str, Any]) -> str:
    """Says what the device took: time, or instructions where time says nothing."""
    return "instructions" if any("instructions" in cost for cost in timings["costs"].values()) else "time"
