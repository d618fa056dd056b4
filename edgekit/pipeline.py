"""Plans and runs a build: each target walks the stages in order, and what two targets share runs once."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import data, devices, frontends, manifest, measured
from edgekit.action import Actions, Made, Observer, action_components
from edgekit.artifact import Accuracy, Artifact, Plan, Program, RawData
from edgekit.backends import load_backend, ready_backend
from edgekit.checkpoint import Checkpoint, inspect, locate
from edgekit.devices import processor_of
from edgekit.disk import full_explained
from edgekit.errors import (
    ArtifactError,
    InputError,
    RecipeError,
    TargetError,
    UnmeasurableError,
    suggestion,
)
from edgekit.front import Front, remove_front, write_front
from edgekit.provenance import Provenance
from edgekit.publish import check_out, previous_keys, publish
from edgekit.quant.findings import in_short
from edgekit.recipe import Recipe, check_limits, check_seed, make_stage, merged_options, with_limits
from edgekit.search.request import FIXES, fixed, sweeps, wanted
from edgekit.source import resolve
from edgekit.stage import (
    Conducting,
    Demanding,
    Fitted,
    Foresighted,
    Inputs,
    Placed,
    Resolvable,
    Stage,
    key_of,
)
from edgekit.stages import ORDER, SEARCHING
from edgekit.stages.benchmark import Benchmark, why_no_memory
from edgekit.stages.gate import read_figure
from edgekit.stages.search import Search
from edgekit.store import Store
from edgekit.sweeping import Swept, front_of
from edgekit.target import Target, load_target
from edgekit.tasks import load_task
from edgekit.verdict import limits_of
from edgekit.world import current_world

UNKNOWN = "depends on what runs before it"


@dataclass(frozen=True)
class Planned:
    """A stage of a plan: what would happen to it."""

    target: str
    stage: str
    cached: bool
    reason: str


@dataclass(frozen=True)
class Source:
    """What a build starts from, checked."""

    recipe: Recipe
    checkpoint: Checkpoint
    artifacts: Mapping[type[Artifact], Artifact]
    targets: tuple[Target, ...]

    def check_unchanged(self) -> None:
        """Refuses files that changed while a stage read them: its output would stand under the wrong digest.

        Raises:
            InputError: the model or the data is not what it was when the build started.
        """
        files = data.find_splits(self.artifacts[RawData].path)
        now = {type(self.checkpoint.artifact()): self.checkpoint.artifact().digest, RawData: data.data_digest(files)}
        for kind, digest in now.items():
            if kind not in self.artifacts or self.artifacts[kind].digest != digest:
                raise InputError(f"the {kind.KIND} changed during the build; run it again when nothing writes to it")


def open_source(recipe: Recipe) -> Source:
    """Checks all of a recipe that can be checked without running anything.

    Raises:
        InputError: with what is wrong and what to do.
    """
    check_limits(recipe.limits)
    check_seed(recipe.seed)
    load_task(recipe.task)
    known = {cls.NAME: cls for cls in ORDER}
    for name, options in recipe.options.items():
        if name not in known:
            raise RecipeError(f"there is no stage {name!r} to set options of{suggestion(name, known)}")
        make_stage(known[name], options)
    if sweeps(recipe.options) and not wanted(recipe.options):
        raise RecipeError(
            "a sweep goes over structures, but options of distill or prune give one, or search.enabled is false; "
            "leave those out, or leave --sweep out"
        )
    if not recipe.targets:
        raise RecipeError("no target given; name one with --target (`edgekit targets` lists them)")
    if len(set(recipe.targets)) != len(recipe.targets):
        raise RecipeError(f"a target is named twice: {', '.join(recipe.targets)}")
    targets = tuple(with_limits(load_target(name), recipe.limits) for name in recipe.targets)
    names = [target.name for target in targets]
    if len(set(names)) != len(names):
        raise RecipeError(f"two targets have one name ({', '.join(names)}); each needs a folder of its own")
    for target in targets:
        _check_target(target)
    if recipe.device:
        devices.connect(recipe.device)
    check_out(Path(recipe.out), names)
    files = data.find_splits(resolve(recipe.data, "data"))
    checkpoint = inspect(locate(recipe.model, recipe.allow_download), recipe.task)
    frontends.check(checkpoint.model_type)
    for cls in ORDER:
        stage = make_stage(cls, recipe.options.get(cls.NAME, {}))
        if isinstance(stage, Foresighted):
            stage.check_model(checkpoint.config)
        for target in targets if isinstance(stage, Demanding) else ():
            stage.check_target(target)
    model = checkpoint.artifact()
    raw = RawData(files.path, data.data_digest(files))
    return Source(recipe, checkpoint, {type(model): model, RawData: raw}, targets)


def _check_target(target: Target) -> None:
    """Refuses what only shows when a target meets the code: its runtime, its operators, the range of its limits."""
    backend = ready_backend(target.runtime.name)
    try:
        backend.check(dataclasses.asdict(target.device), dataclasses.asdict(target.shape))
    except TargetError as error:
        raise TargetError(f"target {target.name}: {error}") from error
    if not target.quant.ops:
        raise TargetError(f"target {target.name}: 'quant.ops' is empty; name operators, or give \"all\"")
    ops = () if target.quant.ops == "all" else target.quant.ops
    unknown = [op for op in ops if op not in backend.OPS]
    if unknown:
        raise TargetError(
            f"target {target.name}: 'quant.ops' names {unknown[0]!r}{suggestion(unknown[0], backend.OPS)}"
        )
    limits = limits_of(dataclasses.asdict(target.budget), dataclasses.asdict(target.gate))
    try:
        manifest.decode(manifest.Limits, manifest.encode(limits))
    except ArtifactError as error:
        raise RecipeError(f"target {target.name}: an impossible limit: {error}") from error


def stages_for(target: Target, options: Mapping[str, Mapping[str, Any]], source: Source) -> list[Stage]:
    """Returns the stages of a target with their options, without those whose output is given or not wanted."""
    stages: list[Stage] = []
    for cls in ORDER:
        if cls.OUT in source.artifacts or (cls in SEARCHING and not wanted(options)):
            continue
        stage: Stage = make_stage(cls, options.get(cls.NAME, {}))
        if isinstance(stage, Conducting):
            stage = stage.knowing(options)
        if isinstance(stage, Fitted):
            stage = stage.for_width(*frontends.width_of(source.checkpoint.path))
        stages.append(stage.resolved(target) if isinstance(stage, Resolvable) else stage)
    return stages


def planned_stages(
    stages: Sequence[Stage], planned: Mapping[str, Mapping[str, Any]], source: Source, target: Target
) -> list[Stage]:
    """Returns stages anew, with what a search decided in the place of their defaults; the recipe's options stay."""
    options = merged_options(planned, source.recipe.options)
    anew = {stage.NAME: stage for stage in stages_for(target, options, source)}
    return [anew.get(stage.NAME, stage) for stage in stages]


