"""Runs the artifact over the test rows on a device, and compares it with the teacher on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data, devices, manifest, measured
from edgekit.artifact import (
    FACTS,
    Accuracy,
    LabelledData,
    Program,
    Reference,
    Vocabulary,
    file_digest,
    write_json,
)
from edgekit.devices import Device, ModelFile, Processor, TokenRows
from edgekit.errors import StageContractError
from edgekit.provenance import Provenance
from edgekit.stage import Context, Inputs, Pass
from edgekit.statistics import churn, flip_rate, paired_counts, tango_interval
from edgekit.target import TargetView
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

FLOAT_REASON = "float32 in PyTorch on the machine that built"
ROWS = "rows.npy"
AGREEMENT = "agreement.json"
PROCESSOR = ("device.arch", "device.cpu", "device.isa", "device.accelerator")


@dataclass(frozen=True)
class Evaluate(Pass):
    """Takes accuracy on the target's own instructions where a device is there for them.

    Attributes:
        examples: test rows to run, drawn by the seed; 0 runs all.
        simulated_examples: the same where the device only simulates the target, which is slow: whole test splits of
            the usual sizes, and so the same rows on every target.
    """

    examples: int = 0
    simulated_examples: int = 5000

    NAME: ClassVar[str] = "evaluate"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Program, Vocabulary, LabelledData, Reference)
    OUT: ClassVar = Accuracy
    READS: ClassVar[tuple[str, ...]] = (*PROCESSOR, "device.threads", "runtime.name", "runtime.options")
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")
    MEASURES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.examples, self.simulated_examples) < 0:
            raise ValueError("examples and simulated_examples must not be negative")

    def rows(self, rows: int, provenance: Provenance) -> int:
        """Returns how many of so many test rows are run on a device of that provenance."""
        simulated = provenance is Provenance.SIMULATED and not self.examples
        return min(rows, (self.simulated_examples if simulated else self.examples) or rows)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes accuracy.json, logits.npy (rows, classes) and rows.npy, the indices of the test rows."""
        task, vocabulary, reference = load_task(ctx.task), inputs[Vocabulary], inputs[Reference]
        dataset = data.read(inputs[LabelledData].path)
        device = devices.connect(ctx.device)
        provenance, reason = device.provenance(processor(ctx.target))
        chosen = draw(len(dataset.test), self.rows(len(dataset.test), provenance), ctx.seed)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        rows = encode(tokenizer, [dataset.test[i][0] for i in chosen])
        program, pad_id, threads = inputs[Program], vocabulary.facts["pad_token_id"], ctx.target["device.threads"]
        options, accelerated = ctx.target["runtime.options"], device.accelerates(processor(ctx.target))
        files = files_of(program, pad_id, options, ctx.target["runtime.name"] if accelerated else "")

        def told(done: int, total: int) -> None:
            ctx.progress(done, total, "rows")

        logits = run(files, device, rows, threads, told)
        teacher, student, expected = (
            np.load(reference.path / f"{n}.npy")[chosen] for n in ("teacher", "student", "expected")
        )
        taken = Taken(ctx.device, provenance, reason, devices.connect("local").provenance(processor(ctx.target))[0])
        figures = compare(task.METRIC, teacher, student, logits, expected, taken)
        agreement = None
        if accelerated:
            plain = files_of(program, pad_id, options)
            agreement = agreed(logits, run(plain, devices.connect("local"), rows, threads, None), taken)
        write_json(out_dir / AGREEMENT, None if agreement is None else manifest.encode(agreement))
        np.save(out_dir / "logits.npy", logits)
        np.save(out_dir / ROWS, np.array(chosen))
        write_json(out_dir / "accuracy.json", manifest.encode(figures))
        write_json(
            out_dir / FACTS, {"rows": len(chosen), "device": ctx.device, "scores": task.scores(logits, expected)}
        )


def files_of(program: Program, pad_id: int, options: Mapping[str, str], accelerator: str = "") -> dict[int, ModelFile]:
    """Returns what a device loads, by the longest row that each file takes; 0 stands for rows of any length.

    Args:
        program: compiled.
        pad_id: of the tokenizer.
        options: entries of the runtime's session configuration.
        accelerator: runtime of the accelerator's program (`edgekit.devices.RUNTIMES`); "" for the files of a CPU.
    """
    least = program.facts["min_runtime"]
    found = program.by_length if accelerator else {0: program.portable}
    return {
        length: ModelFile(path, file_digest(path), pad_id, "" if accelerator else least, options, accelerator)
        for length, path in (found or {0: program.model}).items()
    }


