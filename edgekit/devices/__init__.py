"""Ways to reach a machine: one module per URI scheme, found by that scheme.

A device runs model files; it knows nothing of stages or recipes. `local` is this machine, `qemu:cortex-a76` a
64-bit Arm CPU under user-mode emulation. Every device drives the same `runner.py`, a program that needs only numpy
and the runtime, so that what is measured on a board is what was tested here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekit.errors import DeviceError, InputError, suggestion
from edgekit.provenance import Provenance
from edgekit.target import DeviceSection

Progress = Callable[[int, int], None]

RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "litert": ("ai-edge-litert", "edgekit[litert]"),
    "qnn": ("onnxruntime-qnn", "edgekit[qnn]"),
}
"""Runtimes that `runner.py` drives: the package that each comes in, and what is installed to have it."""

FORMATS = {".onnx": "onnxruntime", ".tflite": "litert"}
"""Which of them runs a model file, by its suffix."""


@dataclass(frozen=True)
class ModelFile:
    """A model file together with the digest that the device checks before it loads it.

    Attributes:
        path: the model file, in one piece (no external data).
        sha256: hex digest of its bytes.
        pad_id: token id that fills a static-length input up to its length.
        min_runtime: oldest runtime that loads it, which the device checks first; empty where nobody said.
        options: entries of the runtime's session configuration, from the target's profile.
        by: what runs it (`RUNTIMES`), where its suffix does not say: an accelerator's program is an ONNX file too.
    """

    path: Path
    sha256: str
    pad_id: int = 0
    min_runtime: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    by: str = ""

    @property
    def runtime(self) -> str:
        """Names what runs the file (`RUNTIMES`).

        Raises:
            DeviceError: nothing here does.
        """
        if self.by:
            return self.by
        if self.path.suffix not in FORMATS:
            raise DeviceError(f"{self.path.name} is no {' or '.join(sorted(FORMATS))} file")
        return FORMATS[self.path.suffix]


@dataclass(frozen=True)
class Processor:
    """The processor that a figure is wanted for: a target's.

    Attributes:
        arch: as `uname -m` prints it.
        cpu: as qemu names it.
        isa: extensions that every device of the target has, in the Linux kernel's names.
        accelerator: that runs the program beside it, as its compiler names it; "" for none.
    """

    arch: str
    cpu: str
    isa: tuple[str, ...]
    accelerator: str = ""


def processor_of(section: DeviceSection) -> Processor:
    """Returns the processor of a target's profile."""
    return Processor(section.arch, section.cpu, section.isa, section.accelerator)


@dataclass(frozen=True)
class TokenRows:
    """Tokenised rows of unequal length.

    Attributes:
        ids: token ids of each row, int64, shape (length of that row,). Never padded.
    """

    ids: Sequence[np.ndarray]


@dataclass(frozen=True)
class LatencyPlan:
    """How latency is taken: alternating blocks of runs, one model at a time, so that each runs from warm caches.

    Attributes:
        rounds: blocks per model.
        block_runs: timed runs in a block; at least 50.
        warmup_runs: untimed runs at the start of each block (the other model has evicted the caches).
        loads: processes that share the rounds, each of which loads the models anew: where a model's memory comes to lie
            stays as long as it is loaded, and now and then costs a small one half as much again.
        threads: intra-op threads of the runtime.
        memory: whether each model's peak memory is taken too, in a process of its own.
    """

    rounds: int = 8
    block_runs: int = 60
    warmup_runs: int = 5
    loads: int = 4
    threads: int = 1
    memory: bool = True

    def shares(self) -> list[dict[str, int]]:
        """Returns what each process is to run, as the runner's `latency` setting."""
        settings = {"block_runs": self.block_runs, "warmup_runs": self.warmup_runs}
        parts = np.array_split(np.arange(self.rounds), max(1, min(self.loads, self.rounds)))
        return [{"first_round": sum(map(len, parts[:i])), "rounds": len(one)} | settings for i, one in enumerate(parts)]


@dataclass(frozen=True)
class Samples:
    """Timings of one model.

    Attributes:
        load_ms: time to make the session, the median over loads.
        cold_ms: the first inference after load, likewise.
        block_ms: shape (rounds, block_runs), milliseconds; run k of round r is of row r * block_runs + k, modulo the
            number of rows.
        block_cold_ms: the first run of each block, part of its warm-up, shape (rounds,): the others have just evicted
            this model from the caches.
        peak_rss_bytes: of a process of its own that loads and runs this model alone; None where it cannot be read, or
            was not asked for.
    """

    load_ms: float
    cold_ms: float
    block_ms: np.ndarray
    block_cold_ms: np.ndarray
    peak_rss_bytes: int | None


@dataclass(frozen=True)
class InstructionCount:
    """Instructions of the target's ISA that one inference executes.

    Attributes:
        per_inference: mean over the rows, net of `runner_overhead`.
        runner_overhead: instructions an inference of an empty model, the cost of Python and the session call.
        rows: rows over which the mean was taken.
        by_row: of each row, in their order, net as well; empty where a device knows the mean alone.
    """

    per_inference: float
    runner_overhead: float
    rows: int
    by_row: tuple[float, ...] = ()


@dataclass(frozen=True)
class Unavailable:
    """A figure that this device cannot take, with the reason that reports print."""

    reason: str


