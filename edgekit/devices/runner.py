"""Runs model files on the device: the program that every device of edgekit pushes and drives.

`python runner.py JOB.json` reads one job, prints one JSON object a line on stdout (the events) and writes its arrays
to the job's `out`. It needs only the standard library, numpy, the runtimes that its models name, each behind a module
of its own beside it (`runner_onnxruntime.py`), and Python 3.9, because that is what a board has; it imports nothing of
edgekit, so that a figure from a board was taken by the very program tested here.

The job:

    {"mode": "logits" | "latency" | "passes",
     "models": [{"name", "path", "sha256", "runtime" (of RUNTIMES), "rows", "pad_id", "min_runtime" (or ""),
        "options" (of the session)}],
     "threads": 1, "out": "file.npy (logits) or file.npz (latency)",
     "latency": {"rounds", "block_runs", "warmup_runs", "first_round" (0 by default)}, "passes": 5,
     "mark_fd": 1000003}

`rows` is an .npz of two int64 arrays: `ids`, all rows one after the other, and `offsets`, where each begins and the
last ends. Every row runs at batch 1 and its real length; only an input whose sequence dimension is static is filled
up with `pad_id`, with 0 in the mask.

The events: `ready` (versions, session options, load_ms and cold_ms of each model), `progress` (done, total), `result`
(what the mode gives), `error` (message). After an `error` the exit status is 1.

Modes:
    logits: one model, float32 logits of shape (rows, classes); the result carries `peak_rss_bytes` of this process,
        which includes the Python interpreter and the runtime: on a device that is what has to fit.
    latency: blocks of runs, one model after the other and in the reverse order every second round (ABBA), so that a
        drift of the clock speed falls on all models alike. In blocks rather than single runs, because in single runs
        the larger model evicts the smaller one from the caches, which would not happen on the device.
    passes: every row, N times, without a word in between, a mark before the first and one after each: for counting
        instructions from outside, row by row. A mark is a `close` of the job's `mark_fd`, a file descriptor that nobody
        has open: it does nothing, and an emulator's plugin sees it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import platform
import re
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any

try:
    import numpy as np
except ImportError as missing:  # a board without it is the user's to mend, so say it as an event
    print(json.dumps({"event": "error", "message": f"{missing}; install numpy for {sys.executable}"}))
    sys.exit(1)

RUNTIMES = {  # the packages that they come in
    "onnxruntime": "onnxruntime",
    "litert": "ai-edge-litert",
    "qnn": "onnxruntime-qnn",
}
INPUT_TYPES = {"int64": np.int64, "int32": np.int32}
PROGRESS_EVERY_S = 0.5
NS_PER_MS = 1e6


class JobError(Exception):
    """The job cannot be run, for a reason that the message explains."""


@dataclass(frozen=True)
class Model:
    """A loaded model with the feeds of its rows, made beforehand.

    Attributes:
        name: as in the job.
        session: of its runtime's module.
        feeds: one input mapping a row.
        load_ms: time to make the session.
        cold_ms: the first inference after load.
        runtime: name and version.
    """

    name: str
    session: Any
    feeds: list[dict[str, Any]]
    load_ms: float
    cold_ms: float
    runtime: tuple[str, str]


def load_model(entry: dict[str, Any], threads: int, spinning: bool) -> Model:
    """Checks and loads one model of the job, and runs its first row once.

    Raises:
        JobError: the file, the runtime or the rows do not fit.
    """
    check_digest(entry["path"], entry["sha256"])
    runtime = load_runtime(entry["runtime"])
    check_runtime(entry, runtime.VERSION)
    start = time.perf_counter_ns()
    try:
        session = runtime.Session(entry["path"], threads, spinning, entry["options"])
    except Exception as error:  # the runtimes' exceptions share no base class, and differ from version to version
        name = f"{entry['runtime']} {runtime.VERSION}"
        raise JobError(f"{name} cannot load {entry['path']}: {error}") from error
    load_ms = (time.perf_counter_ns() - start) / NS_PER_MS
    feeds = make_feeds(session.inputs, read_rows(entry["rows"]), entry["pad_id"])
    cold_ms = time_run(session, feeds[0])
    return Model(entry["name"], session, feeds, load_ms, cold_ms, (entry["runtime"], runtime.VERSION))


def load_runtime(name: str) -> Any:
    """Imports the module of a runtime.

    Raises:
        JobError: there is none of that name, or the runtime is not installed.
    """
    if name not in RUNTIMES:
        raise JobError(f"unknown runtime {name!r}: expected one of {sorted(RUNTIMES)}")
    try:
        return importlib.import_module(f"runner_{name}")
    except ImportError as missing:
        raise JobError(f"{missing}; install {RUNTIMES[name]} for {sys.executable}") from missing


def time_run(session: Any, feed: dict[str, Any]) -> float:
    """Runs one row and returns the milliseconds it took."""
    run = session.run
    start = time.perf_counter_ns()
    run(feed)
    return (time.perf_counter_ns() - start) / NS_PER_MS


def emit(event: str, **fields: Any) -> None:
    """Prints one event and flushes, so that the host sees it at once."""
    print(json.dumps({"event": event, **fields}), flush=True)


def check_digest(path: str, expected: str) -> None:
    """Checks a model file against its sha256.

    Raises:
        JobError: the file cannot be read, or is not the one the job names.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise JobError(f"cannot read the model: {error}") from error
    if digest.hexdigest() != expected:
        raise JobError(f"sha256 of {path} is {digest.hexdigest()}, expected {expected}: not loaded; push it again")