def plan(source: Source, store: Store, use_cache: bool = True) -> list[Planned]:
    """Says what a build would run and what it would find; a stage behind one that runs cannot be known."""
    planned: list[Planned] = []
    for target in source.targets:
        artifacts = dict(source.artifacts)
        wanted = processor_of(target.device)
        device, _ = devices.choose(target.name, wanted, source.recipe.device, load_backend(target.runtime.name).RUNS_ON)
        left = stages_for(target, source.recipe.options, source)
        unplanned = any(Plan is stage.OUT for stage in left)
        while left:
            stage = left.pop(0)
            # What a search that has not run yet decides is not known.
            if (unplanned and stage.NAME in FIXES) or not all(kind in artifacts for kind in stage.IN):
                planned.append(Planned(target.name, stage.NAME, False, UNKNOWN))
                continue
            key = key_of(action_components(stage, artifacts, target, source.recipe, device))
            found = store.find(key, stage.OUT) if use_cache else None
            if found is not None:
                artifacts[stage.OUT] = found[1]
                if isinstance(found[1], Plan):
                    left, unplanned = planned_stages(left, found[1].options, source, target), False
            absent = "no such entry in the store" if use_cache else "the cache is off"
            reason = absent if found is None else "found in the store"
            planned.append(Planned(target.name, stage.NAME, found is not None, reason))
    return planned


