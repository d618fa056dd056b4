"""How far a table of costs is off for shapes that it has not seen: ten random students, predicted and measured.

Their depths, widths and lengths are others than the table's, and so are the columns of the factorised word tables that
three have. Where costs are times, the table's reference is timed in the same run, and its factor is applied: what is
judged is the model, not the drift of the machine between two runs.

    python bench/costs.py targets/costs/cortex-a76-384-32.json --target arm64 --device qemu:cortex-a76
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from edgekit import devices
from edgekit.quiet import quiet_libraries
from edgekit.search.costs import check_setting, read_costs
from edgekit.search.shapes import Shape
from edgekit.stages._cycles import cycles_of
from edgekit.stages.profile import Profile, costs_of, factor_of, setting_of
from edgekit.target import TargetView, load_target

LENGTHS = (12, 24, 100)
COMPILED = (32, 64, 96)  # inputs of an NPU are multiples of sixteen
# Heads in twelfths of the width and FFN channels in forty-eighths of four times the width, as the table's; labels;
# columns of the word table in twelfths of the width, 0 where it is whole.
HELD_OUT = (
    (((5, 10),), 4, 0),
    (((10, 30),), 60, 4),
    (((6, 12), (6, 12)), 500, 0),
    (((9, 40), (3, 3)), 150, 6),
    (((7, 7), (11, 42)), 10, 0),
    (((4, 16), (4, 16), (4, 16)), 1000, 0),
    (((11, 2), (2, 44), (7, 10)), 33, 8),
    (((12, 48), (6, 24), (6, 12), (3, 6)), 77, 0),
    (((5, 14),) * 5, 6, 0),
    (((10, 38), (9, 34), (8, 30), (7, 26), (6, 22), (5, 18)), 120, 0),
)


def held_out(hidden: int, head_dim: int) -> list[Shape]:
    """Returns the shapes of a width."""
    heads, channels = hidden // head_dim, 4 * hidden
    return [
        Shape(
            hidden,
            head_dim,
            tuple(max(1, round(h * heads / 12)) for h, _ in layers),
            tuple(round(f * channels / 48) for _, f in layers),
            labels,
            rank * hidden // 12,
        )
        for layers, labels, rank in HELD_OUT
    ]


def main() -> None:
    """Prints each shape's cost as predicted and as measured, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--rounds", type=int, default=2 * Profile.rounds)
    given = parser.parse_args()
    table, target = read_costs(given.table), TargetView(load_target(given.target), Profile.READS, Profile.NAME)
    setting = table.setting
    check_setting(table, setting_of(target, given.device, setting.hidden, setting.head_dim), str(given.table))
    fixed, timed = setting.sequence_length, table.unit == "ms"
    judged = [fixed] if isinstance(fixed, int) else list(COMPILED if table.unit == "cycles" else LENGTHS)
    lengths = sorted({*judged, *(table.lengths if timed else ())})
    shapes = held_out(setting.hidden, setting.head_dim)
    again = [table.points[table.reference].shape] if timed else []

    def told(done: int, total: int, what: str) -> None:
        print(f"{done} of {total} {what}", file=sys.stderr)

    with quiet_libraries(Profile.TOOLS):
        machine = devices.connect(given.device)
        if table.unit == "cycles":
            costs = cycles_of(shapes, lengths, target, 1, told)
        else:
            costs = costs_of([*shapes, *again], lengths, target, machine, given.rounds, 1, told).costs
    if timed:
        at = [lengths.index(length) for length in table.lengths]
        factor = factor_of(table, {family: [own[i] for i in at] for family, own in costs[-1].items()})
        print(f"the reference takes {factor:.3f} times what the table says")
        table = table.scaled(factor)
    print(f"cost in {table.unit}")
    print(f"{'shape':60} {'family':8} {'tokens':>6} {'predicted':>12} {'measured':>12} {'error':>7}")
    errors = []
    for shape, own in zip(shapes, costs, strict=False):
        for family in table.families:
            for length in judged:
                predicted, measured = table.cost(shape, [length], [family]), own[family][lengths.index(length)]
                errors.append(100 * (predicted / measured - 1))
                print(f"{shape!s:60} {family:8} {length:6} {predicted:12.5g} {measured:12.5g} {errors[-1]:+6.1f}%")
    print(f"error: mean {np.mean(np.abs(errors)):.1f} %, largest {np.max(np.abs(errors)):.1f} %")


if __name__ == "__main__":
    main()
