"""Where a figure comes from: every figure that edgekit reports carries one of these."""

from __future__ import annotations

from enum import StrEnum


class Provenance(StrEnum):
    """How a figure was taken.

    measured:  on the device named.
    simulated: on the target's own instructions (qemu) or the vendor's simulator.
    estimated: other kernels than the target's, a vendor compiler's cycle count, or a latency table.
    """

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"
