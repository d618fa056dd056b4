"""What a sweep's students cost: each its own file's, of one run with the teacher, and nothing made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builds import TinyBuild, made
from manifests import accuracy

from edgekit import data, devices
from edgekit.artifact import Artifact, LabelledData, Program
from edgekit.devices import InstructionCount, LatencyPlan, Samples, Unavailable
from edgekit.errors import DeviceError, UnmeasurableError
from edgekit.front import Front
from edgekit.measured import Accuracy
from edgekit.provenance import Provenance
from edgekit.stages.benchmark import Benchmark
from edgekit.stages.evaluate import draw
from edgekit.sweeping import MORE_ROUNDS, Swept, front_of
from edgekit.target import load_target

BENCHMARK = Benchmark(rounds=3, block_runs=50, texts=10, counted_texts=4)
STUDENTS = 12
TEACHER_COST = 6.0
COUNTERLESS = Unavailable("it has no counter")

Artifacts = dict[type[Artifact], Artifact]


@dataclasses.dataclass
class Board:
    """A device on which a student costs as many units as its file has been padded by.

    Attributes:
        clock, counter: why it has none; None where it does.
        drift: how many times slower the machine is in the last round than in the first.
        noise: how many times slower a model at most is in a round than it could be.
        asked: what was run, with the plan or the threads.
    """

    clock: Unavailable | None = None
    counter: Unavailable | None = COUNTERLESS
    drift: float = 1.0
    noise: float = 0.0
    asked: list[tuple[Mapping[str, Any], Any]] = dataclasses.field(default_factory=list)

    def provenance(self, wanted: Any) -> tuple[Provenance, str]:
        return Provenance.ESTIMATED, "as the test says"

    def timeless(self) -> Unavailable | None:
        return self.clock

    def countless(self) -> Unavailable | None:
        return self.counter

    def latency(self, models: Mapping[str, Any], plan: LatencyPlan) -> Mapping[str, Samples]:
        self.asked.append((models, plan))
        random = np.random.default_rng(0)
        drift = np.geomspace(1, self.drift, plan.rounds)[:, None]
        taken = {}
        for name, (model, _) in models.items():
            skewed = random.permuted(np.linspace(0.5, 1.5, plan.block_runs + 1))[1:] ** 2
            loud = 1 + self.noise * random.random((plan.rounds, 1))
            taken[name] = Samples(1, 1, cost(model.path) * drift * loud * skewed[None] / np.median(skewed), drift, None)
        return taken

    def instructions(self, models: Mapping[str, Any], threads: int) -> Mapping[str, InstructionCount]:
        self.asked.append((models, threads))
        return {name: InstructionCount(1e6 * cost(model.path), 0.0, 4) for name, (model, _) in models.items()}


def cost(path: Path) -> float:
    """Returns what a padded file is said to cost; the teacher's, which is not, costs most."""
    told = [int(one.value) for one in onnx.load(path).metadata_props if one.key == "cost"]
    return told[0] / STUDENTS if told else TEACHER_COST


def right(score: int) -> Accuracy:
    return accuracy(lost=20, gained=10, examples=1000, right=score)


@pytest.fixture
def artifacts(tiny_build: TinyBuild) -> Artifacts:
    """What the students of a sweep share, of a finished build."""
    return {kind: made(tiny_build, kind) for kind in Benchmark.IN}


@pytest.fixture
def students(artifacts: Artifacts, tmp_path: Path) -> list[Swept]:
    """A dozen of falling cost and accuracy, each with a file of its own; the third is in the bundle."""
    program, made_of = artifacts[Program], list[Swept]()
    assert isinstance(program, Program)
    for at in range(STUDENTS):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        model = onnx.load(program.model)
        onnx.helper.set_model_props(model, {"cost": str(STUDENTS - at), "pad": "x" * 10 * at})
        onnx.save(model, folder / "model.onnx")
        facts = dict(program.facts) | {"bytes": (folder / "model.onnx").stat().st_size}
        (folder / "facts.json").write_text(json.dumps(facts))
        made_of.append(Swept(f"layers {at}", right(950 - at), Program(folder, ""), chosen=at == 2))
    return made_of


def front(students: list[Swept], artifacts: Artifacts, board: Board, notes: list[str] | None = None) -> Front:
    """Measures on a board."""

    def connect(uri: str) -> Board:
        assert uri == "board"
        return board

    noted = (notes if notes is not None else []).append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "connect", connect)
        return front_of(students, artifacts, load_target("x86-64"), "board", 7, BENCHMARK, noted)


