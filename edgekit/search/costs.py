"""Tables of costs: what each shape of student takes on a target's own runtime, without exporting it.

A table holds what a few random models of a spread of shapes took, since cost goes by shapes and not by weights, and a
model fitted to it for each family of integer forms: units of work (`edgekit.search.shapes`) times what one of each
takes, none less than nothing. Chosen over one entry for each layer's width, which would have to be measured for every
length and would not add up: what surrounds the products costs as much as they do at a dozen tokens.

Times are not quite a sum: where the weights outgrow a cache of the processor, products take longer, and weights have to
be fetched from farther away. How many that are nobody knows of a device, so the fit tries some and keeps what best
foretells shapes that it was not shown.

The fit weighs relative errors, since a search compares shapes that are an order of magnitude apart. How far it is off
for shapes that are not in the table is told by leaving each one out in turn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from edgekit import codec
from edgekit.codec import Within
from edgekit.devices import RUNTIMES
from edgekit.errors import ArtifactError, RecipeError
from edgekit.provenance import Provenance
from edgekit.search.nnls import nnls
from edgekit.search.shapes import UNITS, Shape, units
from edgekit.target import shipped_folder

SCHEMA: Literal[2] = 2
MAX_BYTES = 4 << 20
FAMILIES = ("static", "dynamic")
KERNELS = ("device", "system", "machine", "cpu", "isa", "accelerator", "compiler", *RUNTIMES)
"""Entries of a device's fingerprint that decide what runs there: the others do not change what a table holds."""

FASTER = 0.9
"""Ratio of cost below which another family than the static one is shipped: nearer ones may change places from run to
run."""

CACHED = tuple(eighths << 17 for eighths in (4, 5, 6, 7, 8, 9, 10, 12, 16, 24, 32, 48, 64))
"""Weights that a cache may hold, a byte each, which a fit to times tries: from half a MiB to eight."""

REWEIGHTED = 5
"""Solutions of a fit: the first weighs all points alike, each further one those more that the last was far off for."""

LEAST_ERROR = 0.01
"""Added to relative errors that weigh points, so that one that is met exactly still counts."""

Positive = Annotated[float, Within(1e-12)]


@dataclass(frozen=True)
class Setting:
    """What a table is of: one of another setting says nothing here.

    Attributes:
        hidden: width of the residual stream.
        head_dim: width of an attention head.
        sequence_length: that the target's models are padded to, "dynamic" where they are not, or "buckets" where each
            is padded to one of a few lengths that go by the data: costs are then asked for at those.
        threads: intra-op threads of the runtime.
        quant: the target's section of that name, which decides what is rounded.
        options: of the runtime's session.
        fingerprint: of the device.
    """

    hidden: Annotated[int, Within(1)]
    head_dim: Annotated[int, Within(1)]
    sequence_length: Annotated[int, Within(1)] | Literal["dynamic", "buckets"]
    threads: Annotated[int, Within(1)]
    quant: Mapping[str, object]
    options: Mapping[str, str]
    fingerprint: Mapping[str, str]

    def differences(self, wanted: Setting) -> list[str]:
        """Says what differs from a setting that a table is wanted of, each with both values; empty where none does."""
        pairs = [
            (name, getattr(self, name), getattr(wanted, name))
            for name in ("hidden", "head_dim", "sequence_length", "threads")
        ]
        for name, here, there in (
            ("quant", self.quant, wanted.quant),
            ("runtime option", self.options, wanted.options),
        ):
            pairs += [(f"{name} {key}", here.get(key), there.get(key)) for key in sorted({*here, *there})]
        here, there = (kernels(one.fingerprint) for one in (self, wanted))
        pairs += [(f"device's {key}", here.get(key), there.get(key)) for key in sorted({*here, *there})]
        return [f"{name} {_plain(old)}, wanted {_plain(new)}" for name, old, new in pairs if _plain(old) != _plain(new)]


def kernels(fingerprint: Mapping[str, str]) -> dict[str, str]:
    """Returns the entries of a device's fingerprint that decide which kernels run there."""
    return {name: fingerprint[name] for name in KERNELS if name in fingerprint}


@dataclass(frozen=True)
class Point:
    """A model that was measured.

    Attributes:
        shape: its own.
        costs: of each family, at each of the table's lengths.
    """

    shape: Shape
    costs: Mapping[str, tuple[Positive, ...]]


@dataclass(frozen=True)
class Fit:
    """What units of work take, of one family.

    Attributes:
        coefficients: of each of `edgekit.search.shapes.UNITS`, in the table's unit, at least 0.
        cached: weights that a cache holds, a byte each: of those beyond `streamed` and `fetched` tell. None where no
            number of them explains the points better than none.
        mean_error, largest_error: of the points, each predicted by a fit to the other shapes, in percent.
    """

    coefficients: Mapping[str, Annotated[float, Within(0)]]
    cached: Annotated[int, Within(1)] | None
    mean_error: Annotated[float, Within(0)]
    largest_error: Annotated[float, Within(0)]


