"""Puts a finished bundle in place: files, manifest and report together, or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from edgekit import manifest as manifests
from edgekit import measured
from edgekit.artifact import (
    Accuracy,
    Artifact,
    Bundle,
    Candidates,
    EqualisedStudent,
    Graph,
    LabelledData,
    Latency,
    Program,
    QuantizedGraph,
    Student,
    Teacher,
    TeacherGraph,
    Timings,
    Verdict,
    WideStudent,
    file_digest,
)
from edgekit.backends import load_backend
from edgekit.candidate_table import candidates
from edgekit.checkpoint import Checkpoint
from edgekit.devices._host import cpu_model
from edgekit.errors import ArtifactError, OutputError
from edgekit.manifest import FILE_NAME, File, Host, Manifest, Model, Step, Tensor, Tokenizer
from edgekit.quant.findings import in_short
from edgekit.recipe import Recipe
from edgekit.search.trials import spoken
from edgekit.source import shown
from edgekit.stages.bundle import GOLDEN, TOKENIZER
from edgekit.stages.calibrate import MANIFEST as CALIBRATION
from edgekit.stages.compile import COVERAGE, CYCLES
from edgekit.stages.evaluate import AGREEMENT
from edgekit.stages.gate import read_figure
from edgekit.store import Store
from edgekit.target import Target

if TYPE_CHECKING:
    from edgekit.action import Made

REPORT = "report.html"
WEIGHTS: Mapping[type[Artifact], str] = {
    Student: "model.safetensors",
    WideStudent: "model.safetensors",
    EqualisedStudent: "model.safetensors",
}
GRAPHS = (Graph, QuantizedGraph, Program, TeacherGraph)
# Long, or told elsewhere in the manifest, and of no use to the reader of a lineage.
UNREAD_FACTS = (
    "train_rows", "sha256", "trials", "candidates", "left_out", "max_loss", "products", "multiplied", "points",
)  # fmt: skip
SENSITIVE = 5
"""Products whose share of the error a lineage names."""

NO_ACCELERATOR = {
    "cycles": "the CPU's runtime loads the graph as it is; there is no compiler that estimates cycles",
    "coverage": "the CPU runtime runs the whole graph; there is no delegate to cover it",
    "agreement": "the CPU answers by the file itself; there is no accelerator's program to compare it with",
}
"""Why figures of an accelerator are missing of a target that has none."""

NOT_RUN = {
    "cycles": "the accelerator's compiler gives no estimate",
    "coverage": "the accelerator's compiler does not say what it takes",
    "agreement": "no device here runs the accelerator's program",
}
"""Why they are missing of one that has."""

EARLIER = "model.onnx"
"""Model file of bundles whose manifest cannot be read any more."""


def check_out(out: Path, targets: Sequence[str]) -> None:
    """Refuses an output folder that cannot be written, before time is spent.

    Args:
        out: the folder.
        targets: names of the bundles that will be put in it, each in place of an earlier bundle only.

    Raises:
        OutputError: something else is in the way, or the folder cannot be made or written.
    """
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"output folder {out}: {existing} is a file; give another --out")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"output folder {out} cannot be written ({error.strerror}); give another --out") from error
    for place in (out / name for name in targets):
        if place.is_dir() and not place.is_symlink():
            if not any(place.iterdir()):
                continue
            if _is_bundle(place):
                own = _not_of_the_bundle(place)
                if own:
                    raise OutputError(
                        f"{place} holds files that are not part of the bundle: {shown(own)}. A build replaces the "
                        "whole folder; move them away, or give another --out"
                    )
                continue
        elif not place.exists() and not place.is_symlink():
            continue
        raise OutputError(f"{place} is there and is not a bundle of edgekit's; move it away, or give another --out")


def _is_bundle(folder: Path) -> bool:
    """Whether a folder was written by a build of any version, so that a build may replace it."""
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
        item = json.loads(text)
    except (OSError, ValueError):
        return False
    return isinstance(item, dict) and {"schema", "edgekit", "target", "model"} <= set(item)


def _not_of_the_bundle(place: Path) -> list[str]:
    """Names files that a build did not write; of a manifest that cannot be read, only the usual names are known."""
    usual = {
        FILE_NAME,
        REPORT,
        EARLIER,
        GOLDEN,
        CALIBRATION,
        f"{TOKENIZER}/tokenizer.json",
        f"{TOKENIZER}/tokenizer_config.json",
    }
    try:
        earlier = manifests.read(place)
        listed = {earlier.model.path, *(file.path for file in earlier.files)}
    except ArtifactError:
        listed = set()
    found = {p.relative_to(place).as_posix() for p in place.rglob("*") if not p.is_dir()}
    return sorted(found - usual - listed)


def previous_keys(folder: Path) -> dict[str, str]:
    """Returns the stages' keys of the bundle that is in place now; none where there is no readable one."""
    try:
        return {step.stage: step.key for step in manifests.read(folder).lineage}
    except ArtifactError:
        return {}