def check_points(found: Front, students: list[Swept], unit: float) -> None:
    """Asserts that each point is of its own student's file."""
    assert [one.structure for one in found.points] == [one.structure for one in students]
    for at, (one, student) in enumerate(zip(found.points, students, strict=True)):
        assert one.cost == pytest.approx(unit * (STUDENTS - at) / STUDENTS)
        assert one.ratio == pytest.approx(TEACHER_COST * STUDENTS / (STUDENTS - at))
        assert one.bytes == student.program.model.stat().st_size
        assert (one.score, one.drop) == (right(950 - at).artifact, right(950 - at).drop)
        assert one.chosen is (at == 2)


def test_times_are_of_one_run_of_all_and_the_teacher(students: list[Swept], artifacts: Artifacts) -> None:
    board, notes = Board(), list[str]()
    found = front(students, artifacts, board, notes)
    check_points(found, students, unit=1.0)
    assert (found.target, found.beaten) == ("x86-64", ())
    basis = found.basis
    assert (basis.device, basis.provenance, basis.reason) == ("board", Provenance.ESTIMATED, "as the test says")
    assert (basis.measure, basis.teacher, basis.unsteady) == ("ms", pytest.approx(TEACHER_COST), 0)
    ((models, plan),) = board.asked
    assert len(models) == STUDENTS + 1
    assert (plan.rounds, plan.block_runs, plan.threads) == (MORE_ROUNDS * BENCHMARK.rounds, BENCHMARK.block_runs, 1)
    assert not plan.memory
    test = data.read(artifacts[LabelledData].path).test
    texts = [test[i][0] for i in draw(len(test), BENCHMARK.texts, 7)]
    assert BENCHMARK.drawn(LabelledData(artifacts[LabelledData].path, ""), 7) == texts
    assert all(len(rows.ids) == len(texts) for _, rows in models.values())
    assert notes == [f"x86-64: the sweep's students ({STUDENTS}) and the teacher are measured beside one another"]


def test_a_machine_that_slows_down_changes_no_ratio(students: list[Swept], artifacts: Artifacts) -> None:
    steady, drifting = (front(students, artifacts, Board(drift=drift)) for drift in (1.0, 3.0))
    assert [p.ratio for p in drifting.points] == pytest.approx([p.ratio for p in steady.points])


def test_times_that_the_rounds_disagree_on_are_told(students: list[Swept], artifacts: Artifacts) -> None:
    notes = list[str]()
    found = front(students, artifacts, Board(noise=3.0), notes)
    assert found.basis.unsteady == STUDENTS
    assert len(notes) == 2
    assert f"the rounds disagree on {STUDENTS} of {STUDENTS} students' times" in notes[1]
    assert "--set benchmark.rounds=6" in notes[1]


def test_what_another_beats_is_counted(students: list[Swept], artifacts: Artifacts) -> None:
    worse = dataclasses.replace(students[3], accuracy=right(900))
    found = front([*students[:3], worse, *students[4:]], artifacts, Board())
    assert [one.structure for one in found.beaten] == [worse.structure]
    assert worse.structure not in [one.structure for one in found.points]


def test_without_a_clock_instructions_count(students: list[Swept], artifacts: Artifacts) -> None:
    board = Board(clock=Unavailable("it has no clock"), counter=None)
    found = front(students, artifacts, board)
    check_points(found, students, unit=1e6)
    assert (found.basis.measure, found.basis.teacher) == ("instructions", 1e6 * TEACHER_COST)
    ((models, threads),) = board.asked
    assert threads == 1
    assert all(len(rows.ids) == BENCHMARK.counted_texts for _, rows in models.values())


def test_a_device_that_tells_no_cost_is_refused(students: list[Swept], artifacts: Artifacts) -> None:
    with pytest.raises(UnmeasurableError, match="board cannot order a sweep's students: it has no clock"):
        front(students, artifacts, Board(clock=Unavailable("it has no clock")))


def test_a_device_that_breaks_off_leaves_word_that_the_bundle_is_there(
    students: list[Swept], artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise DeviceError("ended by signal 9")

    monkeypatch.setattr(Board, "latency", broken)
    with pytest.raises(DeviceError, match=r"the bundle is complete, but .* ended by signal 9\. Repeat"):
        front(students, artifacts, Board())


def test_this_machine_times_them(students: list[Swept], artifacts: Artifacts) -> None:
    notes = list[str]()
    found = front_of(students[:2], artifacts, load_target("x86-64"), "local", 0, BENCHMARK, notes.append)
    assert len(found.points) + len(found.beaten) == 2
    assert found.basis.measure == "ms"
    assert all(0.1 < one.ratio < 100 for one in found.points)
    assert found.basis.teacher < 100
