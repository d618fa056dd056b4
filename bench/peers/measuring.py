"""Takes the figures of what was built: accuracy on test, times beside the teacher, instructions, memory.

ONNX files go through edgekit's own device, all in one run of alternating blocks. What runs with another runtime is
timed in its own venv, its blocks in turn with the teacher's ONNX file, so that every ratio is taken within one run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from building import HERE, Way, make_venv, open_peer, run
from peer import Split
from timings import figures

from edgekit.artifact import file_digest
from edgekit.devices import LatencyPlan, ModelFile, TokenRows, Unavailable, connect
from edgekit.devices._process import copy_runner
from edgekit.errors import DeviceError
from edgekit.stages.benchmark import middle_lengths
from edgekit.statistics import paired_counts, tango_interval

PLAN = LatencyPlan(rounds=8, block_runs=60, warmup_runs=5, threads=1)
COUNTED_ROWS = 8
TEACHER = "teacher"

Entry = tuple[ModelFile, TokenRows]


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file with the rows that it is to read.

    Attributes:
        model: the file.
        test: ids of the test rows in its own tokenisation.
        timed: ids of the rows that are timed, the same texts for every model.
    """

    model: ModelFile
    test: TokenRows
    timed: TokenRows


def onnx_model(path: Path, pad_id: int, test: Split, timed: Split) -> OnnxModel:
    """Makes a peer's file a model for edgekit's device: no session options but those that every model has."""
    return OnnxModel(ModelFile(path, file_digest(path), pad_id), TokenRows(test.ids), TokenRows(timed.ids))


def predict(model: OnnxModel) -> np.ndarray:
    """Returns the class of every test row, each run alone and unpadded.

    Raises:
        DeviceError: the runtime refuses the model, or breaks off.
    """
    return np.asarray(connect("local").logits(model.model, model.test, PLAN.threads, None).argmax(-1))


def accuracy(answers: np.ndarray, teacher: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Returns the accuracy of answers in percent, and the drop against the teacher's with Tango's interval, in points.

    Args:
        answers: class of each row.
        teacher: the teacher's classes of the same rows.
        expected: the labels.
    """
    right, theirs = answers == expected, teacher == expected
    lost, gained = paired_counts(theirs.tolist(), right.tolist())
    return {
        "rows": len(expected),
        "accuracy": 100 * float(np.mean(right)),
        "teacher_accuracy": 100 * float(np.mean(theirs)),
        "drop": 100 * (lost - gained) / len(expected),
        "drop_ci95": list(tango_interval(lost, gained, len(expected))),
        "lost": lost,
        "gained": gained,
    }


def time_onnx(models: Mapping[str, OnnxModel]) -> dict[str, dict[str, Any]]:
    """Times all models in one run; the one named `TEACHER` is what ratios divide.

    Raises:
        DeviceError: the runner broke off.
    """
    device = connect("local")
    entries: dict[str, Entry] = {name: (one.model, one.timed) for name, one in models.items()}
    samples = device.latency(entries, PLAN)
    if isinstance(samples, Unavailable):
        raise DeviceError(f"local: {samples.reason}")
    teacher = samples[TEACHER]
    return {
        name: {
            **figures(one.block_ms, one.block_cold_ms, teacher.block_ms, teacher.block_cold_ms),
            "load_ms": one.load_ms,
            "peak_rss_bytes": one.peak_rss_bytes,
        }
        for name, one in samples.items()
    }


def count_instructions(models: Mapping[str, OnnxModel], device: str) -> dict[str, dict[str, Any]]:
    """Counts the instructions of an inference on an emulated device; a model that cannot be counted says why."""
    entries = middle_lengths({name: (one.model, one.timed) for name, one in models.items()}, COUNTED_ROWS)
    found: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        try:
            counted = connect(device).instructions({name: entry}, PLAN.threads)
        except DeviceError as error:  # an older runtime there, or operators that it lacks: the others can be counted
            found[name] = {"instructions_reason": str(error)[:300]}
            continue
        if isinstance(counted, Unavailable):
            found[name] = {"instructions_reason": counted.reason}
        else:
            found[name] = {"instructions": round(counted[name].per_inference), "instructions_device": device}
    whole = found[TEACHER].get("instructions")
    for one in found.values():
        if whole and "instructions" in one:
            one["instructions_ratio"] = whole / one["instructions"]
    return found


def run_other(way: Way, work: Path, rows: Path, mode: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `other_runtime.py` in the venv of a way; returns its result.

    Args:
        way: what to run.
        work: where venvs are kept.
        rows: folder of the split that the settings name.
        mode: answers, memory or latency.
        settings: further keys of the job.

    Raises:
        PeerError: it fails.
    """
    python = make_venv(work, open_peer(way.peer).VENV)
    path, log = (way.folder.with_suffix(f".{mode}.{kind}") for kind in ("json", "log"))
    job = {"mode": mode, "peer": way.peer, "folder": str(way.folder), "rows": str(rows), **settings}
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    printed = run([str(python), str(HERE / "other_runtime.py"), str(path)], log)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def predict_other(way: Way, work: Path, rows: Path) -> np.ndarray:
    """Returns the class of every test row with another runtime.

    Raises:
        PeerError: it fails.
    """
    out = way.folder.with_suffix(".answers.npy")
    run_other(way, work, rows, "answers", {"split": "test", "out": str(out)})
    return np.asarray(np.load(out, allow_pickle=False))


def time_other(way: Way, work: Path, rows: Path, teacher: OnnxModel) -> dict[str, Any]:
    """Times a way in its venv, block by block in turn with the teacher's ONNX file, and takes its memory alone.

    Raises:
        PeerError: it fails.
    """
    out = way.folder.with_suffix(".times.npz")
    # A copy, as on a board: Python would put the original's folder, with modules of common names, first on its path.
    runner = copy_runner(way.folder.parent)
    entry = {
        "name": TEACHER,
        "path": str(teacher.model.path.resolve()),
        "sha256": teacher.model.sha256,
        "runtime": teacher.model.runtime,
        "rows": str(rows / "timed.npz"),
        "pad_id": teacher.model.pad_id,
        "min_runtime": "",
        "options": {},
    }
    settings = {"split": "timed", "runner": str(runner), "threads": PLAN.threads, "teacher": entry, "out": str(out)}
    taken = []
    for share in PLAN.shares():
        run_other(way, work, rows, "latency", {**settings, "latency": share})
        with np.load(out, allow_pickle=False) as arrays:
            taken.append((arrays["block_ms"], arrays["block_cold_ms"]))
    blocks, cold = (np.concatenate(parts, axis=1) for parts in zip(*taken, strict=True))
    memory = run_other(way, work, rows, "memory", {"split": "timed"})
    return {**figures(blocks[0], cold[0], blocks[1], cold[1]), **memory}
