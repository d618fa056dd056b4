"""Measures the shapes at the edge of a limit, and scales a table of costs to what they take.

A table is off by a few percent for shapes that it does not hold. That decides nothing between structures of which one
costs half as much as the next, but a limit in milliseconds or instructions is met or it is not: what is trained for
twenty minutes should not fail by three percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgekit import devices
from edgekit.artifact import FACTS, Artifact, Costs, write_json
from edgekit.codec import encode
from edgekit.search.costs import read_costs, shipped_family
from edgekit.search.shapes import Shape
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.profile import Profile, costs_of


@dataclass(frozen=True)
class Refine(Pass):
    """Scales a table of costs; `search` has it run.

    Attributes:
        shapes: to measure.
        lengths: tokens of the rows that they are measured at.
        families: of integer forms that may be shipped.
        rounds: blocks of each model where times are taken, as in `profile`.
    """

    shapes: tuple[Shape, ...]
    lengths: tuple[int, ...]
    families: tuple[str, ...]
    rounds: int

    NAME: ClassVar[str] = "refine"
    VERSION: ClassVar[int] = 2
    IN: ClassVar[tuple[type[Artifact], ...]] = (Costs,)
    OUT: ClassVar[type[Artifact]] = Costs
    READS: ClassVar[tuple[str, ...]] = Profile.READS
    TOOLS: ClassVar[tuple[str, ...]] = Profile.TOOLS
    MEASURES: ClassVar[bool] = True

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes costs.json: by the shape that takes most beside what the table says.

        Raises:
            UnmeasurableError: the device gives neither times nor counts.
        """
        table = read_costs(inputs[Costs].file)
        machine = devices.connect(ctx.device)
        taken = costs_of(self.shapes, self.lengths, ctx.target, machine, self.rounds, ctx.seed, ctx.progress)
        ratios = []
        for shape, own in zip(self.shapes, taken.costs, strict=True):
            costs = {family: sum(own[family]) / len(self.lengths) for family in self.families}
            measured = costs[shipped_family(costs)]
            ratios.append(measured / table.cost(shape, self.lengths, self.families))
        write_json(Costs(out_dir, "").file, encode(table.scaled(max(ratios))))
        write_json(out_dir / FACTS, {"factor": max(ratios), "models": len(self.shapes), "lengths": list(self.lengths)})
