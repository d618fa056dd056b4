"""Times the artifact and the float teacher in one run on one device, over the same texts at their real lengths.

Where wall time says nothing of the target (emulation), executed instructions are counted instead; a device does one or
the other, and what it cannot do is recorded with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data, devices, manifest, measured
from edgekit.artifact import (
    FACTS,
    LabelledData,
    Latency,
    Program,
    Teacher,
    TeacherGraph,
    Vocabulary,
    file_digest,
    write_json,
)
from edgekit.devices import InstructionCount, LatencyPlan, ModelFile, Samples, TokenRows, Unavailable
from edgekit.provenance import Provenance
from edgekit.quant.findings import Finding
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.evaluate import PROCESSOR, draw, processor
from edgekit.stages.teach import encode_for_teacher
from edgekit.statistics import histogram, median_of_ratios, percentile
from edgekit.tokenization import encode, load_tokenizer

TEACHER = "teacher"
"""Its name among the models of a run."""

UNSTEADY = 0.3
"""Width of the speedup's interval, as a share of it, from which its figure is not to be relied on."""


@dataclass(frozen=True)
class Benchmark(Pass):
    """Takes latency in alternating blocks, or instruction counts.

    Attributes:
        rounds: blocks of each model.
        block_runs: timed runs a block, at least 50.
        texts: test rows that the runs go through in turn, drawn by the seed.
        counted_texts: of these, how many instructions are counted over.
    """

    rounds: int = 8
    block_runs: int = 60
    texts: int = 60
    counted_texts: int = 8

    NAME: ClassVar[str] = "benchmark"
    VERSION: ClassVar[int] = 5
    IN: ClassVar = (Program, TeacherGraph, Teacher, Vocabulary, LabelledData)
    OUT: ClassVar = Latency
    READS: ClassVar[tuple[str, ...]] = (*PROCESSOR, "device.threads", "runtime.options")
    TOOLS: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers", "numpy")
    MEASURES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.block_runs < 50:
            raise ValueError(f"block_runs is {self.block_runs}; shorter blocks than 50 run from cold caches")
        if self.rounds < 2 or self.texts < 1 or self.counted_texts < 1:
            raise ValueError("rounds must be at least 2, texts and counted_texts at least 1")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes latency.json, instructions.json and memory.json, each holding null where it was not taken."""
        texts = self.drawn(inputs[LabelledData], ctx.seed)
        models = models_of({"artifact": inputs[Program]}, inputs, texts, ctx.target["runtime.options"])
        device, threads = devices.connect(ctx.device), ctx.target["device.threads"]
        provenance, reason = device.provenance(processor(ctx.target))
        plan = LatencyPlan(rounds=self.rounds, block_runs=self.block_runs, threads=threads)
        timed = device.latency(models, plan)
        counted = device.instructions(middle_lengths(models, self.counted_texts), threads)
        unmeasured = {
            name: taken.reason
            for name, taken in (("latency", timed), ("instructions", counted))
            if isinstance(taken, Unavailable)
        }
        latency = memory = instructions = None
        if not isinstance(timed, Unavailable):
            lengths = inputs[Program].facts["lengths"]
            length = lengths[0] if len(lengths) == 1 else "dynamic"
            latency = latency_figures(timed, ctx.device, provenance, reason, threads, length)
            rss = timed["artifact"].peak_rss_bytes
            memory = None if rss is None else measured.Memory(rss, ctx.device, provenance, reason)
            for name, samples in timed.items():
                np.save(out_dir / f"{name}_ms.npy", samples.block_ms)
        if memory is None:
            unmeasured["memory"] = why_no_memory(timed)
        if not isinstance(counted, Unavailable):
            instructions = _instruction_figures(counted, ctx.device, provenance, reason)
        for name, figure in (("latency", latency), ("instructions", instructions), ("memory", memory)):
            write_json(out_dir / f"{name}.json", None if figure is None else manifest.encode(figure))
        write_json(out_dir / "unmeasured.json", unmeasured)
        taken = {"texts": len(texts), "rounds": self.rounds} if latency else {"texts": self.counted_texts}
        found = [] if latency is None else unsteady_times(latency)
        write_json(out_dir / FACTS, {"device": ctx.device, **taken, "findings": [asdict(one) for one in found]})

    def drawn(self, labelled: LabelledData, seed: int) -> list[str]:
        """Returns the texts of test that the runs go through."""
        test = data.read(labelled.path).test
        return [test[i][0] for i in draw(len(test), self.texts, seed)]


def models_of(
    programs: Mapping[str, Program], inputs: Inputs, texts: Sequence[str], options: Mapping[str, str]
) -> dict[str, tuple[ModelFile, TokenRows]]:
    """Returns the students' files by the names given, and the teacher's as `TEACHER`, each with its rows of the texts.

    Args:
        programs: of students that share the vocabulary.
        inputs: vocabulary, teacher and its graph among them.
        texts: that each model is to run.
        options: entries of the runtime's session configuration.
    """
    vocabulary, teacher = inputs[Vocabulary], inputs[TeacherGraph]
    rows = TokenRows(encode(load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), texts))
    longest = teacher.facts["longest"]
    theirs = TokenRows([row[:longest] for row in encode_for_teacher(inputs[Teacher].path, texts)])
    pad_id = vocabulary.facts["pad_token_id"]
    models = {name: (_model_file(program, pad_id, options), rows) for name, program in programs.items()}
    return models | {TEACHER: (_model_file(teacher, teacher.facts["pad_token_id"], options), theirs)}


def unsteady_times(latency: measured.Latency) -> list[Finding]:
    """Finds a speedup that the rounds disagree on: something else ran on the device."""
    speedup, low, high = latency.speedup, latency.speedup_low, latency.speedup_high
    if speedup is None or low is None or high is None or high - low <= UNSTEADY * speedup:
        return []
    return [
        Finding(
            "unsteady-times",
            latency.device,
            f"{speedup:.2f} times the teacher's speed, {low:.2f} to {high:.2f} over {latency.rounds} rounds",
            "the next run gives another figure",
            "edgekit bench when nothing else runs there; a build measures anew with --set benchmark.rounds=16",
        )
    ]


def why_no_memory(timed: Mapping[str, Samples] | Unavailable) -> str:
    """Says why there is no peak memory: it is taken where times are."""
    if isinstance(timed, Unavailable):
        return "taken along with latency only: elsewhere it would be that of the emulator too"
    return "the device does not report a process's peak memory"


def _model_file(graph: Program | TeacherGraph, pad_id: int, options: Mapping[str, str]) -> ModelFile:
    path = graph.portable if isinstance(graph, Program) else graph.model
    return ModelFile(path, file_digest(path), pad_id, graph.facts["min_runtime"], options)


def middle_lengths(
    models: Mapping[str, tuple[ModelFile, TokenRows]], count: int
) -> dict[str, tuple[ModelFile, TokenRows]]:
    """Picks rows at evenly spaced quantiles of the first model's lengths, the same texts for each: few, but typical."""
    _, first = next(iter(models.values()))
    order = np.argsort([len(row) for row in first.ids], kind="stable")
    places = np.linspace(0, len(order), min(count, len(order)), endpoint=False) + len(order) / count / 2
    chosen = [int(order[min(int(place), len(order) - 1)]) for place in places]
    return {name: (model, TokenRows([rows.ids[i] for i in chosen])) for name, (model, rows) in models.items()}


