"""Searches of tests: run by the stage itself on a tiny teacher, every stage that it conducts really run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import tiny
from builds import write_target

from edgekit.artifact import Costs, Plan, write_json
from edgekit.codec import encode
from edgekit.search.costs import read_costs
from edgekit.stage import Inputs
from edgekit.stages.refine import Refine
from edgekit.stages.search import Search

QUICK: dict[str, Any] = {"epochs": 3, "probe_epochs": 1, "min_steps": 0, "trainings": 4}
GIVEN = {"prune": {"learning_rate": 3e-3}}


def search(
    artifacts: dict[Any, Any],
    folder: Path,
    target: str = "x86-64",
    given_options: Any = None,
    factor: float = 1.0,
    **options: Any,
) -> tuple[Plan, list[Any]]:
    """Runs a search; returns its plan and the stages that it had run.

    Shapes that it has measured take `factor` times what the table says.
    """
    stage = Search(**{**QUICK, **options}).knowing(given_options or GIVEN)
    out, ran = folder / "out", []
    out.mkdir(parents=True)
    ctx = tiny.context(folder / "resume", stage, target)

    def make(other: Any, given: Any) -> Any:
        ran.append(other)
        if isinstance(other, Refine):  # of a device that there is not
            scaled = Costs(folder / f"{len(ran)}-{other.NAME}", "")
            scaled.path.mkdir()
            write_json(scaled.file, encode(read_costs(given[Costs].file).scaled(factor)))
            return scaled
        inputs = [given[kind] for kind in other.IN]
        return tiny.run_stage(other, inputs, folder / f"{len(ran)}-{other.NAME}")

    ctx = dataclasses.replace(ctx, make=make)
    stage.run(Inputs(artifacts, stage.IN), out, ctx)
    return Plan(out, ""), ran


def narrow_target(folder: Path) -> str:
    """Writes a target with small multiples, on which even a tiny teacher has a ladder of many rungs."""
    narrow = ("head_multiple = 2", "head_multiple = 1"), ("ffn_multiple = 32", "ffn_multiple = 8")
    return str(write_target(folder / "narrow.toml", *narrow))
