"""Takes what each integer candidate costs on the device: time, or instructions where time says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekit import data, devices
from edgekit.artifact import FACTS, Candidates, LabelledData, Timings, Vocabulary, file_digest, write_json
from edgekit.devices import LatencyPlan, ModelFile, TokenRows, Unavailable
from edgekit.search.trials import Trial, from_facts
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.benchmark import block_medians, middle_lengths
from edgekit.stages.evaluate import PROCESSOR, draw, processor
from edgekit.statistics import median_of_ratios, percentile
from edgekit.tokenization import encode, load_tokenizer


@dataclass(frozen=True)
class Time(Pass):
    """Runs the candidates in alternating blocks on dev texts, or counts their instructions.

    Attributes:
        rounds: blocks of each candidate, at least 6: fewer have no interval of 95 %, and a loaded machine then decides.
        block_runs: timed runs a block, at least 50.
        texts: dev rows that the runs go through in turn, drawn by the seed.
        counted_texts: of these, how many instructions are counted over.
    """

    rounds: int = 12
    block_runs: int = 50
    texts: int = 60
    counted_texts: int = 3

    NAME: ClassVar[str] = "timing"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Candidates, Vocabulary, LabelledData)
    OUT: ClassVar = Timings
    READS: ClassVar[tuple[str, ...]] = (*PROCESSOR, "device.threads", "runtime.options")
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")
    MEASURES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.block_runs < 50:
            raise ValueError(f"block_runs is {self.block_runs}; shorter blocks than 50 run from cold caches")
        if self.rounds < 6 or self.texts < 1 or self.counted_texts < 1:
            raise ValueError("rounds must be at least 6, texts and counted_texts at least 1")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes timings.json: what was taken, on what, and each candidate's figures by its file."""
        device = devices.connect(ctx.device)
        provenance, reason = device.provenance(processor(ctx.target))
        taken: dict[str, Any] = {"device": ctx.device, "provenance": str(provenance), "reason": reason, "costs": {}}
        trials = candidates_of(inputs[Candidates])
        if len(trials) > 1:  # a single one is shipped whatever it costs
            taken["costs"] = self._costs(inputs, ctx, trials)
        write_json(out_dir / "timings.json", taken)
        write_json(out_dir / FACTS, {"device": ctx.device, "candidates": len(trials), "rounds": self.rounds})

    def _costs(self, inputs: Inputs, ctx: Context, trials: list[Trial]) -> dict[str, dict[str, float]]:
        """Returns each candidate's cost by its file, with its ratio to the first one's and the ratio's interval."""
        vocabulary, folder = inputs[Vocabulary], inputs[Candidates].path
        dev = data.read(inputs[LabelledData].path).dev
        texts = [dev[i][0] for i in draw(len(dev), self.texts, ctx.seed)]
        rows = TokenRows(encode(load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), texts))
        pad_id, options = vocabulary.facts["pad_token_id"], ctx.target["runtime.options"]
        models = {
            trial.file: (
                ModelFile(folder / trial.file, file_digest(folder / trial.file), pad_id, trial.min_runtime, options),
                rows,
            )
            for trial in trials
        }
        device, threads = devices.connect(ctx.device), ctx.target["device.threads"]
        timed = device.latency(models, LatencyPlan(rounds=self.rounds, block_runs=self.block_runs, threads=threads))
        if not isinstance(timed, Unavailable):
            base = block_medians(timed[trials[0].file])
            found = {}
            for name, samples in timed.items():
                ratio = median_of_ratios(block_medians(samples), base)
                p50 = percentile([float(t) for t in samples.block_ms.ravel()], 50)
                found[name] = {"p50_ms": p50, "ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
            return found
        counted = device.instructions(middle_lengths(models, self.counted_texts), threads)
        if isinstance(counted, Unavailable):
            return {}
        first = counted[trials[0].file].per_inference
        return {
            name: {"instructions": round(count.per_inference)}
            | dict.fromkeys(("ratio", "ratio_low", "ratio_high"), count.per_inference / first)
            for name, count in counted.items()
        }


def candidates_of(artifact: Candidates) -> list[Trial]:
    """Returns the trials whose files are kept, the one to beat first."""
    facts: Mapping[str, Any] = artifact.facts
    by_file = {trial.file: trial for trial in from_facts(facts["trials"])}
    return [by_file[name] for name in facts["candidates"]]
