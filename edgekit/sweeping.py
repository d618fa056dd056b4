"""What the students of a sweep cost, taken of all of them at once.

A machine is not as fast in one run as in the next, so that students whose times are of several runs, some of them found
in the store, cannot be ordered by them. Instructions are counted exactly, so that those of any run compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit import devices, measured
from edgekit.artifact import Artifact, LabelledData, QuantizedGraph
from edgekit.devices import LatencyPlan, Unavailable, processor_of
from edgekit.front import INSTRUCTIONS, MILLISECONDS, Point
from edgekit.quiet import quiet_libraries
from edgekit.stage import Inputs
from edgekit.stages.benchmark import TEACHER, Benchmark, models_of
from edgekit.statistics import percentile
from edgekit.target import Target

ROUNDS = 2
"""Times those of stage `benchmark`: neighbours differ by less than a student and its teacher do."""


@dataclass(frozen=True)
class Student:
    """One that a sweep built.

    Attributes:
        structure: what it is, in words.
        accuracy: of its file, on test.
        graph: the file.
        instructions: of an inference; None where they were not counted.
        chosen: whether it is the one in the bundle.
    """

    structure: str
    accuracy: measured.Accuracy
    graph: QuantizedGraph
    instructions: measured.Instructions | None
    chosen: bool


def points(
    students: Sequence[Student],
    artifacts: Mapping[type[Artifact], Artifact],
    target: Target,
    uri: str,
    seed: int,
    benchmark: Benchmark,
) -> list[Point]:
    """Makes points of the students: of times where the device gives them, and else of instructions.

    Args:
        students: of one sweep.
        artifacts: what they share: data, vocabulary, the teacher and its graph.
        target: with its limits.
        uri: of the device.
        seed: of the draw of texts.
        benchmark: with its options: the texts and blocks are those that it takes.

    Returns:
        A point of each; none of those that nothing here takes the cost of.

    Raises:
        DeviceError: the device refused the models or broke off.
    """
    provenance, _ = devices.connect(uri).provenance(processor_of(target.device))
    times = _times(students, Inputs(artifacts, Benchmark.IN), target, uri, seed, benchmark)
    if times is not None:
        whole = times[TEACHER]
        return [_point(one, times[str(at)], whole, MILLISECONDS, str(provenance)) for at, one in enumerate(students)]
    found = []
    for one in students:
        count = one.instructions
        if count is not None and count.teacher_per_inference is not None:
            cost, whole = float(count.per_inference), count.teacher_per_inference
            found.append(_point(one, cost, whole, INSTRUCTIONS, str(count.provenance)))
    return found


def _times(
    students: Sequence[Student], inputs: Inputs, target: Target, uri: str, seed: int, benchmark: Benchmark
) -> Mapping[str, float] | None:
    """Returns the p50 in ms of each student, by its place, and of the teacher; None where the device has no clock."""
    graphs = {str(at): one.graph for at, one in enumerate(students)}
    with quiet_libraries(Benchmark.TOOLS):
        texts = benchmark.drawn(inputs[LabelledData], seed)
        models = models_of(graphs, inputs, texts, target.runtime.options)
    rounds = ROUNDS * benchmark.rounds
    plan = LatencyPlan(rounds, benchmark.block_runs, threads=target.device.threads, memory=False)
    timed = devices.connect(uri).latency(models, plan)
    if isinstance(timed, Unavailable):
        return None
    return {name: percentile([float(t) for t in one.block_ms.ravel()], 50) for name, one in timed.items()}


def _point(student: Student, cost: float, whole: float, measure: str, provenance: str) -> Point:
    return Point(
        student.structure,
        student.accuracy.artifact,
        student.accuracy.drop,
        cost,
        measure,
        whole / cost,
        student.graph.model.stat().st_size,
        provenance,
        student.chosen,
    )
