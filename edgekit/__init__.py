"""edgekit: an edge-device deployment compiler for transformers.

All that the command line can do. Nothing heavy is imported until a function needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import registration

if TYPE_CHECKING:
    from edgekit.action import Observer
    from edgekit.front import Front
    from edgekit.manifest import Manifest
    from edgekit.measure import Evaluation, Timing, Verification
    from edgekit.pipeline import Planned
    from edgekit.quant.findings import Finding
    from edgekit.quant.range_file import RangeFile
    from edgekit.range_files import Difference
    from edgekit.recipe import Limits, Recipe
    from edgekit.search.costs import CostTable
    from edgekit.store import Store
    from edgekit.target import Target
    from edgekit.verdict import Gate

__all__ = [
    "Built",
    "Limits",
    "bench",
    "build",
    "calibrate",
    "diff_ranges",
    "evaluate",
    "gate",
    "lint",
    "load_recipe",
    "load_target",
    "make_recipe",
    "open_store",
    "plan",
    "profile",
    "read_costs",
    "read_ranges",
    "student",
    "verify",
    "write_costs",
    "write_ranges",
]

# onnxruntime 1.29 and newer send telemetry from Linux and macOS unless this is set before they are imported; a build
# uses no network (docs/adr/0009-telemetry.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
registration.install()


def __getattr__(name: str) -> Any:
    """Gives `Limits` and `__version__` without importing them for whoever asks for neither."""
    if name == "Limits":
        from edgekit.recipe import Limits

        return Limits
    if name == "__version__":
        from importlib.metadata import version

        return version("edgekit")
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")


@dataclass(frozen=True)
class Built:
    """One target's bundle.

    Attributes:
        target: its name.
        folder: `<out>/<target>`.
        manifest: what the bundle's manifest.json says.
        front: what a sweep found; None where none was asked for.
    """

    target: str
    folder: Path
    manifest: Manifest
    front: Front | None = None

    @property
    def passed(self) -> bool:
        """Whether the gate let it through."""
        return str(self.manifest.gate.verdict) == "pass"


def load_target(name: str) -> Target:
    """Reads a target profile by its name, or by its path (ending in .toml).

    Raises:
        TargetError: unknown or invalid.
    """
    from edgekit import target

    return target.load_target(name)


def load_recipe(
    path: str | Path = "edgekit.toml",
    *,
    model: str | Path | None = None,
    data: str | Path | None = None,
    task: str | None = None,
    targets: Sequence[str] = (),
    out: str | Path | None = None,
    device: str | None = None,
    seed: int | None = None,
    limits: Limits | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    allow_download: bool = False,
) -> Recipe:
    """Reads a recipe file; what else is given replaces the file's values, limits and options one by one.

    Args:
        path: the file.
        model, data, task, targets, out, device, seed, limits, options, allow_download: as in `edgekit.recipe.Recipe`.

    Raises:
        RecipeError: no such file, or it is invalid.
    """
    from edgekit.recipe import assembled
    from edgekit.recipe import load_recipe as load

    return assembled(load(Path(path)), model, data, targets, task, out, device, seed, limits, options, allow_download)


def make_recipe(
    model: str | Path,
    data: str | Path,
    *,
    targets: Sequence[str],
    task: str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    seed: int | None = None,
    limits: Limits | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    allow_download: bool = False,
) -> Recipe:
    """Makes a recipe without a file; None leaves a default.

    Args:
        model, data, targets, task, out, device, seed, limits, options, allow_download: as in `edgekit.recipe.Recipe`.

    Raises:
        RecipeError: the model or the data is empty, or the seed is out of range.
    """
    from edgekit.recipe import assembled

    return assembled({}, model, data, targets, task, out, device, seed, limits, options, allow_download)


def open_store() -> Store:
    """Opens the artifact store of this user (`EDGEKIT_CACHE`, else the XDG cache folder).

    Raises:
        OutputError: it cannot be written.
    """
    from edgekit.errors import OutputError
    from edgekit.paths import cache_dir
    from edgekit.store import Store

    root = cache_dir() / "store"
    try:
        return Store(root)
    except OSError as error:
        raise OutputError(f"the store {root} cannot be written ({error.strerror}); set EDGEKIT_CACHE") from error


def build(
    recipe: Recipe, *, store: Store | None = None, observer: Observer | None = None, use_cache: bool = True
) -> list[Built]:
    """Builds every target of a recipe and puts its bundle in `recipe.out`.

    Args:
        recipe: made by `load_recipe`, or directly.
        store: where artifacts are kept; this user's by default.
        observer: is told what happens; nothing is printed by default.
        use_cache: whether entries made before count.

    Returns:
        One result a target; empty in the processes of torchrun that do not lead.

    Raises:
        EdgekitError: with what is wrong and what to do (see `edgekit.errors`).
    """
    from edgekit import front, manifest, pipeline
    from edgekit.action import Silent
    from edgekit.report import html, sweep
    from edgekit.search.request import sweeps

    folders = pipeline.build(recipe, store or open_store(), observer or Silent(), html.render, use_cache)
    fronts: dict[str, Front] = {}
    for name, folder in folders.items() if sweeps(recipe.options) else ():
        fronts[name] = front.read_front(folder.parent, name)
        sweep.write(front.page_file(folder.parent, name), fronts[name])
    return [Built(name, folder, manifest.read(folder), fronts.get(name)) for name, folder in folders.items()]


def plan(recipe: Recipe, *, store: Store | None = None, use_cache: bool = True) -> list[Planned]:
    """Says what a build would run and what it would find in the store."""
    from edgekit import pipeline

    return pipeline.plan(pipeline.open_source(recipe), store or open_store(), use_cache)


def evaluate(
    folder: str | Path,
    data: str | Path,
    *,
    device: str = "",
    examples: int = 0,
    predictions: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Takes the accuracy of a bundle on labelled rows; see `edgekit.measure.evaluate`."""
    from edgekit import measure
    from edgekit.source import resolve

    out = None if predictions is None else Path(predictions)
    return measure.evaluate(Path(folder), resolve(str(data), "data"), device, examples, out, columns or {}, progress)