class Device(Protocol):
    """A machine that runs model files."""

    @property
    def uri(self) -> str:
        """What the device was connected by."""
        ...

    def accelerates(self, wanted: Processor) -> bool:
        """Whether it runs programs of that processor's accelerator; without, what a CPU runs is run."""
        ...

    def unavailable(self, runtime: str = "onnxruntime") -> Unavailable | None:
        """Says why the device cannot be used now with a runtime (and what to do), or None if it can."""
        ...

    def fingerprint(self, runtime: str = "onnxruntime") -> Mapping[str, str]:
        """Identifies the machine and a runtime: measurements are never reused across fingerprints."""
        ...

    def provenance(self, wanted: Processor) -> tuple[Provenance, str]:
        """Provenance of a figure taken here for a target with that processor, with the reason in words."""
        ...

    def logits(self, model: ModelFile, rows: TokenRows, threads: int, progress: Progress | None) -> np.ndarray:
        """Runs every row at batch 1 and its real length; returns float32 logits, shape (rows, classes)."""
        ...

    def timeless(self) -> Unavailable | None:
        """Says why `latency` gives no times, or None if it does."""
        ...

    def countless(self) -> Unavailable | None:
        """Says why `instructions` gives no counts, or None if it does."""
        ...

    def latency(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], plan: LatencyPlan
    ) -> Mapping[str, Samples] | Unavailable:
        """Times the models in alternating blocks, all in one process or in several that share the rounds."""
        ...

    def instructions(
        self, models: Mapping[str, tuple[ModelFile, TokenRows]], threads: int, together: bool = False
    ) -> Mapping[str, InstructionCount] | Unavailable:
        """Counts executed instructions an inference of each model over its rows.

        With `together` many models may share a process, which is quicker and a little less exact.
        """
        ...


class DeviceModule(Protocol):
    """What a module in this folder offers: the module's name is its URI scheme."""

    SUMMARY: str

    def uris(self) -> Sequence[str]:
        """Names the devices of this scheme that are known without asking the user."""
        ...

    def nearest(self, wanted: Processor) -> str | None:
        """Returns the URI of the device of this scheme that stands for a processor without being asked for, if any."""
        ...

    def connect(self, uri: str) -> Device:
        """Returns the device named by `uri`; does not touch it yet.

        Raises:
            InputError: the URI is malformed for this scheme.
        """
        ...

    def prepare(self, uri: str, report: Callable[[str], None]) -> None:
        """Installs what the device needs on this machine; does nothing if it is there already.

        Raises:
            DeviceError: it cannot be prepared here, with what to install.
        """
        ...


def schemes() -> tuple[str, ...]:
    """Names the URI schemes there are, from the files of this folder.

    Left out: `runner*.py`, which is what they push, and what they share, whose names begin with an underscore.
    """
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if not name.startswith(("_", "runner"))))


def module_for(uri: str) -> DeviceModule:
    """Returns the module that serves `uri` (`scheme` or `scheme:rest`).

    Raises:
        InputError: no module has that scheme.
    """
    scheme = uri.partition(":")[0]
    if scheme not in schemes():
        raise InputError(f"no device scheme {scheme!r} in {uri!r}{suggestion(scheme, schemes())}")
    module: DeviceModule = importlib.import_module(f"{__name__}.{scheme}")
    return module


def connect(uri: str) -> Device:
    """Returns the device named by `uri`.

    Raises:
        InputError: unknown scheme or malformed URI.
    """
    return module_for(uri).connect(uri)


def choose(target: str, wanted: Processor, requested: str, runtime: str = "onnxruntime") -> tuple[str, str]:
    """Chooses the device to measure a target on: the one asked for, or the best that is ready on this machine.

    Args:
        target: its name, for the note.
        wanted: its processor.
        requested: URI that the user gave; empty lets this choose.
        runtime: that it has to have.

    Returns:
        URI, and a note where the figures will be estimates ("" otherwise).

    Raises:
        DeviceError: the device asked for cannot be used, or none can, with what to do.
    """
    if requested:
        device = connect(requested)
        missing = device.unavailable(runtime)
        if missing is not None:
            raise DeviceError(f"device {requested} cannot be used: {missing.reason}")
        kind, reason = device.provenance(wanted)
        return requested, f"{target}: figures are estimated; {reason}" if kind is Provenance.ESTIMATED else ""
    ranked = standing_for(wanted)
    best = next((device for device in ranked if device.unavailable(runtime) is None), None)
    if best is None:
        lacks = "; ".join(missing.reason for device in ranked if (missing := device.unavailable(runtime)) is not None)
        raise DeviceError(f"{target}: no device is ready: {lacks}")
    kind, reason = best.provenance(wanted)
    if kind is not Provenance.ESTIMATED:
        return best.uri, ""
    better = [device.unavailable(runtime) for device in ranked[: ranked.index(best)]]
    why = "; ".join(missing.reason for missing in better if missing is not None)
    return best.uri, f"{target}: figures are estimated with this machine's kernels; {why or reason}"


def standing_for(wanted: Processor) -> list[Device]:
    """Returns the devices that stand for a processor without being asked for, best provenance first, ready or not."""
    found = [uri for scheme in schemes() if (uri := module_for(scheme).nearest(wanted)) is not None]
    return sorted(map(connect, found), key=lambda device: list(Provenance).index(device.provenance(wanted)[0]))


def listed() -> list[tuple[str, str, Unavailable | None]]:
    """Returns each device there is a profile or a scheme for: URI, summary, and what it lacks (None: ready)."""
    return [
        (uri, module_for(uri).SUMMARY, connect(uri).unavailable())
        for scheme in schemes()
        for uri in module_for(scheme).uris()
    ]