def check_runtime(entry: dict[str, Any], version: str) -> None:
    """Checks that the runtime here is new enough for a model that says what it needs.

    Raises:
        JobError: it is older than `min_runtime`.
    """

    def parts(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)[:3]]

    wanted = entry["min_runtime"]
    if wanted and parts(version) < parts(wanted):
        name, runtime = entry["name"], entry["runtime"]
        raise JobError(f"model {name} needs {runtime} >= {wanted}, here is {version}: upgrade it on the device")


def read_rows(path: str) -> list[Any]:
    """Reads token rows, a list of int64 arrays.

    Raises:
        JobError: there are none, or one is empty.
    """
    with np.load(path, allow_pickle=False) as arrays:
        ids, offsets = arrays["ids"], arrays["offsets"]
    rows = [ids[offsets[i] : offsets[i + 1]] for i in range(len(offsets) - 1)]
    if not rows:
        raise JobError("there are no rows to run")
    for index, row in enumerate(rows):
        if not len(row):
            raise JobError(f"row {index} has no tokens")
    return rows


def make_feeds(given: list[Any], rows: list[Any], pad_id: int) -> list[dict[str, Any]]:
    """Makes the input mapping of each row, by the names, dtypes and shapes of the model's inputs.

    Raises:
        JobError: an input is unknown, or a row does not fit a static length.
    """
    inputs = [(name, input_type(name, dtype), static_length(name, shape)) for name, dtype, shape in given]
    if "input_ids" not in [name for name, _, _ in inputs]:
        raise JobError(f"the model has no input named input_ids, only {[name for name, _, _ in inputs]}")
    feeds = []
    for index, row in enumerate(rows):
        feed = {}
        for name, dtype, length in inputs:
            size = length or len(row)
            if len(row) > size:
                raise JobError(f"row {index} has {len(row)} tokens, but the model's input {name} takes {size}")
            value = np.full((1, size), pad_id if name == "input_ids" else 0, dtype=dtype)
            if name == "input_ids":
                value[0, : len(row)] = row
            elif name == "attention_mask":
                value[0, : len(row)] = 1
            feed[name] = value
        feeds.append(feed)
    return feeds


def input_type(name: str, dtype: str) -> Any:
    """Returns the numpy dtype of a model input.

    Raises:
        JobError: the input is none of those that a text encoder has.
    """
    if name not in ("input_ids", "attention_mask", "token_type_ids"):
        raise JobError(f"unknown model input {name}: expected input_ids, attention_mask or token_type_ids")
    if dtype not in INPUT_TYPES:
        raise JobError(f"model input {name} is {dtype}: expected one of {sorted(INPUT_TYPES)}")
    return INPUT_TYPES[dtype]


def static_length(name: str, shape: list[Any]) -> int | None:
    """Returns the static sequence length of a model input, None if it is dynamic.

    Raises:
        JobError: the input is not (1 or dynamic, sequence).
    """
    if len(shape) != 2 or (isinstance(shape[0], int) and shape[0] != 1):
        raise JobError(f"model input {name} has shape {shape}: expected (1, sequence)")
    return shape[1] if isinstance(shape[1], int) else None