def bench(
    folder: str | Path, *, device: str = "", runs: int = 200, threads: int = 1, sequence_length: int = 0
) -> Timing:
    """Times a bundle on a device; see `edgekit.measure.bench`."""
    from edgekit import measure

    return measure.bench(Path(folder), device, runs, threads, sequence_length)


def verify(folder: str | Path, *, device: str = "") -> Verification:
    """Checks a bundle's files and replays its golden rows; see `edgekit.measure.verify`."""
    from edgekit import measure

    return measure.verify(Path(folder), device)


def student(folder: str | Path, *, store: Store | None = None) -> Path:
    """Returns the checkpoint of the float student behind a bundle, for `from_pretrained`.

    Raises:
        ArtifactError: the folder is no bundle, or the store does not have its student any more.
    """
    from edgekit import publish

    return publish.student_of(Path(folder), store or open_store())


def lint(
    model: str | Path,
    *,
    target: str,
    task: str = "text-classification",
    data: str | Path | None = None,
    rows: int | None = None,
    columns: Mapping[str, str] | None = None,
    allow_download: bool = False,
) -> list[Finding]:
    """Looks at a model or a graph before time is spent on it; see `edgekit.linting.lint`.

    Args:
        model, data, allow_download: as in `edgekit.recipe.Recipe`; or an .onnx file, which takes no data.
        target: name of a profile, or a .toml file.
        task: name of the task.
        rows: training rows to run; 64 by default.
        columns: role → column of the data, where they cannot be found.

    Raises:
        InputError: with what is wrong and what to do.
    """
    from edgekit import linting

    given = None if data is None else str(data)
    return linting.lint(str(model), load_target(target), task, given, rows, columns or {}, allow_download)


def calibrate(
    model: str | Path,
    data: str | Path,
    *,
    target: str,
    task: str | None = None,
    policy: str | None = None,
    rows: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int | None = None,
    allow_download: bool = False,
    store: Store | None = None,
    observer: Observer | None = None,
) -> RangeFile:
    """Takes the ranges of a student's activations as a build with the same arguments would, and no more.

    Args:
        model, data, target, task, options, seed, allow_download: as in `edgekit.recipe.Recipe`.
        policy: calibration policy by its name, or a .toml file.
        rows: to draw, in place of the policy's number.
        store: where artifacts are kept; this user's by default.
        observer: is told what happens; nothing is printed by default.

    Raises:
        EdgekitError: with what is wrong and what to do.
    """
    from edgekit import range_files
    from edgekit.action import Silent
    from edgekit.recipe import merged_options

    given = {name: value for name, value in (("policy", policy), ("rows", rows)) if value is not None}
    merged = merged_options(options or {}, {"calibrate": given} if given else None)
    targets = (target,) if target else ()
    recipe = make_recipe(
        model, data, targets=targets, task=task, options=merged, seed=seed, allow_download=allow_download
    )
    return range_files.make(recipe, store or open_store(), observer or Silent())


def read_ranges(path: str | Path) -> RangeFile:
    """Reads a file that `write_ranges` wrote.

    Raises:
        RecipeError: it is missing, or not such a file.
    """
    from edgekit.quant.range_file import read_range_file

    return read_range_file(Path(path))


def write_ranges(path: str | Path, ranges: RangeFile) -> None:
    """Writes ranges for `calibrate.ranges` of a later build.

    Raises:
        OutputError: the file cannot be written.
    """
    from edgekit import range_files

    range_files.write(Path(path), ranges)


def diff_ranges(before: RangeFile, after: RangeFile) -> Sequence[Difference]:
    """Returns the tensors whose ranges differ by more than a hundredth, the largest change first."""
    from edgekit import range_files

    return range_files.diff(before, after)


def profile(
    target: str,
    *,
    model: str | Path | None = None,
    hidden: int | None = None,
    head_dim: int | None = None,
    device: str = "",
    seed: int = 0,
    rounds: int | None = None,
    observer: Observer | None = None,
) -> CostTable:
    """Takes what shapes of students cost on a target's runtime; see `edgekit.profiling.make`."""
    from edgekit import profiling
    from edgekit.action import Silent

    given = None if model is None else str(model)
    return profiling.make(load_target(target), given, hidden, head_dim, device, seed, rounds, observer or Silent())


def read_costs(path: str | Path) -> CostTable:
    """Reads a table that `write_costs` wrote.

    Raises:
        RecipeError: it is missing, or not such a file.
    """
    from edgekit.search.costs import read_costs

    return read_costs(Path(path))


def write_costs(path: str | Path, table: CostTable) -> None:
    """Writes a table for `profile.table` of a later build.

    Raises:
        OutputError: the file cannot be written.
    """
    from edgekit import profiling

    profiling.write(Path(path), table)


def gate(dist: str | Path) -> Sequence[tuple[str, Manifest, Gate]]:
    """Judges the bundles of a folder again from the figures in their manifests alone.

    Raises:
        ArtifactError: there is none, or a manifest is invalid.
    """
    from edgekit import verdict

    return verdict.judge_dist(Path(dist))