def run(
    files: Mapping[int, ModelFile],
    device: Device,
    rows: Sequence[np.ndarray],
    threads: int,
    progress: devices.Progress | None,
) -> np.ndarray:
    """Runs each row by the file of the shortest input that it fits.

    Args:
        files: by length, increasing, as `files_of` gives them.
        device: that runs them.
        rows: token ids, none longer than the longest input.
        threads: intra-op threads of the runtime.
        progress: is told of rows that are done.

    Returns:
        Logits, float32, (rows, classes).

    Raises:
        StageContractError: a row is longer than the longest input.
    """
    lengths = list(files)
    places = np.zeros(len(rows), dtype=np.int64)
    if lengths != [0]:
        places = np.searchsorted(lengths, [len(row) for row in rows])
        if places.max(initial=0) == len(lengths):
            longest = max(len(row) for row in rows)
            raise StageContractError(f"a row has {longest} tokens, but the program's inputs {lengths[-1]} at most")
    found: np.ndarray | None = None
    done = 0
    for place, model in enumerate(files.values()):
        chosen = np.flatnonzero(places == place).tolist()
        if not chosen:
            continue
        before = done

        def told(now: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + now, len(rows))

        logits = device.logits(model, TokenRows([rows[i] for i in chosen]), threads, told)
        found = np.zeros((len(rows), logits.shape[1]), dtype=np.float32) if found is None else found
        found[chosen] = logits
        done += len(chosen)
    assert found is not None, "there are rows, and each fits an input"
    return found


def agreed(logits: np.ndarray, plain: np.ndarray, taken: Taken) -> measured.Agreement:
    """Compares answers of an accelerator with those of a CPU by the same file.

    Args:
        logits, plain: of the two, (rows, classes).
        taken: how the first were.
    """
    same = 100 * float(np.mean(logits.argmax(-1) == plain.argmax(-1)))
    return measured.Agreement(same, len(logits), taken.device, taken.provenance, taken.reason)


@dataclass(frozen=True)
class Taken:
    """How logits were taken.

    Attributes:
        device: URI that the artifact ran on.
        provenance: of the artifact's logits.
        reason: of the provenance, in words.
        float_provenance: of the teacher's and the float student's: measured where the building machine is one of the
            target's devices, else estimated.
    """

    device: str
    provenance: Provenance
    reason: str
    float_provenance: Provenance


def processor(target: TargetView) -> Processor:
    """Returns the target's processor, from the fields that a stage which measures declares."""
    return Processor(*(target[name] for name in PROCESSOR))


def draw(rows: int, wanted: int, seed: int) -> list[int]:
    """Draws test rows by the seed, in their order; all where `wanted` is 0 or not fewer than there are."""
    if wanted == 0 or wanted >= rows:
        return list(range(rows))
    random = np.random.Generator(np.random.PCG64([seed, wanted]))
    return sorted(int(i) for i in random.permutation(rows)[:wanted])


def compare(
    metric: str,
    teacher: np.ndarray,
    student: np.ndarray,
    artifact: np.ndarray,
    expected: np.ndarray,
    taken: Taken,
) -> measured.Accuracy:
    """Pairs the answers of the teacher and the artifact on the same rows.

    Args:
        metric: name of the metric, "accuracy".
        teacher, student, artifact: logits, (rows, classes).
        expected: classes, (rows,).
        taken: how the logits were.
    """
    answers = {name: logits.argmax(-1) for name, logits in (("t", teacher), ("s", student), ("a", artifact))}
    right = {name: (answer == expected).tolist() for name, answer in answers.items()}
    lost, gained = paired_counts(right["t"], right["a"])
    rows = len(expected)
    score = {name: 100 * sum(values) / rows for name, values in right.items()}
    low, high = tango_interval(lost, gained, rows)
    return measured.Accuracy(
        metric=metric,
        teacher=score["t"],
        student_fp32=score["s"],
        artifact=score["a"],
        drop=score["t"] - score["a"],
        ci95=(low, high),
        method="tango",
        examples=rows,
        lost=lost,
        gained=gained,
        bounds=None,
        flips=flip_rate(lost, gained, rows),
        churn=churn(answers["t"].tolist(), answers["a"].tolist()),
        floor=100 * float(np.bincount(expected).max()) / rows,
        device=taken.device,
        provenance=taken.provenance,
        reason=taken.reason,
        float_provenance=taken.float_provenance,
        float_reason=FLOAT_REASON,
    )