def peak_rss_bytes() -> int | None:
    """Returns the peak resident memory of this process in bytes, None where it cannot be read.

    It is the whole process: interpreter, runtime, model. VmHWM is preferred to getrusage, whose peak a child
    inherits from its parent on Linux.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: getrusage is the next to ask
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_logits(models: list[Model], job: dict[str, Any]) -> None:
    """Runs every row of the one model and saves float32 logits, shape (rows, classes).

    Raises:
        JobError: more than one model, or an output that is not one row of logits.
    """
    if len(models) != 1:
        raise JobError(f"mode logits takes one model, got {len(models)}")
    (model,) = models
    total = len(model.feeds)
    logits = []
    said = time.monotonic()
    for row, feed in enumerate(model.feeds):
        output = np.asarray(model.session.run(feed))
        if output.ndim != 2 or output.shape[0] != 1:
            raise JobError(f"output {model.session.output} has shape {output.shape}: expected (1, classes)")
        logits.append(output[0].astype(np.float32))
        if time.monotonic() - said > PROGRESS_EVERY_S or row == total - 1:
            emit("progress", done=row + 1, total=total)
            said = time.monotonic()
    np.save(job["out"], np.stack(logits))
    emit("result", rows=total, classes=len(logits[0]), peak_rss_bytes=peak_rss_bytes())


def run_latency(models: list[Model], job: dict[str, Any]) -> None:
    """Times the models in alternating blocks and saves the samples.

    Run j of round r takes row r * block_runs + j, for every model alike, so that the models see the same rows. Rounds
    are counted from `first_round`, where several processes share them. The arrays saved: `block_ms` (models, rounds,
    block_runs); `block_cold_ms` (models, rounds), the first run of each block, part of the warm-up; `order` (rounds,
    models), which model ran when.

    Raises:
        JobError: the plan is not one that can be run.
    """
    plan = job["latency"]
    rounds, block_runs, warmup_runs = plan["rounds"], plan["block_runs"], plan["warmup_runs"]
    if min(rounds, block_runs, warmup_runs) < 1:
        raise JobError(f"rounds, block_runs and warmup_runs must be at least 1, got {plan}")
    first_round = plan.get("first_round", 0)
    block_ms = np.zeros((len(models), rounds, block_runs))
    block_cold_ms = np.zeros((len(models), rounds))
    order = np.zeros((rounds, len(models)), dtype=np.int64)
    for turn in range(rounds):
        order[turn] = range(len(models)) if (first_round + turn) % 2 == 0 else range(len(models) - 1, -1, -1)
        for slot, index in enumerate(order[turn]):
            model, first = models[index], (first_round + turn) * block_runs
            gc.collect()
            gc.disable()  # a collection within a block would be charged to whichever model runs
            feeds = [model.feeds[(first + run) % len(model.feeds)] for run in range(max(block_runs, warmup_runs))]
            block_cold_ms[index, turn] = time_run(model.session, feeds[0])
            for run in range(1, warmup_runs):
                time_run(model.session, feeds[run])
            for run in range(block_runs):
                block_ms[index, turn, run] = time_run(model.session, feeds[run])
            gc.enable()
            emit("progress", done=turn * len(models) + slot + 1, total=rounds * len(models))
    np.savez(job["out"], block_ms=block_ms, block_cold_ms=block_cold_ms, order=order)
    emit("result", models=[{"name": m.name, "load_ms": m.load_ms, "cold_ms": m.cold_ms} for m in models])


def mark(descriptor: int) -> None:
    """Makes a mark that an instruction counter sees."""
    with contextlib.suppress(OSError):  # as meant: no such descriptor is open
        os.close(descriptor)


def run_passes(models: list[Model], job: dict[str, Any]) -> None:
    """Runs every row of every model `passes` times and does nothing else, so that instructions can be counted.

    The collector stays off: when it runs depends on what was allocated before, which would make counts wander.
    """
    gc.collect()
    gc.disable()
    mark(job["mark_fd"])
    for _ in range(job["passes"]):
        for model in models:
            for feed in model.feeds:
                model.session.run(feed)
                mark(job["mark_fd"])
    emit("result", passes=job["passes"])


MODES = {"logits": run_logits, "latency": run_latency, "passes": run_passes}


def run_job(job: dict[str, Any]) -> None:
    """Loads the job's models and runs its mode.

    Raises:
        JobError: for every reason that has an explanation.
    """
    if job["mode"] not in MODES:
        raise JobError(f"unknown mode {job['mode']!r}: expected one of {sorted(MODES)}")
    threads = job["threads"]
    # Spinning threads lower latency, as an app would have it; in the other modes they only burn the host's cores, and
    # would be counted as instructions. One thread has nobody to wait for.
    spinning = job["mode"] == "latency" and threads > 1
    models = [load_model(entry, threads, spinning) for entry in job["models"]]
    emit(
        "ready",
        python=platform.python_version(),
        numpy=np.__version__,
        runtimes=dict(model.runtime for model in models),
        machine=platform.machine(),
        threads=threads,
        inter_op_threads=1,
        allow_spinning=spinning,
        options={model.name: model.session.options for model in models},
        load_ms={model.name: model.load_ms for model in models},
        cold_ms={model.name: model.cold_ms for model in models},
    )
    MODES[job["mode"]](models, job)


def main(argv: list[str]) -> int:
    """Runs the job file named on the command line; returns the exit status."""
    if len(argv) != 2:
        emit("error", message="usage: python runner.py JOB.json")
        return 1
    try:
        with open(argv[1], encoding="utf-8") as file:
            job = json.load(file)
        run_job(job)
    except JobError as error:
        emit("error", message=str(error))
        return 1
    except Exception as error:  # the host reads events only: an unforeseen fault must become one too
        traceback.print_exc()
        emit("error", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