def build(
    recipe: Recipe, store: Store, observer: Observer, render: Callable[[Any], str], use_cache: bool = True
) -> dict[str, Path]:
    """Builds every target and puts its bundle in place.

    Args:
        recipe: what is wanted.
        store: where artifacts are kept.
        observer: is told what happens.
        render: makes report.html of a manifest.
        use_cache: whether entries made before this build count.

    Returns:
        The folder of each target's bundle.

    Raises:
        EdgekitError: see `edgekit.errors`; nothing half-written is left behind.
    """
    source = open_source(recipe)
    if given := fixed(recipe.options):
        observer.noted(f"{' and '.join(given)} given: the student's structure is not searched")
    world = current_world()
    out: dict[str, Path] = {}
    made_now: dict[str, str] = {}
    written = (store.root, Path(tempfile.gettempdir()), Path(recipe.out).absolute())
    with full_explained(written), store.session():
        for target in source.targets:
            check_measurable(target, recipe)
        for target in source.targets:
            before = previous_keys(Path(recipe.out) / target.name)
            stages = stages_for(target, recipe.options, source)
            actions = _actions(source, target, stages, store, observer, before, made_now, use_cache)
            artifacts, lineage = _walk(actions, stages, source.artifacts, source)
            if world.leads:
                out[target.name] = publish(source.checkpoint, recipe, target, artifacts, lineage, render, store)
                remove_front(Path(recipe.out), target.name)
            if sweeps(recipe.options):
                students = _swept(actions, stages, artifacts, source)
                if world.leads:
                    write_front(Path(recipe.out), _measured_together(actions, students, artifacts))
                world.share("measured")  # the others wait: they would take processors away from what is timed
    return out


def check_measurable(target: Target, recipe: Recipe) -> None:
    """Refuses limits of the recipe, or a sweep, that nothing here can judge for a target, before hours are spent.

    A limit of the target's own profile is not refused: it is of the device, which need not be at hand for a bundle.

    Raises:
        UnmeasurableError: the device gives no times or counts, or those of another processor.
    """
    if sweeps(recipe.options) and target.device.accelerator:
        raise UnmeasurableError(
            f"{target.name}: nothing here times an {target.device.accelerator}, so that a sweep's students have no "
            "order; leave --sweep out, or sweep for a target without an accelerator"
        )
    limits = dataclasses.asdict(recipe.limits)
    if all(limits[name] is None for name in ("max_latency_ms", "max_instructions", "max_memory_mb")):
        return
    wanted = processor_of(target.device)
    uri, _ = devices.choose(target.name, wanted, recipe.device, load_backend(target.runtime.name).RUNS_ON)
    device = devices.connect(uri)
    provenance, reason = device.provenance(wanted)
    timed, counted = device.timeless(), device.countless()
    here = "Build on a machine with the target's processor (--device local)"
    counter = "Name a device that counts (--device, listed by `edgekit devices`)"
    for name, missing, instead in (
        ("max_latency_ms", timed, f"{here}, or limit --max-instructions in its place"),
        ("max_instructions", counted, f"{counter}, or limit --max-latency-ms in its place"),
        ("max_memory_mb", timed and devices.Unavailable(why_no_memory(timed)), here),
    ):
        limit = limits[name]
        if limit is not None and (missing or provenance is Provenance.ESTIMATED):
            why = missing.reason if missing else reason
            raise UnmeasurableError(f"{target.name}: nothing here can judge {name} {limit:g}: {uri}: {why}. {instead}")


