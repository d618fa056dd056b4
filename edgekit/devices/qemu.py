"""`qemu:CPU`: a 64-bit Arm processor under user-mode emulation, with the aarch64 build of the runtime.

It answers two questions that this machine cannot: what an int8 model answers with Arm's kernels (the same file may
answer differently on x86), and how many Arm instructions an inference executes. The count is exact, free of noise
and the same on every host. It is no time: across precisions and processors it is a proxy, and reports say so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.devices import (
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
from edgekit.devices._arm_cpus import CPUS
from edgekit.devices._empty_model import write_empty_model
from edgekit.devices._host import architecture, usable_cores
from edgekit.devices._process import Job, Run, logits_in_shares, run_jobs, runner_digest, runtime_env, write_job
from edgekit.devices._sysroot import MARK_FD, not_ready, open_sysroot, qemu_version, read_stamp, stamp_digest
from edgekit.devices._sysroot_build import build
from edgekit.errors import DeviceError, InputError, suggestion
from edgekit.provenance import Provenance

SUMMARY = "a 64-bit Arm CPU under qemu's user-mode emulation"
MAX_SHARES = 2
ROWS_PER_SHARE = 8  # below that, starting another emulated Python costs more than it saves
PASSES, SETTLING_PASSES = 3, 2
COUNT_FILE = "instructions.txt"
COUNT_QUIET_LIMIT_S = 3600.0


@dataclass(frozen=True)
class QemuDevice:
    """An emulated processor.

    Attributes:
        cpu: qemu's name of it.
    """

    cpu: str

    @property
    def uri(self) -> str:
        """What the device was connected by."""
        return f"qemu:{self.cpu}"

    def accelerates(self, wanted: Processor) -> bool:
        """Whether it has the accelerator: it is a CPU."""
        return False

    def unavailable(self, runtime: str = "onnxruntime") -> Unavailable | None:
        """Says what is missing: the emulator, the userland, which `prepare` makes, or the runtime in it."""
        reason = not_ready(self.uri, runtime)
        return None if reason is None else Unavailable(reason)

    def fingerprint(self, runtime: str = "onnxruntime") -> Mapping[str, str]:
        """Identifies emulator, processor, userland and runner; the host does not matter to what is taken here."""
        stamp = read_stamp()
        return {
            "device": self.uri,
            "machine": "aarch64",
            "cpu": self.cpu,
            "qemu": qemu_version(),
            runtime: "none" if stamp is None else str(stamp.get(runtime, "none")),
            "sysroot": "none" if stamp is None else stamp_digest(stamp, runtime),
            "runner": runner_digest(),
        }

    def provenance(self, wanted: Processor) -> tuple[Provenance, str]:
        """Simulated for an aarch64 target whose extensions this processor has, estimated for any other."""
        if wanted.accelerator:
            return Provenance.ESTIMATED, f"run on Arm's kernels ({self.uri}), not the target's {wanted.accelerator}"
        if architecture(wanted.arch) != "aarch64":
            return Provenance.ESTIMATED, f"run on Arm's kernels ({self.uri}), not the {wanted.arch} target's"
        if self.cpu == wanted.cpu:
            return Provenance.SIMULATED, f"run on the target's own instructions, under qemu {qemu_version()} {self.cpu}"
        stamp = read_stamp()
        has = set() if stamp is None else set(str(stamp["features"][self.cpu]).split())
        lacking = sorted(set(wanted.isa) - has)
        if lacking:
            return Provenance.ESTIMATED, f"run on {self.uri}, which lacks {', '.join(lacking)} of the target's"
        return Provenance.SIMULATED, f"run under qemu {qemu_version()} {self.cpu}, not the target's {wanted.cpu}"

    def logits(self, model: ModelFile, rows: TokenRows, threads: int, progress: Progress | None) -> np.ndarray:
        """Runs every row at batch 1 and its real length, the rows dealt out to two processes where that is faster.

        Raises:
            DeviceError: the device is not prepared, or the runner refused the job or broke off.
        """
        shares = max(1, min(MAX_SHARES, usable_cores() // max(1, threads), len(rows.ids) // ROWS_PER_SHARE))
        with tempfile.TemporaryDirectory(prefix="edgekit-qemu-") as name:

            def runs_of(parts: Sequence[TokenRows]) -> list[Run]:
                return self._runs(Path(name), [Job("logits", {"model": (model, part)}, threads) for part in parts])

            return logits_in_shares(self.uri, rows, shares, runs_of, progress)

    def timeless(self) -> Unavailable:
        """Says why there are no times here."""
        return Unavailable("under emulation wall time says nothing of the device; instruction counts are taken instead")

    def countless(self) -> None:
        """Says that there are counts."""

    def latency(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], plan: LatencyPlan
    ) -> Mapping[str, Samples] | Unavailable:
        """Says why there are no times here."""
        return self.timeless()

    def instructions(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], threads: int, together: bool = False
    ) -> Mapping[str, InstructionCount] | Unavailable:
        """Counts the Arm instructions of an inference, exactly.

        The rows are run three times over in one process and the last pass counts: start-up, load and the first
        runs, which set up the runtime's memory, are left out. The same figure for an empty model with the same inputs
        and rows, the cost of Python and the session call, is taken off.

        Args:
            models: by name, the model file and its rows.
            threads: has no influence: one thread is used, because how long threads wait for each other differs from
                run to run, and the work does not become less by being shared.
            together: count in one process for each share of the models: starting an emulated Python takes longer than
                most models run. A count then depends on what shares the heap with it, by up to a hundredth.

        Raises:
            DeviceError: the device is not prepared, or the runner refused the job or broke off.
        """
        with tempfile.TemporaryDirectory(prefix="edgekit-qemu-") as name:
            folder = Path(name)
            # Models of the same inputs and rows have the same overhead, which is then counted once.
            empties = {key: write_empty_model(model, folder / "empty") for key, (model, _) in models.items()}
            overheads = {
                (empties[key].sha256, rows_key(rows)): (empties[key], rows) for key, (_, rows) in models.items()
            }
            counts = self._count(folder, [*models.values(), *overheads.values()], together)
        overhead = dict(zip(overheads, counts[len(models) :], strict=True))
        result = {}
        for (key, (_, rows)), gross in zip(models.items(), counts, strict=False):
            net_of = overhead[empties[key].sha256, rows_key(rows)]
            net = gross - net_of
            result[key] = InstructionCount(float(net.mean()), float(net_of.mean()), len(net), tuple(net.tolist()))
        return result

    def _count(self, folder: Path, models: Sequence[tuple[ModelFile, TokenRows]], together: bool) -> list[np.ndarray]:
        """Returns the instructions of an inference of each row of each model, runner included; each (rows,)."""
        settings = {"passes": PASSES, "mark_fd": MARK_FD}
        at_once = max(1, min(MAX_SHARES, usable_cores(), len(models)))
        shares = at_once if together else len(models)
        dealt = [models[share::shares] for share in range(shares)]
        jobs = [Job("passes", {str(place): one for place, one in enumerate(part)}, 1, settings) for part in dealt]
        runs = self._runs(folder, jobs, COUNT_FILE)
        for first in range(0, len(runs), at_once):
            run_jobs(self.uri, runs[first : first + at_once], quiet_limit_s=COUNT_QUIET_LIMIT_S)
        counts: list[np.ndarray] = [np.empty(0)] * len(models)
        for share, (run, part) in enumerate(zip(runs, dealt, strict=True)):
            lengths = [len(rows.ids) for _, rows in part]
            taken = counted_rows(run.folder / COUNT_FILE, self.uri, sum(lengths))
            counts[share::shares] = np.split(taken, np.cumsum(lengths)[:-1])
        return counts

    def _runs(self, folder: Path, jobs: Sequence[Job], count_into: str | None = None) -> list[Run]:
        """Writes jobs below a folder and returns the processes that run them here."""
        sysroot, stamp = open_sysroot(self.uri, sorted({m.runtime for job in jobs for m, _ in job.models.values()}))
        overlay = sysroot.write_overlay(folder / "overlay", self.cpu, stamp["features"][self.cpu])
        command = sysroot.command(self.cpu, overlay, count_into)
        return [
            Run(command, {**runtime_env(job.threads), **sysroot.env()}, write_job(folder / f"job-{index}", job))
            for index, job in enumerate(jobs)
        ]


def counted_rows(path: Path, uri: str, rows: int) -> np.ndarray:
    """Returns the instructions that each row took, (rows,), the mean over the passes after the settling ones.

    Args:
        path: totals at the marks, one a line: before the first row and after each row of each pass.
        uri: device, for the message.
        rows: of a pass.

    Raises:
        DeviceError: the counter left something else.
    """
    totals = [int(line) for line in path.read_text().split()] if path.exists() else []
    if len(totals) != PASSES * rows + 1:
        raise DeviceError(
            f"{uri}: the instruction counter left {len(totals)} totals for {PASSES} passes of {rows} rows"
        )
    taken: np.ndarray = np.diff(totals).reshape(PASSES, rows)[SETTLING_PASSES:].mean(axis=0)
    return taken


def rows_key(rows: TokenRows) -> tuple[bytes, ...]:
    """Returns what tells token rows apart."""
    return tuple(np.asarray(row, dtype=np.int64).tobytes() for row in rows.ids)


def uris() -> tuple[str, ...]:
    """Names the processors that can be emulated."""
    return tuple(f"qemu:{cpu}" for cpu in CPUS)


def nearest(wanted: Processor) -> str | None:
    """Returns the emulation of that very processor, if qemu has it."""
    emulated = architecture(wanted.arch) == "aarch64" and wanted.cpu in CPUS
    return f"qemu:{wanted.cpu}" if emulated else None


def connect(uri: str) -> Device:
    """Returns the emulated processor named after the colon.

    Raises:
        InputError: there is no such processor.
    """
    cpu = uri.partition(":")[2]
    if cpu not in CPUS:
        raise InputError(f"device {uri!r}: no processor {cpu!r}{suggestion(cpu, CPUS)}")
    return QemuDevice(cpu)


def prepare(uri: str, report: Callable[[str], None]) -> None:
    """Makes the Arm userland in the cache folder; does nothing if it is there already.

    Raises:
        InputError: there is no such processor.
        DeviceError: a program is missing, or a step failed.
    """
    device = connect(uri)
    build(device.uri, report)
