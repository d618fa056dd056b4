"""Findings of the lint: what will cost accuracy or time in int8, told before either is spent.

A finding names a place, says what it is expected to cost, and the option that cures it. The checks that need no model
format are here; those of graphs are the backends'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTLIER_RATIO = 6.0
"""An input channel this many times the median one costs its tensor more than two of eight bits."""


@dataclass(frozen=True)
class Finding:
    """One thing that will cost something.

    Attributes:
        check: its name, such as "outlier-channels".
        place: layer, tensor or operator.
        detail: what was found there.
        cost: what it is expected to cost.
        cure: the option or change that cures it.
    """

    check: str
    place: str
    detail: str
    cost: str
    cure: str


def outlier_channels(place: str, magnitudes: np.ndarray, cure: str) -> Finding | None:
    """Finds input channels of a product far larger than its median one.

    Args:
        place: the product's name.
        magnitudes: of each input channel, (inputs,).
        cure: what to do there.
    """
    median = float(np.median(magnitudes))
    ratio = float(magnitudes.max()) / median if median > 0 else np.inf if magnitudes.max() > 0 else 1.0
    if ratio < OUTLIER_RATIO:
        return None
    order = np.argsort(-magnitudes, kind="stable")
    channels = [int(i) for i in order if magnitudes[i] >= OUTLIER_RATIO * median]
    shown = ", ".join(f"{i} ({magnitudes[i] / median:.0f} times)" if median else str(i) for i in channels[:5])
    more = f" and {len(channels) - 5} more" if len(channels) > 5 else ""
    bits = np.log2(ratio) if np.isfinite(ratio) else 8.0
    return Finding(
        "outlier-channels",
        place,
        f"input channels {shown}{more} against the median channel",
        f"the other channels keep about {max(8 - bits, 0):.1f} of 8 bits",
        cure,
    )


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Orders findings by check and place, so that two runs read alike."""
    return sorted(findings, key=lambda finding: (finding.check, finding.place))