def make_until(recipe: Recipe, store: Store, observer: Observer, last: str) -> dict[type[Artifact], Artifact]:
    """Runs the first target's stages up to one, and returns what they made; a build afterwards finds it.

    Args:
        recipe: what is wanted.
        store: where artifacts are kept.
        observer: is told what happens.
        last: name of the stage to stop after.

    Raises:
        EdgekitError: as a build.
    """
    source = open_source(recipe)
    target = source.targets[0]
    stages = stages_for(target, recipe.options, source)
    stages = stages[: [stage.NAME for stage in stages].index(last) + 1]
    with full_explained((store.root, Path(tempfile.gettempdir()))), store.session():
        actions = _actions(source, target, stages, store, observer, {}, {}, use_cache=True)
        artifacts, _ = _walk(actions, stages, source.artifacts, source)
    return artifacts


def _actions(
    source: Source,
    target: Target,
    stages: Sequence[Stage],
    store: Store,
    observer: Observer,
    before: Mapping[str, str],
    made_now: dict[str, str],
    use_cache: bool,
) -> Actions:
    """Chooses the device where a stage measures, and returns what a target's actions share."""
    device, note = "", None
    if any(stage.MEASURES for stage in stages):
        wanted = processor_of(target.device)
        device, note = devices.choose(
            target.name, wanted, source.recipe.device, load_backend(target.runtime.name).RUNS_ON
        )
        for stage in stages:
            if isinstance(stage, Placed):
                stage.check_device(target, device)
    if note:
        observer.noted(note)
    return Actions(source.recipe, target, device, store, observer, before, made_now, use_cache, source.check_unchanged)


def _walk(
    actions: Actions, stages: Sequence[Stage], given: Mapping[type[Artifact], Artifact], source: Source
) -> tuple[dict[type[Artifact], Artifact], list[Made]]:
    """Runs or finds stages, one after the other; returns all artifacts, and what was done for each stage."""
    artifacts, lineage, name = dict(given), list[Made](), actions.target.name
    left = list(stages)
    while left:
        stage = left.pop(0)
        made = actions.make(stage, artifacts)
        artifacts[stage.OUT] = made.artifact
        lineage.append(made)
        actions.observer.finished(name, made)
        for text in in_short(made.artifact.facts.get("findings", ())):
            actions.observer.noted(f"{name}: {text}")
        if isinstance(made.artifact, Plan):
            left = planned_stages(left, made.artifact.options, source, actions.target)
    return artifacts, lineage


def _swept(
    actions: Actions, stages: Sequence[Stage], artifacts: Mapping[type[Artifact], Artifact], source: Source
) -> list[Swept]:
    """Builds every student that a search trained whole, and runs each over test."""
    plan = artifacts[Plan]
    names = [stage.NAME for stage in stages]
    behind = stages[names.index(Search.NAME) + 1 : names.index(Benchmark.NAME)]
    students = []
    for trained in plan.facts["points"]:
        chosen = planned_stages(behind, trained["options"], source, actions.target)
        made, _ = _walk(actions, chosen, artifacts, source)
        accuracy = read_figure(measured.Accuracy, made[Accuracy].path / "accuracy.json")
        assert accuracy is not None  # the stage always takes it
        program, structure = Inputs(made, (Program,))[Program], trained["structure"]
        students.append(Swept(structure, accuracy, program, structure == plan.facts["structure"]))
    return students


def _measured_together(
    actions: Actions, students: Sequence[Swept], artifacts: Mapping[type[Artifact], Artifact]
) -> Front:
    """Measures the students of a sweep beside one another as stage `benchmark` measures the one in the bundle."""
    recipe = actions.recipe
    benchmark = make_stage(Benchmark, recipe.options.get(Benchmark.NAME, {}))
    return front_of(students, artifacts, actions.target, actions.device, recipe.seed, benchmark, actions.observer.noted)
