"""Takes what shapes of students cost on the target's runtime: a table that a search compares thousands of shapes by.

Cost goes by shapes, not by weights, so a spread of random students of the teacher's width is exported, rounded as the
build's own candidates are, and run. All are timed in one run, in alternating blocks: two runs a minute apart differ by
more than neighbouring shapes do. A model's rows are of several lengths in turn, so that one session gives a cost for
each.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit import devices
from edgekit.artifact import FACTS, Costs, file_digest, write_json
from edgekit.backends import load_backend
from edgekit.codec import encode
from edgekit.devices import Device, LatencyPlan, ModelFile, TokenRows, Unavailable
from edgekit.errors import StageContractError, UnmeasurableError
from edgekit.provenance import Provenance
from edgekit.search.arithmetic import counted
from edgekit.search.costs import (
    SCHEMA,
    CostTable,
    Point,
    Setting,
    check_setting,
    fitted,
    read_costs,
    shipped_costs,
    shipped_digest,
)
from edgekit.search.shapes import Shape
from edgekit.stage import INTERNAL, Context, Inputs, Pass, Progress
from edgekit.stages._cycles import LENGTHS as COMPILED_LENGTHS
from edgekit.stages._cycles import cycles_of
from edgekit.stages._students import VOCABULARY, spread, write_forms
from edgekit.stages.evaluate import PROCESSOR, processor
from edgekit.target import Target, TargetView

LENGTHS = (5, 8, 11, 15, 22, 32, 64, 120)
"""Tokens of the rows that are run, where the target's length is not fixed. Kernels take rows in tiles of four to
sixteen, so that lengths that are all multiples of those would not tell what an incomplete tile takes; the longest tells
attention's part, which grows with its square."""

REFERENCE = 6
"""Place among the shapes of a table of the model that is timed again: a student of middling size."""

POSITIONS = 16
"""Rows of a student's position table at least, however short the rows are that it is run on: an export needs some."""

RUNS = 20
"""Timed runs of each length in a block, an even number."""


