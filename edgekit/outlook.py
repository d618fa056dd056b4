"""What can be taken of a target's figures on this machine, and what would have to be installed for more."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.backends import load_backend
from edgekit.devices import processor_of, standing_for
from edgekit.provenance import Provenance
from edgekit.target import Target


@dataclass(frozen=True)
class Outlook:
    """What a build for a target can take on this machine.

    Attributes:
        device: URI of the device that a build would choose; "" where none is ready.
        accuracy: provenance of what it answers; None where there is no device.
        latency, instructions: of its times and its counts; None where it takes none.
        cycles: of what the accelerator's compiler estimates; None where it does not.
        lacks: what is missing, with what to install: first for a build at all, then for better figures.
    """

    device: str
    accuracy: Provenance | None
    latency: Provenance | None
    instructions: Provenance | None
    cycles: Provenance | None
    lacks: tuple[str, ...]


def outlook(target: Target) -> Outlook:
    """Looks what a build for a target would find here; nothing is run.

    Raises:
        TargetError: there is no backend for its runtime.
    """
    backend, wanted = load_backend(target.runtime.name), processor_of(target.device)
    missing = backend.missing()
    lacks = [] if missing is None else [missing]
    cycles = Provenance.ESTIMATED if missing is None and backend.estimates() else None
    for device in standing_for(wanted):
        lacking = device.unavailable(backend.RUNS_ON)
        if lacking is not None:
            lacks.append(lacking.reason)
            continue
        kind, _ = device.provenance(wanted)
        timed, counted = device.timeless() is None, device.countless() is None
        return Outlook(device.uri, kind, kind if timed else None, kind if counted else None, cycles, tuple(lacks))
    return Outlook("", None, None, None, cycles, tuple(lacks))
