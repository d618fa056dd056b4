"""What a sweep's students cost: of one run where there is a clock, else by instructions, and nothing made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import TinyBuild, made
from manifests import accuracy

from edgekit import devices
from edgekit.artifact import Artifact, QuantizedGraph
from edgekit.devices import LatencyPlan, Samples, Unavailable
from edgekit.front import Point
from edgekit.measured import Accuracy, Instructions
from edgekit.provenance import Provenance
from edgekit.stages.benchmark import Benchmark
from edgekit.sweeping import ROUNDS, Student, points
from edgekit.target import load_target

BENCHMARK = Benchmark(rounds=3, block_runs=50, texts=10)
CLOCKLESS = Unavailable("it has no clock")


@dataclasses.dataclass
class Board:
    """A device that says what a test gives it, and keeps what it was asked.

    Attributes:
        took: medians in ms of the models in their order, or why there are none.
        asked: models and plan of each run.
    """

    took: list[float] | Unavailable
    asked: list[tuple[Mapping[str, Any], LatencyPlan]] = dataclasses.field(default_factory=list)

    def provenance(self, wanted: Any) -> tuple[Provenance, str]:
        return Provenance.MEASURED, ""

    def latency(self, models: Mapping[str, Any], plan: LatencyPlan) -> Mapping[str, Samples] | Unavailable:
        self.asked.append((models, plan))
        if isinstance(self.took, Unavailable):
            return self.took
        skewed = np.random.default_rng(0).permutation(np.linspace(0, 2, plan.rounds * plan.block_runs + 1)[:-1] ** 3)
        blocks = (skewed / np.median(skewed)).reshape(plan.rounds, plan.block_runs)
        return {
            name: Samples(1, 1, of * blocks, blocks[:, 0], None) for name, of in zip(models, self.took, strict=True)
        }


@pytest.fixture
def artifacts(tiny_build: TinyBuild) -> dict[type[Artifact], Artifact]:
    """What the students of a sweep share, of a finished build."""
    return {kind: made(tiny_build, kind) for kind in Benchmark.IN}


def right(score: int) -> Accuracy:
    return accuracy(lost=20, gained=10, examples=1000, right=score)


def of(
    artifacts: Mapping[type[Artifact], Artifact], counted: Mapping[str, Instructions | None], board: Board
) -> list[Point]:
    """Returns the points of students of these names; what is called "b" is the one in the bundle."""
    graph = artifacts[QuantizedGraph]
    assert isinstance(graph, QuantizedGraph)
    students = [
        Student(name, right(900 + at), graph, one, name == "b") for at, (name, one) in enumerate(counted.items())
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "connect", lambda uri: board)
        return points(students, artifacts, load_target("x86-64"), "board", 0, BENCHMARK)


def count(own: int, teacher: int | None) -> Instructions:
    return Instructions(own, teacher, "qemu:cortex-a76", Provenance.SIMULATED, "")


def test_times_are_of_one_run_of_all_and_the_teacher(artifacts: dict[type[Artifact], Artifact]) -> None:
    board = Board([0.5, 0.25, 4.0])
    found = of(artifacts, {"a": count(9, 90), "b": None}, board)
    assert [(one.structure, one.cost, one.ratio, one.measure, one.provenance, one.chosen) for one in found] == [
        ("a", pytest.approx(0.5), pytest.approx(8), "ms", "measured", False),
        ("b", pytest.approx(0.25), pytest.approx(16), "ms", "measured", True),
    ]
    assert [(one.score, one.drop) for one in found] == [(right(n).artifact, right(n).drop) for n in (900, 901)]
    ((models, plan),) = board.asked
    file = artifacts[QuantizedGraph].path / "model.onnx"
    assert [Path(models[name][0].path) == file for name in models] == [True, True, False]
    assert list(models)[-1] == "teacher"
    assert (plan.rounds, plan.block_runs, plan.memory) == (ROUNDS * BENCHMARK.rounds, BENCHMARK.block_runs, False)
    assert all(len(rows.ids) == BENCHMARK.texts for _, rows in models.values())
    assert all(one.bytes == file.stat().st_size for one in found)


def test_without_a_clock_instructions_count_and_what_nobody_counted_is_left_out(
    artifacts: dict[type[Artifact], Artifact],
) -> None:
    counted = {"a": count(2_000_000, 9_000_000), "b": None, "c": count(5, None)}
    found = of(artifacts, counted, Board(CLOCKLESS))
    assert [(one.structure, one.cost, one.ratio, one.measure, one.provenance) for one in found] == [
        ("a", 2_000_000, 4.5, "instructions", "simulated")
    ]


def test_this_machine_times_them(artifacts: dict[type[Artifact], Artifact]) -> None:
    graph = artifacts[QuantizedGraph]
    assert isinstance(graph, QuantizedGraph)
    students = [Student(name, right(900), graph, None, False) for name in ("a", "b")]
    found = points(students, artifacts, load_target("x86-64"), "local", 0, BENCHMARK)
    assert [one.structure for one in found] == ["a", "b"]
    assert all(one.cost > 0 and one.ratio > 0 for one in found)
    assert found[0].cost * found[0].ratio == pytest.approx(found[1].cost * found[1].ratio), "of one teacher"