@dataclass(frozen=True)
class Profile(Pass):
    """Makes a table of costs.

    Attributes:
        table: a file that `edgekit profile --out` wrote for this device, runtime and width, in place of measuring.
        rounds: blocks of each model where times are taken.
        shipped: whether a shipped table of this very device, runtime, quantization and width is taken.
        hidden, head_dim: width of the teacher, filled in by whoever plans the stage.
        table_digest: of `table`, or of the shipped tables, filled in by `resolved`.
    """

    table: str = ""
    rounds: int = 6
    shipped: bool = True
    hidden: int = field(default=0, metadata=INTERNAL)
    head_dim: int = field(default=0, metadata=INTERNAL)
    table_digest: str = field(default="", metadata=INTERNAL)

    NAME: ClassVar[str] = "profile"
    VERSION: ClassVar[int] = 8
    IN: ClassVar = ()
    OUT: ClassVar = Costs
    READS: ClassVar[tuple[str, ...]] = (
        "name",
        *PROCESSOR,
        "device.threads",
        "runtime.name",
        "runtime.version",
        "runtime.options",
        "shape.sequence_length",
        "quant",
    )
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "numpy")
    MEASURES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 2")
        if self.table:
            read_costs(Path(self.table))

    def for_width(self, hidden: int, head_dim: int) -> Profile:
        """Returns the stage for teachers of that width."""
        return dataclasses.replace(self, hidden=hidden, head_dim=head_dim)

    def resolved(self, target: Target) -> Profile:
        """Returns the stage with the digest of the tables that it may take, so that an edited one is taken anew."""
        digest = file_digest(Path(self.table)) if self.table else shipped_digest() if self.shipped else ""
        return dataclasses.replace(self, table_digest=digest)

    def check_device(self, target: Target, device: str) -> None:
        """Refuses a table that is given and of another setting: before the teacher is run over the texts."""
        if self.table:
            view = TargetView(target, self.READS, self.NAME)
            check_setting(
                read_costs(Path(self.table)), setting_of(view, device, self.hidden, self.head_dim), self.table
            )

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes costs.json: a table that was taken before is scaled to how fast the device is when this is run.

        Raises:
            RecipeError: the table given is of another setting.
            UnmeasurableError: the device gives neither times nor counts.
        """
        if min(self.hidden, self.head_dim) < 1:
            raise StageContractError("profile was planned without the teacher's hidden and head_dim")
        wanted = setting_of(ctx.target, ctx.device, self.hidden, self.head_dim)
        made, source, factor = None, "measured", 1.0
        if self.table:
            made, source = read_costs(Path(self.table)), "given"
            check_setting(made, wanted, self.table)
        elif self.shipped and (found := shipped_costs(wanted)) is not None:
            source, made = f"shipped table {found[0]}", found[1]
        if made is None:
            made = measure(ctx.target, ctx.device, wanted, self.rounds, ctx.seed, ctx.progress)
        elif made.unit != "cycles":  # those are the compiler's, wherever it runs
            provenance, reason = devices.connect(ctx.device).provenance(processor(ctx.target))
            # The kernels are the same, the day is not: a laptop on battery takes as long again.
            factor = retimed(made, ctx.target, ctx.device, self.rounds, ctx.seed, ctx.progress)
            made = dataclasses.replace(made.scaled(factor), provenance=provenance, reason=reason)
        write_json(Costs(out_dir, "").file, encode(made))
        facts = {
            "source": source,
            "factor": round(factor, 3),
            "unit": made.unit,
            "device": ctx.device,
            "date": made.date,
            "hidden": self.hidden,
            "head_dim": self.head_dim,
            "models": len(made.points),
            "lengths": list(made.lengths),
            "errors": {name: [fit.mean_error, fit.largest_error] for name, fit in made.fits.items()},
        }
        write_json(out_dir / FACTS, facts)


def setting_of(target: TargetView, device: str, hidden: int, head_dim: int) -> Setting:
    """Returns what a table must be of to serve a target on a device."""
    return Setting(
        hidden=hidden,
        head_dim=head_dim,
        sequence_length=target["shape.sequence_length"],
        threads=target["device.threads"],
        quant=encode(target["quant"]),
        options=target["runtime.options"],
        fingerprint=_fingerprint(target, device),
    )


def _fingerprint(target: TargetView, device: str) -> dict[str, str]:
    """Returns what identifies whoever says the costs: the device, or a compiler that estimates for an accelerator."""
    backend = load_backend(target["runtime.name"])
    if compiler := backend.estimates():
        return {"accelerator": target["device.accelerator"], "compiler": compiler}
    return dict(devices.connect(device).fingerprint(backend.RUNS_ON))


def measure(target: TargetView, device: str, setting: Setting, rounds: int, seed: int, progress: Progress) -> CostTable:
    """Runs a spread of random students and fits their costs.

    Args:
        target: through the fields of `Profile.READS`.
        device: URI.
        setting: of the table.
        rounds: blocks of each model where times are taken.
        seed: of weights and rows.
        progress: is told of each student that is made.

    Raises:
        RecipeError: the target's runtime loads none of the forms.
        UnmeasurableError: the device gives neither times nor counts.
    """
    shapes, lengths = spread(setting.hidden, setting.head_dim), lengths_of(setting)
    machine = devices.connect(device)
    if compiler := load_backend(target["runtime.name"]).estimates():
        return _estimated(shapes[::2], setting, compiler, target, seed, progress)
    if npu := target["device.accelerator"]:
        return counted(setting, target["name"], shapes, lengths, REFERENCE, f"nothing here times an {npu}")
    if setting.sequence_length == "buckets":
        reason = "files have one length each, so that a model would have to be made for every length"
        return counted(setting, target["name"], shapes, lengths, REFERENCE, reason)
    taken = costs_of(shapes, lengths, target, machine, rounds, seed, progress)
    provenance, reason = machine.provenance(processor(target))
    name = load_backend(target["runtime.name"]).RUNS_ON
    points = tuple(Point(shape, costs) for shape, costs in zip(shapes, taken.costs, strict=True))
    return CostTable(
        schema=SCHEMA,
        edgekit=version("edgekit"),
        target=target["name"],
        setting=setting,
        unit=taken.unit,
        provenance=provenance,
        reason=reason,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=f"{name} {setting.fingerprint.get(name, 'of unknown version')}",
        lengths=tuple(lengths),
        points=points,
        reference=REFERENCE,
        fits=fitted(lengths, points, taken.unit),
    )


def _estimated(
    shapes: Sequence[Shape], setting: Setting, compiler: str, target: TargetView, seed: int, progress: Progress
) -> CostTable:
    """Returns a table of what a compiler estimates; it takes seconds for each shape and length."""
    lengths = tuple(lengths_of(setting)) if isinstance(setting.sequence_length, int) else COMPILED_LENGTHS
    costs = cycles_of(shapes, lengths, target, seed, progress)
    points = tuple(map(Point, shapes, costs))
    return CostTable(
        schema=SCHEMA,
        edgekit=version("edgekit"),
        target=target["name"],
        setting=setting,
        unit="cycles",
        provenance=Provenance.ESTIMATED,
        reason=f"estimated by {compiler} for {target['device.accelerator']}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        runtime=compiler,
        lengths=lengths,
        points=points,
        reference=REFERENCE // 2,
        fits=fitted(lengths, points, "cycles"),
    )


def lengths_of(setting: Setting) -> list[int]:
    """Returns the lengths of the rows that are run: the fixed one where there is one."""
    fixed = setting.sequence_length
    return [fixed] if isinstance(fixed, int) else list(LENGTHS)


@dataclass(frozen=True)
class Taken:
    """What shapes took.

    Attributes:
        unit: "ms" or "instructions".
        costs: of each shape, by family, at each length.
    """

    unit: Any
    costs: list[dict[str, tuple[float, ...]]]


def costs_of(
    shapes: Sequence[Shape],
    lengths: Sequence[int],
    target: TargetView,
    machine: Device,
    rounds: int,
    seed: int,
    progress: Progress,
) -> Taken:
    """Makes a random student of each shape and runs them all in one run.

    Args:
        shapes: of one width.
        lengths: tokens of the rows.
        target: through the fields of `Profile.READS`.
        machine: the device.
        rounds: blocks of each model where times are taken.
        seed: of weights and rows.
        progress: is told of each student that is made.

    Raises:
        RecipeError: the target's runtime loads none of the forms.
        UnmeasurableError: the device gives neither times nor counts.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    fixed = isinstance(target["shape.sequence_length"], int)
    longest = max(lengths) if fixed else max(POSITIONS, *lengths)
    rows = [random.integers(1, VOCABULARY, length) for length in lengths]
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as name:
        models: dict[str, ModelFile] = {}
        families: list[str] = []
        for place, shape in enumerate(shapes):
            files = write_forms(shape, longest, target, Path(name) / str(place), seed)
            families = list(files)
            models |= {f"{place} {family}": file for family, file in files.items()}
            progress(place + 1, len(shapes), "students")
        unit, found = _taken(models, rows, target["device.threads"], machine, rounds)
    costs = [{family: found[f"{place} {family}"] for family in families} for place in range(len(shapes))]
    return Taken(unit, costs)