def publish(
    checkpoint: Checkpoint,
    recipe: Recipe,
    target: Target,
    artifacts: Mapping[type[Artifact], Artifact],
    lineage: Sequence[Made],
    render: Callable[[Manifest], str],
    store: Store,
) -> Path:
    """Writes the bundle beside its place and swaps it in.

    Returns:
        The bundle's folder, `<out>/<target>`.

    Raises:
        OutputError: the folder cannot be written.
    """
    out = Path(recipe.out)
    place = out / target.name
    lock = hashlib.sha256(str(place.resolve()).encode()).hexdigest()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(store.root / "locks" / f"publish-{lock}"):
            fresh, old = out / f".{target.name}.new", out / f".{target.name}.old"
            if old.exists() and not place.exists():  # a build was killed between the two renames below
                os.replace(old, place)
            for leftover in (fresh, old):
                if leftover.exists():
                    shutil.rmtree(leftover)
            try:
                shutil.copytree(artifacts[Bundle].path, fresh)
                (fresh / "facts.json").unlink()
                (fresh / "labels.json").unlink()
                item = describe(checkpoint, recipe, target, artifacts, lineage, fresh)
                (fresh / REPORT).write_text(render(item), encoding="utf-8")
                manifests.write(fresh / FILE_NAME, item)
                _swap(fresh, place, old)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror or error}") from error
    return place


def _swap(fresh: Path, place: Path, old: Path) -> None:
    """Puts `fresh` in place of the bundle that is there, which comes back if that fails."""
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(fresh, place)
    except OSError:
        if old.exists():
            os.replace(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def describe(
    checkpoint: Checkpoint,
    recipe: Recipe,
    target: Target,
    artifacts: Mapping[type[Artifact], Artifact],
    lineage: Sequence[Made],
    folder: Path,
) -> Manifest:
    """Makes the manifest of a bundle whose files lie in `folder`."""
    latency = artifacts[Latency].path
    unmeasured = json.loads((latency / "unmeasured.json").read_text(encoding="utf-8"))
    gate = read_figure(manifests.Gate, artifacts[Verdict].path / "gate.json")
    assert gate is not None
    cycles = read_figure(measured.Cycles, artifacts[Program].path / CYCLES)
    coverage = read_figure(measured.Coverage, artifacts[Program].path / COVERAGE)
    agreement = read_figure(measured.Agreement, artifacts[Accuracy].path / AGREEMENT)
    absent = dict(NOT_RUN if target.device.accelerator else NO_ACCELERATOR)
    for name, figure in (("cycles", cycles), ("coverage", coverage), ("agreement", agreement)):
        if figure is not None:
            del absent[name]
    return Manifest(
        schema=manifests.SCHEMA,
        edgekit=version("edgekit"),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        host=_host(),
        target=_plain(target.as_dict()),
        task=recipe.task,
        labels=tuple(artifacts[Bundle].facts["labels"]),
        recipe=recipe_facts(recipe),
        teacher=_teacher(checkpoint, recipe, artifacts),
        data=_data(recipe, artifacts[LabelledData]),
        model=_model(target, artifacts, folder),
        tokenizer=Tokenizer(
            path=TOKENIZER,
            sha256=file_digest(folder / TOKENIZER / "tokenizer.json"),
            max_length=artifacts[Bundle].facts["max_length"],
            pad_id=artifacts[Bundle].facts["pad_token_id"],
        ),
        files=tuple(
            File(p.relative_to(folder).as_posix(), file_digest(p), p.stat().st_size)
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.relative_to(folder).as_posix() != artifacts[Program].facts["model"]
        ),
        lineage=tuple(_step(made) for made in lineage),
        candidates=candidates(artifacts[Candidates], artifacts[Timings], target),
        accuracy=read_figure(measured.Accuracy, artifacts[Accuracy].path / "accuracy.json"),
        latency=read_figure(measured.Latency, latency / "latency.json"),
        instructions=read_figure(measured.Instructions, latency / "instructions.json"),
        memory=read_figure(measured.Memory, latency / "memory.json"),
        cycles=cycles,
        coverage=coverage,
        agreement=agreement,
        unmeasured={**unmeasured, **absent},
        gate=gate,
    )


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe as plain values: locations by their last part, for a manifest names no path of a machine."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    for name in ("model", "data", "out"):
        plain[name] = _short(getattr(recipe, name))
    plain["targets"] = [Path(name).stem if name.endswith(".toml") else name for name in recipe.targets]
    return plain


def _short(location: str) -> str:
    return location if location.startswith("package:") else Path(location).resolve().name


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _host() -> Host:
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
    )