@dataclass(frozen=True)
class CostTable:
    """What shapes of one width take on one device.

    Attributes:
        schema: of this format.
        edgekit: version that made it.
        target: name of the target whose runtime and quantization it is of.
        setting: what it is of.
        unit: of all costs: milliseconds, instructions where time says nothing, cycles where a compiler estimates them,
            or multiply-adds where nothing here runs what the target does (`edgekit.search.arithmetic`).
        provenance, reason: of the costs, for the target.
        date: when they were taken, ISO 8601 in UTC.
        runtime: name and version.
        lengths: tokens of the rows that were run; one alone where the target's length is fixed.
        points: the models.
        reference: place among them of the model to time again: what it then takes is this table's factor, because a
            machine's speed drifts from run to run.
        fits: by family.
    """

    schema: Literal[2]
    edgekit: str
    target: str
    setting: Setting
    unit: Literal["ms", "instructions", "cycles", "multiply-adds"]
    provenance: Provenance
    reason: str
    date: str
    runtime: str
    lengths: tuple[Annotated[int, Within(1)], ...]
    points: tuple[Point, ...]
    reference: Annotated[int, Within(0)]
    fits: Mapping[str, Fit]

    @property
    def families(self) -> tuple[str, ...]:
        """The families that it has costs of."""
        return tuple(family for family in FAMILIES if family in self.fits)

    def cost(self, shape: Shape, lengths: Sequence[int], families: Sequence[str] = ()) -> float:
        """Returns what an inference takes: the mean over rows of those lengths, of the family that would be shipped.

        Args:
            shape: of the table's width.
            lengths: tokens of the rows.
            families: to choose among; all that there are by default.

        Raises:
            ValueError: the shape is of another width, there are no lengths, or the table lacks a family.
        """
        return self.cost_of(shape, lengths, self.shipped(shape, lengths, families))

    def shipped(self, shape: Shape, lengths: Sequence[int], families: Sequence[str] = ()) -> str:
        """Returns the family that would be shipped; arguments and errors as `cost`."""
        return shipped_family({one: self.cost_of(shape, lengths, one) for one in families or self.families})

    def cost_of(self, shape: Shape, lengths: Sequence[int], family: str) -> float:
        """Returns what an inference of one family takes; arguments and errors as `cost`."""
        width = self.setting.hidden, self.setting.head_dim
        if (shape.hidden, shape.head_dim) != width:
            raise ValueError(f"the table is of width {width}, the shape of {shape.hidden}, {shape.head_dim}")
        if family not in self.fits:
            raise ValueError(f"the table has no family {family!r}, only {', '.join(self.families)}")
        fit = self.fits[family]
        counted = units(shape, self._run_at(lengths), fit.cached)
        return float(counted.mean(axis=0) @ np.array([fit.coefficients[name] for name in UNITS]))

    def scaled(self, factor: float) -> CostTable:
        """Returns the table of a machine that takes `factor` times as long: what timing the reference again tells.

        Raises:
            ValueError: the factor is not positive.
        """
        if not factor > 0:
            raise ValueError(f"the factor is {factor}; it must be positive")
        points = tuple(
            Point(one.shape, {family: tuple(factor * c for c in costs) for family, costs in one.costs.items()})
            for one in self.points
        )
        fits = {
            family: dataclasses.replace(fit, coefficients={n: factor * c for n, c in fit.coefficients.items()})
            for family, fit in self.fits.items()
        }
        return dataclasses.replace(self, points=points, fits=fits)

    def _run_at(self, lengths: Sequence[int]) -> Sequence[int]:
        """Returns the lengths that rows are run at: one alone where all are padded to it."""
        if not len(lengths):
            raise ValueError("a cost is of rows; there are no lengths")
        fixed = self.setting.sequence_length
        return [fixed] if isinstance(fixed, int) else lengths


def shipped_family(costs: Mapping[str, float]) -> str:
    """Returns the family that would be shipped: the static one, unless another takes a tenth less.

    Args:
        costs: of a shape, by family, at least one.
    """
    least = min(costs, key=lambda family: costs[family])
    return least if "static" not in costs or costs[least] < FASTER * costs["static"] else "static"


def fitted(lengths: Sequence[int], points: Sequence[Point], unit: str) -> dict[str, Fit]:
    """Fits what units of work take to measured points, for each family.

    Args:
        lengths: tokens of the rows.
        points: at least one, all with the same families and a cost for each length.
        unit: of the costs. Instructions are no more where weights come from farther away.
    """
    found = {}
    for family in points[0].costs:
        fits = [_fit(lengths, points, family, cached) for cached in (None, *(CACHED if unit == "ms" else ()))]
        found[family] = min(fits, key=lambda fit: fit.mean_error)
    return found