def _taken(
    models: Mapping[str, ModelFile],
    rows: Sequence[np.ndarray],
    threads: int,
    machine: Device,
    rounds: int,
) -> tuple[str, dict[str, tuple[float, ...]]]:
    """Returns the unit, and what each model took for each row."""
    runs = len(rows) * max(RUNS, 2 * -(-25 // len(rows)))  # a block is of 50 runs at least
    # Up and down again: where the shortest always followed the longest, it took longer in some models than the next.
    turns = TokenRows([*rows, *reversed(rows)])
    given = {name: (model, turns) for name, model in models.items()}
    # Once in two rounds: where its memory comes to lie costs a model that about fills a cache up to a tenth.
    loads = max(LatencyPlan.loads, rounds // 2)
    plan = LatencyPlan(rounds=rounds, block_runs=runs, loads=loads, threads=threads, memory=False)
    timed = machine.latency(given, plan)
    if not isinstance(timed, Unavailable):
        return "ms", {name: by_length(samples.block_ms, len(rows)) for name, samples in timed.items()}
    counted = machine.instructions(
        {name: (model, TokenRows(rows)) for name, model in models.items()}, threads, together=True
    )
    if not isinstance(counted, Unavailable):
        return "instructions", {name: count.by_row for name, count in counted.items()}
    raise UnmeasurableError(
        f"{machine.uri} gives no cost of a model: {timed.reason}; {counted.reason}. Name a device that gives times or "
        "counts with --device (`edgekit devices` lists them)"
    )


def by_length(block_ms: np.ndarray, lengths: int) -> tuple[float, ...]:
    """Returns the time of each row: the median over rounds of the median of each.

    Fastest runs are no measure: those of the moments in which the clock ran higher, or a model's memory happened to lie
    well, come to few models. Two runs of one machine agree to 1.5 % in the mean by medians, to 5.8 % by fastest runs
    (docs/log.md).

    Args:
        block_ms: (rounds, runs), the rows up and down again; runs is a multiple of twice their number.
        lengths: rows that there are.
    """
    turns = block_ms.reshape(len(block_ms), -1, 2, lengths)
    each = np.concatenate([turns[:, :, 0], turns[:, :, 1, ::-1]], axis=1)  # (rounds, runs of a row, rows)
    return tuple(np.median(np.median(each, axis=1), axis=0).tolist())


def retimed(table: CostTable, target: TargetView, device: str, rounds: int, seed: int, progress: Progress) -> float:
    """Times a table's reference model again; returns how many times as long it takes now. Counts do not change: 1.

    Args:
        table: of this device.
        target: through the fields of `Profile.READS`.
        device: URI.
        rounds: blocks of each form.
        seed: of weights and rows.
        progress: is told of what is made.

    Raises:
        UnmeasurableError: the device gives neither times nor counts.
    """
    if table.unit != "ms":
        return 1.0
    point = table.points[table.reference]
    taken = costs_of([point.shape], table.lengths, target, devices.connect(device), rounds, seed, progress)
    return factor_of(table, taken.costs[0])


def factor_of(table: CostTable, costs: Mapping[str, Sequence[float]]) -> float:
    """Returns how many times as long the reference takes now, the median over families and lengths."""
    before = table.points[table.reference].costs
    ratios = [now / then for family in before for now, then in zip(costs[family], before[family], strict=True)]
    return float(np.median(ratios))
