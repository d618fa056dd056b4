"""Geometry of the report's drawings: figures in, percentages of the drawing's width and height out.

The template draws them as inline SVG without a viewBox: positions are percentages, text keeps its size on a phone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from edgekit.manifest import Limits
from edgekit.measured import Accuracy, Histogram
from edgekit.report.figures import digits, milliseconds


@dataclass(frozen=True)
class Tick:
    """A place on the axis in percent of the width, and its label."""

    x: float
    label: str


@dataclass(frozen=True)
class DropChart:
    """The drop with its interval on an axis of points; all in percent of the width. `limit` may be absent."""

    zero: float
    value: float
    low: float
    high: float
    limit: float | None
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram: left edge and width in percent of the width, height in percent of the height."""

    x: float
    width: float
    height: float


@dataclass(frozen=True)
class LatencyChart:
    """Two histograms on one logarithmic axis, each scaled to its own highest bar."""

    artifact: tuple[Bar, ...]
    teacher: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    artifact_p50: float
    teacher_p50: float | None


def drop_chart(accuracy: Accuracy, limits: Limits) -> DropChart:
    """Returns where the drop, its interval, zero and the limit stand, on an axis that shows them all."""
    shown = [0.0, accuracy.drop, *accuracy.ci95, *([] if limits.max_drop is None else [limits.max_drop])]
    low, high = min(shown), max(shown)
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3)

    step = _step(high - low)
    first = math.ceil(low / step)
    ticks = tuple(Tick(place(n * step), _tick_label(n * step)) for n in range(first, math.floor(high / step) + 1))
    return DropChart(
        place(0),
        place(accuracy.drop),
        place(accuracy.ci95[0]),
        place(accuracy.ci95[1]),
        None if limits.max_drop is None else place(limits.max_drop),
        ticks,
    )


def latency_chart(histogram: Histogram, artifact_p50: float, teacher_p50: float | None) -> LatencyChart | None:
    """Returns the bars of artifact and teacher, or None where the edges span nothing that could be drawn.

    Args:
        histogram: bins in ms, as `statistics.histogram` makes them.
        artifact_p50: median of the artifact in ms, marked by a line.
        teacher_p50: median of the teacher in ms, or None.
    """
    edges = histogram.edges_ms
    if len(edges) < 2 or edges[0] <= 0 or any(a >= b for a, b in itertools.pairwise(edges)):
        return None
    low, high = math.log(edges[0] / 1.12), math.log(edges[-1] * 1.12)

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (math.log(value) - low) / (high - low))), 3)

    def bars(counts: tuple[int, ...]) -> tuple[Bar, ...]:
        top = max(counts, default=0)
        return tuple(
            Bar(place(edges[n]), round(place(edges[n + 1]) - place(edges[n]), 3), round(100 * count / top, 2))
            for n, count in enumerate(counts)
            if count
        )

    ticks: list[Tick] = []
    for value in _log_ticks(math.exp(low), math.exp(high)):
        if 3 <= place(value) <= 97 and (not ticks or place(value) - ticks[-1].x > 13):  # a label on a phone
            ticks.append(Tick(place(value), _time_label(value)))
    return LatencyChart(
        bars(histogram.artifact),
        bars(histogram.teacher or ()),
        tuple(ticks),
        place(artifact_p50) if artifact_p50 > 0 else 0.0,
        place(teacher_p50) if teacher_p50 else None,
    )


def share(value: float | None, largest: float) -> float:
    """Returns a length in percent of the longest bar, at least a hair where there is anything to show."""
    return round(max(100 * value / largest, 0.5), 2) if value and largest > 0 else 0.0


def _step(span: float) -> float:
    """Returns a step of 1, 2 or 5 times a power of ten that gives 3 to 6 ticks."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _tick_label(value: float) -> str:
    text = f"{value:.10g}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _time_label(value: float) -> str:
    number, unit = milliseconds(value).split(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}\u202f{unit}"


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten in a range, thinned where they would not fit on a phone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [float(digits(factor * 10.0**power, 1).replace(",", "")) for power in powers for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 6 and inside:
            return inside
    return inside[:: math.ceil(len(inside) / 6)] if inside else [low, high]