def _teacher(checkpoint: Checkpoint, recipe: Recipe, artifacts: Mapping[type[Artifact], Artifact]) -> manifests.Teacher:
    facts = artifacts[TeacherGraph].facts
    return manifests.Teacher(
        name=_short(recipe.model),
        architecture=checkpoint.model_type,
        parameters=facts["parameters"],
        bytes=facts["bytes"],
        sha256=artifacts[Teacher].digest,
    )


def _data(recipe: Recipe, artifact: Artifact) -> manifests.Data:
    facts = dict(artifact.facts)
    return manifests.Data(
        name=_short(recipe.data), rows=facts["rows"], test_in_train=facts["test_rows_also_in_train"], facts=facts
    )


def _model(target: Target, artifacts: Mapping[type[Artifact], Artifact], folder: Path) -> Model:
    program = artifacts[Program]
    assert isinstance(program, Program)
    name = program.facts["model"]
    path = folder / name
    described = load_backend(target.runtime.name).describe(folder / program.facts["portable"])
    return Model(
        format=described.format,
        path=name,
        sha256=file_digest(path),
        bytes=path.stat().st_size,
        device_bytes=program.facts["bytes"],
        files=program.facts["files"],
        portable=program.facts["portable"],
        parameters=artifacts[Graph].facts["parameters"],
        inputs=tuple(Tensor(t.name, t.dtype, t.shape) for t in described.inputs),
        outputs=tuple(Tensor(t.name, t.dtype, t.shape) for t in described.outputs),
        opset=described.opset,
        ir_version=described.ir_version,
        min_runtime=described.min_runtime,
    )


def _step(made: Made) -> Step:
    weights, size = WEIGHTS.get(type(made.artifact)), None
    if isinstance(made.artifact, GRAPHS):
        size = made.artifact.model.stat().st_size
    elif weights:
        size = (made.artifact.path / weights).stat().st_size
    facts = dict(made.artifact.facts)
    for name in UNREAD_FACTS:
        facts.pop(name, None)
    shares = facts.pop("sensitivity", None)
    if shares:
        facts["sensitivity"] = _most_sensitive(shares)
    if "findings" in facts:
        facts["findings"] = in_short(facts["findings"])
    return Step(made.stage, made.key, made.seconds, made.cached, made.reason, size, facts)


def _most_sensitive(shares: Mapping[str, float]) -> str:
    """Says what share of int8's error the first few products make, each alone given back to float."""
    first = sorted(shares, key=lambda name: -shares[name])[:SENSITIVE]
    return ", ".join(f"{spoken(name)} {100 * shares[name]:.0f} %" for name in first)


def student_of(folder: Path, store: Store) -> Path:
    """Returns the checkpoint of the float student behind a bundle.

    Raises:
        ArtifactError: the folder is no bundle, or the store does not have its student any more.
    """
    keys = [step.key for step in manifests.read(folder).lineage if step.stage == "prune"]
    found = store.find(keys[0], Student) if keys else None
    if found is None:
        raise ArtifactError(f"the store does not have the student of {folder}; run its build again")
    return found[1].path
