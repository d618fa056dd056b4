"""Findings of the lint: what will cost accuracy or time in int8, told before either is spent.

A finding names a place, says what it is expected to cost, and the option that cures it. The checks that need no model
format are here; those of graphs are the backends'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.quant.ranges import Observed

OUTLIER_RATIO = 6.0
"""An input channel this many times the median one costs its tensor more than two of eight bits."""

WITH_RATIO, NAMED = 5, 32
"""Outlier channels that are told with their ratio, and those that are named at all; there are seldom more."""

WORTH_TELLING = 12.0
"""Ratio from which a build tells of a channel: what is below is seen to, or is not worth a Mul."""

NO_COST = "none on CPUs"
"""Cost of what only other targets mind: `lint` says it, a build for this target does not."""

HALVES_DISAGREE = 0.25
"""Share of a range that one half of the calibration rows does not reach; a quarter costs two fifths of a bit."""


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


def outlier_channels(place: str, magnitudes: np.ndarray, cure: str, least: float = OUTLIER_RATIO) -> Finding | None:
    """Finds input channels of a product far larger than its median one.

    Args:
        place: the product's name.
        magnitudes: of each input channel, (inputs,).
        cure: what to do there.
        least: ratio from which a channel stands out.
    """
    median = float(np.median(magnitudes))
    ratio = float(magnitudes.max()) / median if median > 0 else np.inf if magnitudes.max() > 0 else 1.0
    if ratio < least:
        return None
    order = np.argsort(-magnitudes, kind="stable")
    channels = [int(i) for i in order if magnitudes[i] >= least * median]
    ratios = [f"{i} ({magnitudes[i] / median:.0f} times)" if median else str(i) for i in channels[:WITH_RATIO]]
    shown = ", ".join([*ratios, *map(str, channels[WITH_RATIO:NAMED])])
    more = f" and {len(channels) - NAMED} more" if len(channels) > NAMED else ""
    bits = np.log2(ratio) if np.isfinite(ratio) else 8.0
    return Finding(
        "outlier-channels",
        place,
        f"input channels {shown}{more} against the median channel",
        f"the other channels keep about {max(8 - bits, 0):.1f} of 8 bits",
        cure,
    )


def unsteady_ranges(observed: Mapping[str, Observed], readers: Mapping[str, str] | None = None) -> list[Finding]:
    """Finds tensors whose extremes the odd and the even calibration rows disagree on.

    Args:
        observed: by tensor.
        readers: tensor → product that it enters, to name it by; others have the tensor's name.
    """
    found = []
    for name, one in observed.items():
        lows, highs = zip(*((min(low, 0.0), max(high, 0.0)) for low, high in one.halves), strict=True)
        spans = [high - low for low, high in zip(lows, highs, strict=True)]
        both = max(highs) - min(lows)
        difference = 1 - min(spans) / both if both > 0 else 0.0
        if difference > HALVES_DISAGREE:
            found.append(
                Finding(
                    "unsteady-range",
                    f"input of {readers[name]}" if readers and name in readers else name,
                    f"{lows[0]:.3g} to {highs[0]:.3g} on one half of the calibration rows, {lows[1]:.3g} to "
                    f"{highs[1]:.3g} on the other",
                    f"up to {100 * difference:.0f} % of the range is decided by which rows were drawn",
                    "more rows (--set calibrate.rows=N); policy default also compares methods that clip",
                )
            )
    return found


def constant_tensors(observed: Mapping[str, Observed]) -> list[Finding]:
    """Finds tensors that had one value on every row: nothing to round, and a hint that a part of the model is dead."""
    return [
        Finding("constant-tensor", name, f"always {one.histogram.low:g}", "none", "look whether the layer was trained")
        for name, one in observed.items()
        if one.histogram.low == one.histogram.high
    ]


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Orders findings by check and place, so that two runs read alike."""
    return sorted(findings, key=lambda finding: (finding.check, finding.place))


def in_short(findings: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns one line for each check that found something: its first finding, and how many more there are.

    Args:
        findings: as dictionaries, in order.
    """
    by_check: dict[str, list[Mapping[str, str]]] = {}
    for finding in findings:
        by_check.setdefault(finding["check"], []).append(finding)
    lines = []
    for check, found in by_check.items():
        first, more = found[0], f" and {len(found) - 1} more" if len(found) > 1 else ""
        lines.append(f"{check}: {first['place']}{more}: {first['detail']}; {first['cost']}; {first['cure']}")
    return lines