def latency_figures(
    timed: Mapping[str, Samples], device: str, provenance: Provenance, reason: str, threads: int, length: int | str
) -> measured.Latency:
    """Makes the manifest's figures of the samples of the artifact and, where it was timed too, the teacher."""
    artifact, teacher = timed["artifact"], timed.get(TEACHER)
    times = [float(t) for t in artifact.block_ms.ravel()]
    theirs = [float(t) for t in teacher.block_ms.ravel()] if teacher else None
    ratio = None
    if teacher:
        ratio = median_of_ratios(block_medians(teacher), block_medians(artifact))
    edges, ours, other = histogram(times, theirs)
    return measured.Latency(
        device=device,
        provenance=provenance,
        reason=reason,
        threads=threads,
        batch=1,
        sequence_length=length,  # type: ignore[arg-type]  # an integer or "dynamic", as the target's
        runs=len(times),
        rounds=len(artifact.block_ms),
        p50_ms=percentile(times, 50),
        p90_ms=percentile(times, 90),
        p95_ms=percentile(times, 95),
        p99_ms=percentile(times, 99),
        cold_ms=artifact.cold_ms,
        teacher_p50_ms=percentile(theirs, 50) if theirs else None,
        teacher_cold_ms=teacher.cold_ms if teacher else None,
        speedup=ratio.median if ratio else None,
        speedup_low=ratio.low if ratio else None,
        speedup_high=ratio.high if ratio else None,
        histogram=measured.Histogram(tuple(edges), tuple(ours), tuple(other) if other else None),
    )


def block_medians(samples: Samples) -> list[float]:
    """Returns the median time of each block, in milliseconds."""
    return [float(median) for median in np.median(samples.block_ms, axis=1)]


def _instruction_figures(
    counted: Mapping[str, InstructionCount], device: str, provenance: Provenance, reason: str
) -> measured.Instructions:
    overhead = counted["artifact"].runner_overhead
    return measured.Instructions(
        per_inference=round(counted["artifact"].per_inference),
        teacher_per_inference=round(counted[TEACHER].per_inference),
        device=device,
        provenance=provenance,
        reason=f"{reason}; mean of {counted['artifact'].rows} rows, net of {overhead:,.0f} of the runner itself".lstrip(
            "; "
        ),
    )