def _fit(lengths: Sequence[int], points: Sequence[Point], family: str, cached: int | None) -> Fit:
    counted = np.stack([units(point.shape, lengths, cached) for point in points])
    costs = np.array([point.costs[family] for point in points], dtype=np.float64)
    errors = np.concatenate(
        [
            np.abs(counted[place] @ _prices(np.delete(counted, place, 0), np.delete(costs, place, 0)) / own - 1)
            for place, own in enumerate(costs)
        ]
    )
    prices = dict(zip(UNITS, _prices(counted, costs).tolist(), strict=True))
    return Fit(prices, cached, 100 * float(errors.mean()), 100 * float(errors.max()))


def _prices(counted: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns the coefficients of least relative error, cubed: of two fits the one that is nowhere far off.

    Ref: Burrus, Barreto & Selesnick 1994: iteratively reweighted least squares, a few steps of it for the norm L3.

    Args:
        counted: (points, lengths, units).
        costs: (points, lengths).
    """
    rows = (counted / costs[..., None]).reshape(-1, len(UNITS))
    scale = rows.max(axis=0, initial=0.0)  # units are up to 10^9 apart
    scale[scale == 0] = 1.0
    rows, weights = rows / scale, np.ones(len(rows))
    for _ in range(REWEIGHTED):
        prices = nnls(rows * weights[:, None], weights)
        weights = np.sqrt(np.abs(rows @ prices - 1) + LEAST_ERROR)
    found: np.ndarray = prices / scale
    return found


def read_costs(path: Path) -> CostTable:
    """Reads a table of costs.

    Raises:
        RecipeError: it is missing, not JSON, or a key is unknown, missing or wrong (which is named).
    """
    again = "make it with `edgekit profile`"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not a table of costs")
        value = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=codec.refuse_constant,
            object_pairs_hook=codec.refuse_repeated,
        )
        if not isinstance(value, dict):
            raise RecipeError(f"{path} is not a table of costs: expected an object; {again}")
        table: CostTable = codec.decode(CostTable, value, "")
    except OSError as error:
        raise RecipeError(
            f"costs cannot be read from {path} ({error.strerror}); `edgekit profile … --out` writes such a file"
        ) from error
    except (ArtifactError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a table of costs: {error}; {again}") from error
    fault = _fault(table)
    if fault:
        raise RecipeError(f"{path}: {fault}; {again}")
    return table


def _fault(table: CostTable) -> str:
    """Says what does not fit together in a table whose keys are all right; empty where nothing does not."""
    if not table.points or not table.lengths or not table.fits:
        return "it lacks points, lengths or fits"
    if sorted(set(table.lengths)) != list(table.lengths):
        return "its lengths do not rise"
    if table.reference >= len(table.points):
        return f"reference is {table.reference}, but there are {len(table.points)} points"
    for family, fit in table.fits.items():
        if family not in FAMILIES:
            return f"fits has {family!r}; known: {', '.join(FAMILIES)}"
        if set(fit.coefficients) != set(UNITS):
            return f"fits.{family} counts other units of work than this edgekit: an earlier edgekit made it"
    width = table.setting.hidden, table.setting.head_dim
    for place, point in enumerate(table.points):
        if (point.shape.hidden, point.shape.head_dim) != width:
            return f"points[{place}] is of another width than the table"
        if set(point.costs) != set(table.fits) or any(len(c) != len(table.lengths) for c in point.costs.values()):
            return f"points[{place}] has not one cost for each family and length"
    return ""


def check_setting(table: CostTable, wanted: Setting, where: str) -> None:
    """Refuses a table of another device, runtime, quantization or width.

    Raises:
        RecipeError: with what differs and both fingerprints.
    """
    differing = table.setting.differences(wanted)
    if differing:
        raise RecipeError(
            f"{where} is a table of another setting: {'; '.join(differing)}. It was taken on "
            f"{_words(table.setting.fingerprint)}; the device here is {_words(wanted.fingerprint)}. Make one with "
            "`edgekit profile`"
        )


def shipped_costs(wanted: Setting) -> tuple[str, CostTable] | None:
    """Returns the shipped table that is of exactly this setting, with its name, or None where there is none."""
    for path in _shipped():
        table = read_costs(path)
        if not table.setting.differences(wanted):
            return path.stem, table
    return None


def shipped_digest() -> str:
    """Returns the sha256 of all shipped tables together, in hex."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _shipped())).hexdigest()


def _shipped() -> list[Path]:
    return sorted((shipped_folder() / "costs").glob("*.json"))


def _words(fingerprint: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in kernels(fingerprint).items())


def _plain(value: object) -> str:
    """Returns a value as JSON has it: a tuple of a profile and a list of a file are the same."""
    return json.dumps(value, sort_keys=True)
