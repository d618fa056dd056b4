"""Starts `runner.py` as processes of this machine and follows their events: what `local` and `qemu` share.

A job is a folder: a copy of the runner and its runtimes' modules, `job.json`, the rows and, afterwards, the arrays. The
runner is copied rather than run in place because that is what happens on a board, and because Python would otherwise
put this folder, with modules named `local` and `qemu`, first on the child's path. One thread per process reads its
events into one queue, which also works where pipes cannot be polled; the caller's thread takes them out, so that
progress is reported from the thread that asked, and Ctrl-C reaches it and ends the children.
"""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices import ModelFile, Progress, TokenRows
from edgekit.errors import DeviceError

RUNNER = "runner.py"
QUIET_LIMIT_S = 900.0
TAIL_CHARS = 800
# The file of arrays that each mode leaves in its job's folder; `passes` leaves none.
OUT = {"logits": "logits.npy", "latency": "latency.npz", "passes": ""}

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """What the runner is to do: see its docstring.

    Attributes:
        mode: logits, latency or passes.
        models: by name, the model file and its rows.
        threads: intra-op threads of the runtime.
        settings: further keys of the job that its mode reads.
    """

    mode: str
    models: Mapping[str, tuple[ModelFile, TokenRows]]
    threads: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One process that runs a job.

    Attributes:
        argv: the command without the runner's own arguments: an interpreter and what it needs.
        env: the whole environment of the process.
        folder: the job's folder, made by `write_job`.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path


def runner_files() -> list[Path]:
    """Returns the program that devices run: `runner.py`, and a module of each runtime."""
    return sorted(Path(__file__).parent.glob("runner*.py"))


def copy_runner(folder: Path) -> Path:
    """Copies the program into a folder; returns what of it is started."""
    for path in runner_files():
        shutil.copyfile(path, folder / path.name)
    return folder / RUNNER


def runner_digest() -> str:
    """Returns the sha256 of the program, hex."""
    digest = hashlib.sha256()
    for path in runner_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def runtime_env(threads: int) -> dict[str, str]:
    """Returns the environment variables that every run has: threads of the maths libraries, one hash seed.

    And onnxruntime keeps to itself, even before the runner says so: from 1.29 it reports to its maker by default.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "PYTHONHASHSEED": "0", "ORT_DISABLE_TELEMETRY": "1"}


def write_job(folder: Path, job: Job) -> Path:
    """Writes a job, its rows and a copy of the runner into a new folder, and returns that folder."""
    folder.mkdir(parents=True)
    copy_runner(folder)
    entries = []
    for index, (name, (model, rows)) in enumerate(job.models.items()):
        rows_file = folder / f"rows-{index}.npz"
        write_rows(rows_file, rows)
        entries.append(
            {
                "name": name,
                "path": str(model.path.resolve()),
                "sha256": model.sha256,
                "runtime": model.runtime,
                "rows": str(rows_file),
                "pad_id": model.pad_id,
                "min_runtime": model.min_runtime,
                "options": dict(model.options),
            }
        )
    text = {
        "mode": job.mode,
        "models": entries,
        "threads": job.threads,
        "out": str(folder / OUT[job.mode]),
        **job.settings,
    }
    (folder / "job.json").write_text(json.dumps(text, indent=1))
    return folder


def write_rows(path: Path, rows: TokenRows) -> None:
    """Writes token rows as two flat int64 arrays, `ids` and `offsets`."""
    lengths = [len(row) for row in rows.ids]
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows.ids] or [np.zeros(0, dtype=np.int64)])
    np.savez(path, ids=ids, offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def run_jobs(
    device: str, runs: Sequence[Run], progress: Progress | None = None, quiet_limit_s: float = QUIET_LIMIT_S
) -> list[Event]:
    """Runs jobs at the same time, and ends all of them when one fails or the caller is interrupted.

    Args:
        device: name for messages.
        runs: the processes to start.
        progress: called with the sums of `done` and `total` over the runs.
        quiet_limit_s: seconds without an event from any of them after which they are given up.

    Returns:
        The result event of each run, in the order given; its key `ready` holds the ready event.

    Raises:
        DeviceError: a run could not be started, reported an error, died, or fell silent.
    """
    events: queue.Queue[tuple[int, str | None]] = queue.Queue()
    children: list[subprocess.Popen[str]] = []
    seen: list[dict[str, Event]] = [{} for _ in runs]
    try:
        for index, run in enumerate(runs):
            children.append(start(device, run))
            follow(children[index], index, events)
        while any("end" not in kinds for kinds in seen):
            try:
                index, line = events.get(timeout=quiet_limit_s)
            except queue.Empty:
                raise DeviceError(f"{device}: no sign of life for {quiet_limit_s:g} s; given up") from None
            event = {"event": "end"} if line is None else parse_event(line)
            kind = str(event.get("event"))
            if kind == "error":
                raise DeviceError(f"{device}: {event.get('message')}")
            seen[index][kind] = event
            if kind == "end" and "result" not in seen[index]:
                raise DeviceError(f"{device}: {death_of(children[index], runs[index])}")
            if kind in ("progress", "end") and progress is not None:
                report_progress(seen, progress)
    finally:
        for child in children:
            end(child)
    return [{**kinds["result"], "ready": kinds.get("ready", {})} for kinds in seen]


def start(device: str, run: Run) -> subprocess.Popen[str]:
    """Starts one run.

    Raises:
        DeviceError: the program cannot be started.
    """
    with (run.folder / "stderr.txt").open("wb") as errors:
        try:
            return subprocess.Popen(
                [*run.argv, str(run.folder / RUNNER), str(run.folder / "job.json")],
                env=dict(run.env),
                cwd=run.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise DeviceError(f"{device}: cannot start {run.argv[0]}: {error}") from error


def follow(child: subprocess.Popen[str], index: int, events: queue.Queue[tuple[int, str | None]]) -> None:
    """Starts a thread that puts a run's lines, and at last None, into `events`."""
    assert child.stdout is not None
    lines = child.stdout

    def read() -> None:
        with lines:
            for line in lines:
                events.put((index, line))
        events.put((index, None))

    threading.Thread(target=read, daemon=True, name=f"device-events-{index}").start()


