"""`htp`: the NPU of Snapdragon phones, in Qualcomm's own simulator on this machine.

It answers what a CPU cannot: how the compiled program rounds. The simulator is part of the compiler's package and runs
the very contexts that phones load, each for the chip that it was compiled for. It is no clock: it runs a hundred times
slower than the NPU, and counts nothing.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from edgekit.devices._host import architecture, cpu_model, installed, usable_cores
from edgekit.devices._process import Job, Run, logits_in_shares, runner_digest, runtime_env, write_job
from edgekit.errors import DeviceError, InputError
from edgekit.provenance import Provenance

SUMMARY = "the NPU of Snapdragon phones (Hexagon HTP) in Qualcomm's simulator"
ACCELERATOR = "hexagon-htp"
RUNTIME = "qnn"
SERVES = ("onnxruntime", RUNTIME)
"""Runtimes of the files that it runs: a program of the accelerator's, and the CPU's part of a build for it."""
ROWS_PER_SHARE = 8  # below that, starting another Python costs more than it saves


@dataclass(frozen=True)
class HtpDevice:
    """The simulator."""

    uri: str = "htp"

    def accelerates(self, wanted: Processor) -> bool:
        """Whether it has the accelerator."""
        return wanted.accelerator == ACCELERATOR

    def unavailable(self, runtime: str = "onnxruntime") -> Unavailable | None:
        """Says that the package is missing or not for this machine, or None."""
        if runtime not in SERVES:
            return Unavailable(f"{self.uri} runs programs for Qualcomm's HTP, not those of {runtime}")
        if platform.system() != "Linux" or architecture() != "x86_64":
            return Unavailable(
                f"Qualcomm's simulator is for x86-64 Linux, this is {platform.system()} on {architecture()}"
            )
        for name in SERVES:
            package, install = RUNTIMES[name]
            if installed(package) is None:
                return Unavailable(f"{package} is not installed for {sys.executable}: pip install {install}")
        return None

    def fingerprint(self, runtime: str = "onnxruntime") -> Mapping[str, str]:
        """Identifies simulator, runtime and runner, and the processor, which runs what the compiler left to a CPU."""
        versions = {name: installed(RUNTIMES[name][0]) or "none" for name in SERVES}
        return {
            "device": self.uri,
            "machine": architecture(),
            "cpu": cpu_model(),
            **versions,
            "runner": runner_digest(),
        }

    def provenance(self, wanted: Processor) -> tuple[Provenance, str]:
        """Simulated for a target of that accelerator, estimated for any other."""
        if self.accelerates(wanted):
            version = installed(RUNTIMES[RUNTIME][0])
            return Provenance.SIMULATED, f"run in Qualcomm's HTP simulator, onnxruntime-qnn {version}"
        lacks = wanted.accelerator or f"{wanted.arch} processor"
        return (
            Provenance.ESTIMATED,
            f"run on this machine's kernels ({self.uri} simulates HTP), not the target's {lacks}",
        )

    def logits(self, model: ModelFile, rows: TokenRows, threads: int, progress: Progress | None) -> np.ndarray:
        """Runs every row at batch 1, the rows dealt out to as many processes as there are cores.

        Raises:
            DeviceError: the simulator is not there, or the runner refused the job or broke off.
        """
        if (missing := self.unavailable(model.runtime)) is not None:
            raise DeviceError(f"{self.uri}: {missing.reason}")
        shares = max(1, min(usable_cores() // max(1, threads), len(rows.ids) // ROWS_PER_SHARE))
        env = {**os.environ, **runtime_env(threads)}
        with tempfile.TemporaryDirectory(prefix="edgekit-htp-") as name:

            def runs_of(parts: Sequence[TokenRows]) -> list[Run]:
                jobs = [Job("logits", {"model": (model, part)}, threads) for part in parts]
                return [Run((sys.executable,), env, write_job(Path(name) / f"job-{i}", j)) for i, j in enumerate(jobs)]

            return logits_in_shares(self.uri, rows, shares, runs_of, progress)

    def timeless(self) -> Unavailable:
        """Says why there are no times here."""
        return Unavailable("the time that Qualcomm's simulator takes says nothing of the NPU's; take it on a phone")

    def countless(self) -> Unavailable:
        """Says why there are no counts here."""
        return Unavailable("Qualcomm's simulator counts no instructions")

    def latency(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], plan: LatencyPlan
    ) -> Mapping[str, Samples] | Unavailable:
        """Says why there are no times here."""
        return self.timeless()

    def instructions(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], threads: int, together: bool = False
    ) -> Mapping[str, InstructionCount] | Unavailable:
        """Says why there are no counts here."""
        return self.countless()


def uris() -> tuple[str, ...]:
    """Names the one device of this scheme."""
    return ("htp",)


def nearest(wanted: Processor) -> str | None:
    """Returns the simulator for a target with that NPU."""
    return "htp" if wanted.accelerator == ACCELERATOR else None


def connect(uri: str) -> Device:
    """Returns the simulator.

    Raises:
        InputError: something follows the scheme: the chip is the one that a program was compiled for.
    """
    if uri != "htp":
        raise InputError(f"device {uri!r}: expected just 'htp', the program itself says for which chip it is")
    return HtpDevice()


def prepare(uri: str, report: Callable[[str], None]) -> None:
    """Checks that the simulator is there; there is nothing to install but its package.

    Raises:
        InputError: the URI is malformed.
        DeviceError: the package is missing or not for this machine, with what to install.
    """
    missing = connect(uri).unavailable()
    if missing is not None:
        raise DeviceError(f"{uri}: {missing.reason}")
    report(f"{uri}: onnxruntime-qnn {installed(RUNTIMES[RUNTIME][0])} installed")
