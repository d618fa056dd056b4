"""`local`: this machine, through `runner.py` in a process of its own.

A child process rather than the caller's: its memory can be taken, its threads and environment are fixed before the
runtime loads, and a runtime that aborts takes nothing with it. The caller never imports onnxruntime.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from edgekit.devices import (
    RUNTIMES,
    Device,
    InstructionCount,
    LatencyPlan,
    ModelFile,
    Processor,
    Progress,
    Samples,
    TokenRows,
    Unavailable,
)
from edgekit.devices._host import architecture, cpu_model, installed, isa_flags, usable_cores
from edgekit.devices._process import OUT, Event, Job, Run, read_logits, run_jobs, runner_digest, runtime_env, write_job
from edgekit.errors import DeviceError, InputError
from edgekit.paths import cache_dir
from edgekit.provenance import Provenance

SUMMARY = "this machine, the runtime in a process of its own"
MEMORY_ROWS = 4
LOCK = "timing.lock"


def longest_rows(rows: TokenRows, count: int) -> TokenRows:
    """Returns the `count` longest rows: those that need the most memory."""
    return TokenRows(sorted(rows.ids, key=len, reverse=True)[:count])


@dataclass(frozen=True)
class LocalDevice:
    """This machine."""

    uri: str = "local"

    def accelerates(self, wanted: Processor) -> bool:
        """Whether it has the accelerator: it is a CPU."""
        return False

    def unavailable(self, runtime: str = "onnxruntime") -> Unavailable | None:
        """Says that the runtime is missing, or None."""
        package, install = RUNTIMES[runtime]
        if installed(package) is None:
            return Unavailable(f"{package} is not installed for {sys.executable}: pip install {install}")
        return None

    def fingerprint(self, runtime: str = "onnxruntime") -> Mapping[str, str]:
        """Identifies processor, system, runtime and runner."""
        return {
            "device": self.uri,
            "system": platform.system(),
            "machine": architecture(),
            "cpu": cpu_model(),
            "isa": " ".join(isa_flags()),
            "cores": str(usable_cores()),
            runtime: installed(RUNTIMES[runtime][0]) or "none",
            "runner": runner_digest(),
        }

    def provenance(self, wanted: Processor) -> tuple[Provenance, str]:
        """Measured for a target of this machine's architecture whose extensions it has, estimated for any other.

        A machine with more extensions than the target is still one of the target's devices; one with fewer runs other
        kernels than any of them.
        """
        here = architecture()
        if wanted.accelerator:
            return (
                Provenance.ESTIMATED,
                f"run on this {here} machine's kernels, not the target's {wanted.accelerator}",
            )
        if architecture(wanted.arch) != here:
            return Provenance.ESTIMATED, f"run on this {here} machine's kernels, not the {wanted.arch} target's"
        lacking = sorted(set(wanted.isa) - set(isa_flags()))
        if lacking:
            return Provenance.ESTIMATED, f"run on this {here} machine ({cpu_model()}), which lacks {', '.join(lacking)}"
        return Provenance.MEASURED, f"run on this {here} machine ({cpu_model()})"

    def logits(self, model: ModelFile, rows: TokenRows, threads: int, progress: Progress | None) -> np.ndarray:
        """Runs every row at batch 1 and its real length.

        Raises:
            DeviceError: the runner refused the job or broke off.
        """
        with tempfile.TemporaryDirectory(prefix="edgekit-local-") as folder:
            run, _ = self._run(Path(folder) / "job", Job("logits", {"model": (model, rows)}, threads), progress)
            return read_logits(run, self.uri, len(rows.ids))

    def timeless(self) -> None:
        """Says that there are times."""

    def countless(self) -> Unavailable:
        """Says why there are no counts here."""
        return Unavailable(
            "no exact instruction counter is to be had on every machine: hardware counters need privileges, are"
            " missing in virtual machines, and wander; an emulated device (qemu:) counts exactly"
        )

    def latency(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], plan: LatencyPlan
    ) -> Mapping[str, Samples] | Unavailable:
        """Times the models in alternating blocks, then takes the memory of each in a process of its own.

        One caller of this user at a time: two that time models at once would measure each other.

        Raises:
            DeviceError: the runner refused the job or broke off, or the lock cannot be made.
        """
        with _alone():
            return self._latency(models, plan)

    def _latency(self, models: Mapping[str, tuple[ModelFile, TokenRows]], plan: LatencyPlan) -> Mapping[str, Samples]:
        block_ms, block_cold_ms, events = list[np.ndarray](), list[np.ndarray](), list[Any]()
        for share in plan.shares():
            with tempfile.TemporaryDirectory(prefix="edgekit-local-") as folder:
                job = Job("latency", models, plan.threads, {"latency": share})
                run, event = self._run(Path(folder) / "job", job, None)
                with np.load(run.folder / OUT["latency"], allow_pickle=False) as arrays:
                    block_ms.append(arrays["block_ms"])
                    block_cold_ms.append(arrays["block_cold_ms"])
            events.append(event["models"])
        together, cold = np.concatenate(block_ms, axis=1), np.concatenate(block_cold_ms, axis=1)
        return {
            name: Samples(
                load_ms=float(np.median([one[index]["load_ms"] for one in events])),
                cold_ms=float(np.median([one[index]["cold_ms"] for one in events])),
                block_ms=together[index],
                block_cold_ms=cold[index],
                peak_rss_bytes=self._peak_rss_bytes(*models[name], plan.threads) if plan.memory else None,
            )
            for index, name in enumerate(models)
        }

    def instructions(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], threads: int, together: bool = False
    ) -> Mapping[str, InstructionCount] | Unavailable:
        """Says why there is no count here."""
        return self.countless()

    def _run(self, folder: Path, job: Job, progress: Progress | None) -> tuple[Run, Event]:
        for runtime in sorted({model.runtime for model, _ in job.models.values()}):
            if (missing := self.unavailable(runtime)) is not None:
                raise DeviceError(f"{self.uri}: {missing.reason}")
        env = {**os.environ, **runtime_env(job.threads)}
        run = Run((sys.executable,), env, write_job(folder, job))
        (event,) = run_jobs(self.uri, [run], progress)
        return run, event

    def _peak_rss_bytes(self, model: ModelFile, rows: TokenRows, threads: int) -> int | None:
        job = Job("logits", {"model": (model, longest_rows(rows, MEMORY_ROWS))}, threads)
        with tempfile.TemporaryDirectory(prefix="edgekit-local-") as folder:
            _, event = self._run(Path(folder) / "job", job, None)
        peak: Any = event["peak_rss_bytes"]
        return None if peak is None else int(peak)


@contextmanager
def _alone() -> Iterator[None]:
    path = cache_dir() / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield
    except PermissionError as error:
        raise DeviceError(f"local: the lock {path} cannot be made ({error.strerror}); set EDGEKIT_CACHE") from error


def uris() -> tuple[str, ...]:
    """Names the one device of this scheme."""
    return ("local",)


def nearest(wanted: Processor) -> str:
    """Returns this machine: whatever the processor, its answer is at least an estimate."""
    return "local"


def connect(uri: str) -> Device:
    """Returns this machine.

    Raises:
        InputError: something follows the scheme.
    """
    if uri != "local":
        raise InputError(f"device {uri!r}: expected just 'local', it takes nothing after the scheme")
    return LocalDevice()


def prepare(uri: str, report: Callable[[str], None]) -> None:
    """Checks that a runtime is there; there is nothing to install.

    Raises:
        DeviceError: onnxruntime is not installed.
    """
    missing = connect(uri).unavailable()
    if missing is not None:
        raise DeviceError(f"{uri}: {missing.reason}")
    here = {name: version for name, (package, _) in RUNTIMES.items() if (version := installed(package)) is not None}
    report(f"{uri}: {', '.join(f'{name} {version}' for name, version in here.items())} installed")