def parse_event(line: str) -> dict[str, Any]:
    """Returns the event in a line, or one of kind `noise`: a runtime may print to stdout too."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return {"event": "noise"}
    return event if isinstance(event, dict) and "event" in event else {"event": "noise"}


def report_progress(seen: Sequence[Mapping[str, Event]], progress: Progress) -> None:
    """Calls `progress` with the sums over all runs, once each of them has said how much it has to do."""
    counts = [kinds["progress"] for kinds in seen if "progress" in kinds]
    if len(counts) == len(seen):
        progress(sum(int(c["done"]) for c in counts), sum(int(c["total"]) for c in counts))


def death_of(child: subprocess.Popen[str], run: Run) -> str:
    """Says how a runner ended that left no result, with the last lines of its stderr."""
    status = child.wait()
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    tail = (run.folder / "stderr.txt").read_text(errors="replace").strip()[-TAIL_CHARS:]
    return f"the runner {how} and left no result" + (f": {tail}" if tail else "")


def end(child: subprocess.Popen[str]) -> None:
    """Kills a child that still runs, and waits for it, so that nothing is left behind."""
    if child.poll() is None:
        child.kill()
    child.wait()


def logits_in_shares(
    device: str,
    rows: TokenRows,
    shares: int,
    runs_of: Callable[[Sequence[TokenRows]], Sequence[Run]],
    progress: Progress | None,
) -> np.ndarray:
    """Deals rows out to so many processes, and puts their logits back in order.

    Args:
        device: name for messages.
        rows: at least one for each process.
        shares: processes, at least 1.
        runs_of: makes the process of each share of the rows.
        progress: as in `run_jobs`.

    Returns:
        Logits, float32, (rows, classes).

    Raises:
        DeviceError: as `run_jobs` and `read_logits`.
    """
    parts = [TokenRows(rows.ids[share::shares]) for share in range(shares)]
    runs = runs_of(parts)
    run_jobs(device, runs, progress)
    done = [read_logits(run, device, len(part.ids)) for run, part in zip(runs, parts, strict=True)]
    logits = np.empty((len(rows.ids), done[0].shape[1]), dtype=np.float32)
    for share, part_logits in enumerate(done):
        logits[share::shares] = part_logits
    return logits


def read_logits(run: Run, device: str, rows: int) -> np.ndarray:
    """Reads the logits that a run left, float32, shape (rows, classes).

    Raises:
        DeviceError: they are not there, or not of that many rows.
    """
    try:
        logits: np.ndarray = np.load(run.folder / OUT["logits"], allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DeviceError(f"{device}: cannot read the logits: {error}") from error
    if logits.ndim != 2 or len(logits) != rows:
        raise DeviceError(f"{device}: got logits of shape {logits.shape} for {rows} rows")
    return logits
