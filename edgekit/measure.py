"""Measures a bundle again: accuracy on any labelled file, latency on any device, and its own golden rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import data, devices, manifest, measured
from edgekit.artifact import file_digest
from edgekit.backends import load_backend
from edgekit.devices import LatencyPlan, ModelFile, Progress, TokenRows, Unavailable
from edgekit.errors import ArtifactError, InputError
from edgekit.opened import MAX_THREADS, Opened, open_bundle
from edgekit.provenance import Provenance
from edgekit.publish import REPORT
from edgekit.stages.benchmark import latency_figures, why_no_memory
from edgekit.stages.bundle import ACCELERATED, GOLDEN, TOLERANCE, differences
from edgekit.stages.evaluate import draw, run
from edgekit.store import write_atomically
from edgekit.tasks import load_task
from edgekit.tokenization import count_longer, encode, load_tokenizer

GOLDEN_BYTES_LIMIT = 64 << 20
KERNELS_TOLERANCE = 1e-5  # of float32's rounding of an exact integer sum; one saturated pair is off by 1e-3
BROKEN = 1e9
"""Stands for an error that is no number, which neither JSON nor a comparison could take."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a bundle on labelled rows.

    Attributes:
        metric, score: the task's metric, in percent.
        scores: all of the task's scores, in percent.
        examples: rows run.
        rows: rows of the file.
        cut: rows longer than the model's longest input.
        device, provenance, reason: where the figure comes from.
    """

    metric: str
    score: float
    scores: dict[str, float]
    examples: int
    rows: int
    cut: int
    device: str
    provenance: Provenance
    reason: str


@dataclass(frozen=True)
class Timing:
    """Latency, instructions and memory of a bundle; what was not taken is None, and `unmeasured` says why."""

    latency: measured.Latency | None
    instructions: measured.Instructions | None
    memory: measured.Memory | None
    unmeasured: dict[str, str]


@dataclass(frozen=True)
class Verification:
    """Outcome of a bundle's self-test.

    Attributes:
        files: files whose digests were checked.
        golden_rows: rows replayed.
        kernels_error: of the device's integer products at their extremes, as a share of the largest logit; None where
            an accelerator rounds by rules of its own, so that the golden rows alone can tell what it does.
        failures: what differs, one line each; empty where all is well.
        device: URI.
    """

    files: int
    golden_rows: int
    kernels_error: float | None
    failures: tuple[str, ...]
    device: str


def _device(bundle: Opened, requested: str) -> str:
    name, runtime = bundle.manifest.target_name, bundle.model.runtime
    return devices.choose(name, bundle.processor, requested, runtime)[0]


def evaluate(
    folder: Path,
    file: Path,
    device: str,
    examples: int,
    predictions: Path | None,
    columns: Mapping[str, str],
    progress: Progress | None,
) -> Evaluation:
    """Runs a bundle over labelled rows.

    Args:
        folder: the bundle.
        file: labelled rows, or a folder with a test split.
        device: URI; empty picks the best that is ready here.
        examples: rows to run, drawn evenly; 0 runs all.
        predictions: gets one JSON line a row: row, label, prediction, logits.
        columns: role → column of the file, over those that the bundle was built with.
        progress: called with rows done and in all.

    Raises:
        InputError: the bundle or the data cannot be used.
        DeviceError: the device cannot be reached, or broke off.
    """
    if examples < 0:
        raise InputError(f"--examples is {examples}; it must not be negative")
    bundle = open_bundle(folder)
    item, task = bundle.manifest, load_task(bundle.manifest.task)
    faults = _contradictions(bundle, {item.model.path, f"{item.tokenizer.path}/tokenizer.json"})
    if faults:
        raise ArtifactError(f"{'; '.join(faults)}; build the bundle again")
    options = item.recipe.get("options")
    chosen = options.get("data") if isinstance(options, dict) else None
    built = chosen if isinstance(chosen, dict) else {}
    named = {role: str(name) for role, name in built.items() if role in task.COLUMNS} | dict(columns)
    pairs = data.eval_rows(file, data.Columns(candidates=task.COLUMNS, chosen=named), item.labels)
    picked = draw(len(pairs), examples, 0)
    tokenizer = load_tokenizer(folder / item.tokenizer.path, item.tokenizer.max_length)
    texts = [pairs[i][0] for i in picked]
    rows = encode(tokenizer, texts)
    uri = _device(bundle, device)
    machine = devices.connect(uri)
    logits = run(bundle.files(machine.accelerates(bundle.processor)), machine, rows, bundle.threads, progress)
    expected = np.array([item.labels.index(pairs[i][1]) for i in picked])
    provenance, reason = machine.provenance(bundle.processor)
    if predictions is not None:
        _write_predictions(predictions, picked, pairs, logits, item.labels)
    scores = task.scores(logits, expected)
    return Evaluation(
        metric=task.METRIC,
        score=task.metric(logits, expected),
        scores=scores,
        examples=len(picked),
        rows=len(pairs),
        cut=count_longer(folder / item.tokenizer.path, texts, item.tokenizer.max_length),
        device=uri,
        provenance=provenance,
        reason=reason,
    )


def _write_predictions(
    path: Path, picked: Sequence[int], pairs: Sequence[tuple[str, str]], logits: np.ndarray, labels: Sequence[str]
) -> None:
    lines = [
        json.dumps(
            {
                "row": row,
                "label": pairs[row][1],
                "prediction": labels[int(values.argmax())],
                "logits": [round(float(v), 6) for v in values],
            },
            ensure_ascii=False,
        )
        for row, values in zip(picked, logits, strict=True)
    ]
    try:
        write_atomically(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise InputError(f"predictions cannot be written to {path}: {error.strerror}") from error


def bench(folder: Path, device: str, runs: int, threads: int, sequence_length: int) -> Timing:
    """Times a bundle on a device, over its golden rows or over rows of one length.

    Args:
        folder: the bundle.
        device: URI; empty picks the best that is ready here.
        runs: timed runs, at least 50.
        threads: intra-op threads.
        sequence_length: tokens of each row; 0 takes the golden rows at their real lengths.

    Raises:
        InputError: the bundle or an option cannot be used.
        DeviceError: the device cannot be reached, or broke off.
    """
    bundle = open_bundle(folder)
    limit = bundle.manifest.tokenizer.max_length
    if runs < 50:
        raise InputError(f"--runs is {runs}; fewer than 50 say nothing of percentiles")
    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"--threads is {threads}; it must lie between 1 and {MAX_THREADS}")
    if sequence_length and not 2 <= sequence_length <= limit:
        raise InputError(f"--sequence-length is {sequence_length}; the model takes 2 to {limit} tokens")
    golden = read_golden(folder)
    rows = [np.array(row["input_ids"], dtype=np.int64) for row in golden]
    if sequence_length:
        rows = [np.resize(row, sequence_length) for row in rows]
    uri = _device(bundle, device)
    machine = devices.connect(uri)
    provenance, reason = machine.provenance(bundle.processor)
    models = {"artifact": (bundle.model, TokenRows(rows))}
    rounds = runs // 50
    plan = LatencyPlan(rounds=rounds, block_runs=-(-runs // rounds), threads=threads)
    timed, counted = machine.latency(models, plan), machine.instructions(models, threads)
    unmeasured = {n: t.reason for n, t in (("latency", timed), ("instructions", counted)) if isinstance(t, Unavailable)}
    latency = memory = instructions = None
    if not isinstance(timed, Unavailable):
        latency = latency_figures(timed, uri, provenance, reason, threads, sequence_length or "dynamic")
        rss = timed["artifact"].peak_rss_bytes
        memory = None if rss is None else measured.Memory(rss, uri, provenance, reason)
    if not isinstance(counted, Unavailable):
        one = counted["artifact"]
        rows_of = f"rows of {sequence_length} tokens" if sequence_length else "golden rows"
        counted_on = f"{reason}; mean of {one.rows} {rows_of}"
        instructions = measured.Instructions(round(one.per_inference), None, uri, provenance, counted_on)
    if memory is None:
        unmeasured["memory"] = why_no_memory(timed)
    return Timing(latency, instructions, memory, unmeasured)


def _contradictions(bundle: Opened, files: Collection[str]) -> list[str]:
    """Says where the manifest contradicts itself, given files whose digests are as it says."""
    item, folder = bundle.manifest, bundle.folder
    sizes = [(item.model.path, item.model.bytes), *((file.path, file.bytes) for file in item.files)]
    faults = [
        f"manifest.json: {name} has {(folder / name).stat().st_size} bytes, not {size}"
        for name, size in sizes
        if name in files and (folder / name).stat().st_size != size
    ]
    answers = len(read_golden(folder)[0]["logits"])
    if len(item.labels) != answers:
        faults.append(f"manifest.json: {len(item.labels)} labels, but the model gives {answers} logits")
    return faults


def read_golden(folder: Path) -> list[dict[str, Any]]:
    """Reads a bundle's golden rows.

    Raises:
        ArtifactError: they are missing, or a line is not a golden row.
    """
    path = folder / GOLDEN
    if not path.is_file() or path.stat().st_size > GOLDEN_BYTES_LIMIT:
        raise ArtifactError(f"{path} is missing, or too large to be golden rows; build the bundle again")
    rows = []
    # Lines of bytes: `str.splitlines` also cuts at U+2028 and its like, which stand unescaped inside JSON strings.
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
            ids, logits = row["input_ids"], row["logits"]
            assert isinstance(row["text"], str)
            assert ids
            assert logits
            assert all(isinstance(i, int) for i in ids)
            assert all(isinstance(v, int | float) for v in logits)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ArtifactError(f"{path}, line {number}: not a golden row; build the bundle again") from error
        rows.append(row)
    if not rows:
        raise ArtifactError(f"{path} is empty; build the bundle again")
    return rows


def verify(folder: Path, device: str) -> Verification:
    """Checks a bundle's files against its manifest and replays its golden rows on a device.

    The manifest itself and report.html, which is drawn from it, have no digest: `edgekit gate` judges the figures anew.

    Raises:
        ArtifactError: it is not a bundle, or its model file or tokenizer is not the one that was built.
        DeviceError: the device cannot be reached, or broke off.
    """
    bundle = open_bundle(folder)
    item = bundle.manifest
    changed = {
        file.path: "missing" if not (folder / file.path).is_file() else "changed since it was built"
        for file in item.files
        if not (folder / file.path).is_file() or file_digest(folder / file.path) != file.sha256
    }
    failures = [f"{name}: {what}" for name, what in changed.items()]
    failures += _contradictions(bundle, {item.model.path, *(file.path for file in item.files)} - set(changed))
    known = {file.path for file in item.files} | {item.model.path, manifest.FILE_NAME, REPORT}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    failures += [f"{name}: not part of the bundle" for name in sorted(found - known)]
    golden = read_golden(folder)
    tokenizer = load_tokenizer(folder / item.tokenizer.path, item.tokenizer.max_length)
    rows = encode(tokenizer, [row["text"] for row in golden])
    uri = _device(bundle, device)
    machine = devices.connect(uri)
    accelerated = machine.accelerates(bundle.processor)
    logits = run(bundle.files(accelerated), machine, rows, bundle.threads, None)
    tolerance = ACCELERATED if accelerated else TOLERANCE
    for number, (row, ids, values) in enumerate(zip(golden, rows, logits, strict=True), 1):
        failures += [f"golden row {number}: {what}" for what in differences(row, ids, values, tolerance)]
    error = None if accelerated else _kernels_error(bundle, uri)
    if error is not None and not error <= KERNELS_TOLERANCE:
        failures.append(
            f"the runtime's integer products are not exact: at their extremes they are off by {100 * error:.2g} % "
            "(a kernel that saturates, which other answers follow from)"
        )
    return Verification(len(item.files) + 1, len(golden), error, tuple(failures), uri)


def _kernels_error(bundle: Opened, uri: str) -> float:
    """Runs the model of extreme products on the device; returns its error, as a share of the largest logit."""
    backend = load_backend(bundle.runtime)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"extremes{backend.SUFFIX}"
        rows, expected = backend.self_test(path)
        model = ModelFile(path, file_digest(path), 0, options=bundle.model.options)
        found = devices.connect(uri).logits(model, TokenRows(rows), bundle.threads, None)
    return float(np.nan_to_num(np.abs(found - expected).max() / np.abs(expected).max(), nan=BROKEN, posinf=BROKEN))
