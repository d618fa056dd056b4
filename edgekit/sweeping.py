"""What the students of a sweep cost, taken of all of them and the teacher in one run.

A machine is not as fast in one run as in the next, so that students whose times are of several runs, some of them found
in the store, cannot be ordered by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit import devices, measured
from edgekit.artifact import Artifact, LabelledData, Program
from edgekit.devices import Device, LatencyPlan, ModelFile, TokenRows, Unavailable, processor_of
from edgekit.errors import DeviceError, UnmeasurableError
from edgekit.front import INSTRUCTIONS, MILLISECONDS, Basis, Front, Point, unbeaten
from edgekit.quiet import quiet_libraries
from edgekit.stage import Inputs
from edgekit.stages.benchmark import TEACHER, UNSTEADY, Benchmark, block_medians, middle_lengths, models_of
from edgekit.statistics import median_of_ratios, percentile
from edgekit.target import Target

MORE_ROUNDS = 2
"""Times those of stage `benchmark`: neighbours differ by less than a student and its teacher do."""


@dataclass(frozen=True)
class Swept:
    """A student that a sweep built.

    Attributes:
        structure: what it is, in words.
        accuracy: of its file, on test.
        program: of the student.
        chosen: whether it is the one in the bundle.
    """

    structure: str
    accuracy: measured.Accuracy
    program: Program
    chosen: bool


def front_of(
    students: Sequence[Swept],
    artifacts: Mapping[type[Artifact], Artifact],
    target: Target,
    uri: str,
    seed: int,
    benchmark: Benchmark,
    noted: Callable[[str], None],
) -> Front:
    """Measures what students cost, times where the device gives them and else instructions, and returns the front.

    Args:
        students: of one sweep, at least one.
        artifacts: of the build: data, vocabulary, the teacher and its graph among them.
        target: whose processor, threads and runtime options count.
        uri: of the device.
        seed: of the draw of texts.
        benchmark: with its options: the texts and blocks are those that it takes.
        noted: is told what goes on, and of times that are not to be relied on.

    Raises:
        UnmeasurableError: the device gives neither times nor counts.
        DeviceError: it refused the models or broke off.
    """
    device, inputs = devices.connect(uri), Inputs(artifacts, Benchmark.IN)
    timeless, countless = device.timeless(), device.countless()
    if timeless is not None and countless is not None:
        raise UnmeasurableError(f"{target.name}: {uri} cannot order a sweep's students: {timeless.reason}")
    noted(f"{target.name}: the sweep's students ({len(students)}) and the teacher are measured beside one another")
    names = [f"student {place}" for place in range(len(students))]
    with quiet_libraries(Benchmark.TOOLS):
        texts, programs = benchmark.drawn(inputs[LabelledData], seed), [one.program for one in students]
        models = models_of(dict(zip(names, programs, strict=True)), inputs, texts, target.runtime.options)
    try:
        measure, teacher, ratio_of, unsteady = (
            (MILLISECONDS, *_times(device, models, benchmark, target.device.threads))
            if timeless is None
            else (INSTRUCTIONS, *_counts(device, models, benchmark, target.device.threads))
        )
    except DeviceError as error:
        memory = "; where its memory does not hold them all, set a limit that leaves fewer" if timeless is None else ""
        raise DeviceError(
            f"{target.name}: the bundle is complete, but the sweep's students could not be measured: {error}. Repeat "
            f"the command to try again: what was trained is kept{memory}"
        ) from error
    if unsteady:
        noted(
            f"{target.name}: the rounds disagree on {unsteady} of {len(students)} students' times, so that their "
            "order may be another in the next run; sweep when nothing else runs there, or with "
            f"--set benchmark.rounds={2 * benchmark.rounds}"
        )
    provenance, reason = device.provenance(processor_of(target.device))
    points = [
        Point(
            structure=one.structure,
            score=one.accuracy.artifact,
            drop=one.accuracy.drop,
            cost=teacher / ratio_of[name],
            ratio=ratio_of[name],
            bytes=int(one.program.facts["bytes"]),
            chosen=one.chosen,
        )
        for one, name in zip(students, names, strict=True)
    ]
    left = unbeaten(points)
    basis = Basis(uri, provenance, reason, measure, teacher, unsteady)
    others = sorted((one for one in points if one not in left), key=lambda one: -one.score)
    return Front(target.name, basis, left, tuple(others))


def _times(
    device: Device, models: Mapping[str, tuple[ModelFile, TokenRows]], benchmark: Benchmark, threads: int
) -> tuple[float, dict[str, float], int]:
    """Returns the teacher's p50 in ms, by name how many times less each student takes, and how many are unsteady."""
    rounds = MORE_ROUNDS * benchmark.rounds
    plan = LatencyPlan(rounds=rounds, block_runs=benchmark.block_runs, threads=threads, memory=False)
    timed = device.latency(models, plan)
    assert not isinstance(timed, Unavailable), "`timeless` said that there are times"
    medians = {name: block_medians(samples) for name, samples in timed.items()}
    ranges = {name: median_of_ratios(medians[TEACHER], one) for name, one in medians.items() if name != TEACHER}
    unsteady = sum(one.high - one.low > UNSTEADY * one.median for one in ranges.values())
    p50 = percentile([float(t) for t in timed[TEACHER].block_ms.ravel()], 50)
    return p50, {name: one.median for name, one in ranges.items()}, unsteady


def _counts(
    device: Device, models: Mapping[str, tuple[ModelFile, TokenRows]], benchmark: Benchmark, threads: int
) -> tuple[float, dict[str, float], int]:
    """Returns the teacher's instructions, by name how many times fewer each student executes, and that none wander."""
    counted = device.instructions(middle_lengths(models, benchmark.counted_texts), threads)
    assert not isinstance(counted, Unavailable), "`countless` said that there are counts"
    teacher = counted[TEACHER].per_inference
    return teacher, {name: teacher / one.per_inference for name, one in counted.items() if name != TEACHER}, 0
