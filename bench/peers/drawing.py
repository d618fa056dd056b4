"""Draws speed against accuracy as an SVG with numbers for names, which the table beside it explains.

Across: times the teacher's speed, logarithmic. Upwards: points lost against the teacher, none at the top. Up and to
the right is better. Numbers that would cover each other are moved apart and tied to their points by a line.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 52
LABEL = 18  # pixels that a number takes
AROUND = ((16, 0), (-16, 0), (0, -16), (0, 16), (18, -18), (18, 18), (-18, -18), (-18, 18), (34, 0), (0, -34), (0, 34))

STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #1f2328; text-anchor: middle; dominant-baseline: central }
    .end { text-anchor: end }
    .axis { fill: #59636e }
    .grid { stroke: #d1d9e0 }
    .tie { stroke: #8c959f }
    .peer { fill: #8c959f }
    .own { fill: #0969da }
    .name-own { fill: #0969da; font-weight: 600 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .axis { fill: #9198a1 }
      .grid { stroke: #3d444d }
      .tie { stroke: #656c76 }
      .own { fill: #4493f8 }
      .name-own { fill: #4493f8 }
    }"""

Point = tuple[int, float, float, bool]
"""Number, times the teacher's speed, points lost, whether it is edgekit's."""


@dataclass(frozen=True)
class Placed:
    """Where a point and its number stand, in pixels from the upper left."""

    number: int
    x: float
    y: float
    label_x: float
    label_y: float
    own: bool


@dataclass(frozen=True)
class Axes:
    """What the axes span: speeds, logarithmic, and points lost."""

    slow: float
    fast: float
    least: float
    most: float

    def x(self, speed: float) -> float:
        """Returns the place of a speed in pixels from the left."""
        share = math.log(speed / self.slow) / math.log(self.fast / self.slow)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, drop: float) -> float:
        """Returns the place of a drop in pixels from the top."""
        return TOP + (drop - self.least) / (self.most - self.least) * (HEIGHT - TOP - BOTTOM)


def span(points: Sequence[Point]) -> Axes:
    """Returns axes that show every point and the teacher, with a margin."""
    speeds, drops = [1.0, *(speed for _, speed, _, _ in points)], [0.0, *(drop for _, _, drop, _ in points)]
    margin = 0.08 * (max(drops) - min(drops)) or 0.5
    return Axes(min(speeds) / 1.2, max(speeds) * 1.2, min(drops) - margin, max(drops) + margin)


def place(points: Sequence[Point], axes: Axes) -> list[Placed]:
    """Places the points, and each number beside its point where it covers no other number or point, if it can."""
    dots = [(axes.x(speed), axes.y(drop)) for _, speed, drop, _ in points]
    taken: list[tuple[float, float]] = []
    placed = []
    for (number, _, _, own), (x, y) in zip(points, dots, strict=True):
        others = [dot for dot in dots if dot != (x, y)]
        places = [(x + dx, y + dy) for dx, dy in AROUND]
        label = max(
            [at for at in places if LEFT + LABEL / 2 < at[0] < WIDTH - RIGHT / 2 and at[1] < HEIGHT - BOTTOM],
            key=lambda at: min([LABEL, *(max(abs(at[0] - a), abs(at[1] - b)) for a, b in (*taken, *others))]),
        )
        taken.append(label)
        placed.append(Placed(number, x, y, *label, own))
    return placed


def draw(name: str, points: Sequence[Point]) -> str:
    """Returns the SVG of one data set.

    Args:
        name: of the data set, for the title.
        points: at least one.
    """
    axes = span(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        f'  <title id="title">{html.escape(name)}: points lost against the teacher over times its speed</title>',
        f"  <style>{STYLE}\n  </style>",
    ]
    for speed in speed_ticks(axes):
        x = axes.x(speed)
        parts.append(f'  <path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'  <text class="axis" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}">{speed:g}×</text>')
    for drop in drop_ticks(axes):
        y = axes.y(drop)
        parts.append(f'  <path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        text = f"{drop:g}".replace("-", "−")
        parts.append(f'  <text class="axis end" x="{LEFT - 8}" y="{y:.1f}">{text}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    across = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'  <text class="axis" x="{across}" y="{HEIGHT - 14}">times the teacher\'s speed</text>')
    parts.append(f'  <text class="axis" transform="rotate(-90 18 {middle})" x="18" y="{middle}">points lost</text>')
    for one in place(points, axes):
        kind = "own" if one.own else "peer"
        parts.append(f'  <path class="tie" d="M{one.x:.1f} {one.y:.1f}L{one.label_x:.1f} {one.label_y:.1f}"/>')
        parts.append(f'  <circle class="{kind}" cx="{one.x:.1f}" cy="{one.y:.1f}" r="5"/>')
        x = one.label_x + math.copysign(5, one.label_x - one.x) * (one.label_x != one.x)
        parts.append(f'  <text class="name-{kind}" x="{x:.1f}" y="{one.label_y:.1f}">{one.number}</text>')
    return "\n".join([*parts, "</svg>", ""])


def speed_ticks(axes: Axes) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten that the axis shows."""
    powers = range(math.floor(math.log10(axes.slow)), math.ceil(math.log10(axes.fast)) + 1)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
    return [tick for tick in ticks if axes.slow <= tick <= axes.fast]


def drop_ticks(axes: Axes) -> list[float]:
    """Returns multiples of 1, 2 or 5 times a power of ten, about five of them."""
    rough = (axes.most - axes.least) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(n * step, 9) for n in range(math.ceil(axes.least / step), math.floor(axes.most / step) + 1)]
