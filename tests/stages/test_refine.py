"""The stage that scales a table of costs to what shapes at the edge of a limit take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cost_tables import table
from test_evaluate import NullDevice, run_on

from edgekit.artifact import Costs, write_json
from edgekit.codec import encode
from edgekit.devices import InstructionCount
from edgekit.errors import UnmeasurableError
from edgekit.provenance import Provenance
from edgekit.search.costs import read_costs, shipped_family
from edgekit.search.shapes import Shape
from edgekit.stages.refine import Refine

SHAPES = (Shape(32, 8, (2,), (64,), 3), Shape(32, 8, (1, 2), (32, 16), 3))
LENGTHS = (6, 10)
TAKEN = ((1.1, 1.3), (1.2, 1.2))
"""Of each shape, how many times what the table says its static and its dynamic form take."""


class DearerDevice(NullDevice):
    """A device without hardware that counts so many times what a table says, or nothing."""

    uri = "null"

    def __init__(self, counts: bool) -> None:
        super().__init__(Provenance.SIMULATED)
        self.counts = counts

    def instructions(self, models: Any, threads: int, together: bool = False) -> Any:
        if not self.counts:
            return self.counted
        known, found = table(), {}
        for name, (_, rows) in models.items():
            place, family = name.split()
            factor = TAKEN[int(place)][("static", "dynamic").index(family)]
            counts = tuple(factor * known.cost(SHAPES[int(place)], [len(row)], [family]) for row in rows.ids)
            found[name] = InstructionCount(sum(counts) / len(counts), 1.0, len(counts), counts)
        return found


def refined(device: Any, families: tuple[str, ...], tmp_path: Path, lengths: tuple[int, ...] = LENGTHS) -> Costs:
    given = Costs(tmp_path / "table", "")
    given.path.mkdir()
    write_json(given.file, encode(table()))
    made = run_on(device, Refine(SHAPES, lengths, families, 2), [given], tmp_path / "refined")
    assert isinstance(made, Costs)
    return made


@pytest.mark.parametrize("families", [("static",), ("dynamic",), ("static", "dynamic")])
def test_the_table_is_scaled_to_the_shape_that_takes_most_beside_what_it_says(
    families: tuple[str, ...], tmp_path: Path
) -> None:
    made, known = refined(DearerDevice(counts=True), families, tmp_path), table()
    ratios = []
    for shape, factors in zip(SHAPES, TAKEN, strict=True):
        forms = zip(("static", "dynamic"), factors, strict=True)
        takes = {
            family: factor * known.cost(shape, LENGTHS, [family]) for family, factor in forms if family in families
        }
        ratios.append(takes[shipped_family(takes)] / known.cost(shape, LENGTHS, families))
    factor = max(ratios)
    assert made.facts["factor"] == pytest.approx(factor)
    assert read_costs(made.file).cost(SHAPES[0], LENGTHS, families) == pytest.approx(
        factor * known.cost(SHAPES[0], LENGTHS, families)
    )
    if len(families) == 1:
        assert factor == pytest.approx(max(of[("static", "dynamic").index(families[0])] for of in TAKEN))


def test_rows_of_two_tokens_are_run_too(tmp_path: Path) -> None:
    made = refined(DearerDevice(counts=True), ("static",), tmp_path, lengths=(2, 3))
    assert made.facts["factor"] == pytest.approx(max(static for static, _ in TAKEN))


def test_a_device_that_gives_no_cost_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnmeasurableError, match="gives no cost"):
        refined(DearerDevice(counts=False), ("static",), tmp_path)
