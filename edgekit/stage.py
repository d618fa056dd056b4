"""What a stage is: a frozen dataclass of options that makes one artifact from others.

The cache key of a stage is the sha256 of all that its output may depend on: its name, version and options, the target
fields it declares, the digests of its inputs, the versions of its tools, the task and the seed, and for a stage that
measures, the device's fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from edgekit.artifact import Artifact
from edgekit.errors import StageContractError
from edgekit.target import Target, TargetView, field_of

A = TypeVar("A", bound=Artifact)

Progress = Callable[[int, int, str], None]
"""Called with units done, units in all, and what they are."""

Make = Callable[["Stage", Mapping[type[Artifact], Artifact]], Artifact]
"""Runs a stage, or finds its output."""


class Inputs:
    """The artifacts that a stage declared in IN, by class."""

    def __init__(self, artifacts: Mapping[type[Artifact], Artifact], allowed: tuple[type[Artifact], ...]) -> None:
        self._artifacts = {kind: artifacts[kind] for kind in allowed}

    def __getitem__(self, kind: type[A]) -> A:
        """Returns the artifact of that class.

        Raises:
            StageContractError: the stage did not declare it.
        """
        if kind not in self._artifacts:
            raise StageContractError(f"{kind.__name__} is not among the declared inputs")
        artifact = self._artifacts[kind]
        assert isinstance(artifact, kind)
        return artifact

    def digests(self) -> dict[str, str]:
        """Returns the digest of each input by its kind."""
        return {kind.KIND: artifact.digest for kind, artifact in self._artifacts.items()}


@dataclass(frozen=True)
class Context:
    """What a running stage may use beside its options and inputs.

    Attributes:
        target: the declared fields of the target.
        task: name of the task (`edgekit.tasks`).
        seed: of everything random.
        resume_dir: survives a kill of the stage, so that training goes on from its last checkpoint.
        device: URI of the device to measure on; empty for stages that do not measure.
        rank, processes: this process among those of torchrun.
        progress: to be called now and then.
        make: has another stage run, or finds its output, with the given artifacts as its inputs: an action with a key
            of its own. Only what that key depends on may decide how it is called.
    """

    target: TargetView
    task: str
    seed: int
    resume_dir: Path
    device: str
    rank: int
    processes: int
    progress: Progress
    make: Make


@runtime_checkable
class Stage(Protocol):
    """A pass. Implementations are frozen dataclasses, one file each in `edgekit/stages/`.

    NAME names it in recipes and manifests. VERSION is raised when the output may change. IN and OUT are the classes
    of its inputs and output, READS the target fields it may see, TOOLS the packages whose versions matter. MEASURES
    says that it runs on a device; PARALLEL that every process of torchrun runs it.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    IN: ClassVar[tuple[type[Artifact], ...]]
    OUT: ClassVar[type[Artifact]]
    READS: ClassVar[tuple[str, ...]]
    TOOLS: ClassVar[tuple[str, ...]]
    MEASURES: ClassVar[bool]
    PARALLEL: ClassVar[bool]

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Raises an `EdgekitError` where the inputs cannot work, before time is spent."""
        ...

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the output into the empty folder `out_dir`; never changes an input."""
        ...

    def ensures(self, output: Path, ctx: Context) -> None:
        """Raises `StageContractError` where the output is not what it must be."""
        ...


@dataclass(frozen=True)
class Pass:
    """Defaults that most stages share; a stage overrides what differs for it."""

    READS: ClassVar[tuple[str, ...]] = ()
    TOOLS: ClassVar[tuple[str, ...]] = ()
    MEASURES: ClassVar[bool] = False
    PARALLEL: ClassVar[bool] = False

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Accepts every input."""

    def ensures(self, output: Path, ctx: Context) -> None:
        """Demands that something was written."""
        if not any(output.iterdir()):
            raise StageContractError(f"{type(self).__name__} wrote nothing")


INTERNAL = {"internal": True}
"""Metadata of a field that is part of a stage's key, but no option: `Resolvable.resolved` fills it in."""


@runtime_checkable
class Resolvable(Protocol):
    """A stage one of whose options is only known with the target: a default that it decides, the digest of a file."""

    def resolved(self, target: Target) -> Stage:
        """Returns the stage with that option set, before its key is made."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """A stage that goes by the teacher's width alone, so that teachers of one width share what it makes."""

    def for_width(self, hidden: int, head_dim: int) -> Stage:
        """Returns the stage with the width, before its key is made."""
        ...


@runtime_checkable
class Conducting(Protocol):
    """A stage that goes by what the recipe sets of others, or has them run (`Context.make`): part of its own key."""

    def knowing(self, options: Mapping[str, Mapping[str, Any]]) -> Stage:
        """Returns the stage with the recipe's options, before its key is made."""
        ...


@runtime_checkable
class Foresighted(Protocol):
    """A stage with options that the model's config.json alone can show to be impossible: told before time is spent."""

    def check_model(self, config: Mapping[str, Any]) -> None:
        """Raises an `EdgekitError` where they are."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """A stage with options that a target's profile alone can show to be impossible: told before time is spent."""

    def check_target(self, target: Target) -> None:
        """Raises an `EdgekitError` where they are."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A stage with options that the device alone can show to be impossible: told before time is spent."""

    def check_device(self, target: Target, device: str) -> None:
        """Raises an `EdgekitError` where they are; `device` is a URI."""
        ...


def components(
    stage: Stage, inputs: Inputs, target: Target, task: str, seed: int, device: Mapping[str, str] | None
) -> dict[str, Any]:
    """Returns all that the output of a stage depends on, as JSON values."""
    values: dict[str, Any] = {
        "stage": stage.NAME,
        "version": stage.VERSION,
        "options": dataclasses.asdict(stage),  # type: ignore[call-overload]  # every stage is a dataclass
        "target": {name: field_of(target, name) for name in stage.READS},
        "inputs": inputs.digests(),
        "tools": {name: importlib.metadata.version(name) for name in stage.TOOLS},
        "task": task,
        "seed": seed,
    }
    if stage.MEASURES:
        values["device"] = dict(device or {})
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def key_of(values: Mapping[str, Any]) -> str:
    """Returns the sha256 of canonical JSON, in hex."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Says in words what differs between two actions' components: why a stage was run again."""
    changes: list[str] = []
    for part in sorted(set(before) | set(now)):
        old, new = before.get(part), now.get(part)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            for name in sorted(set(old) | set(new)):
                if old.get(name) != new.get(name):
                    changes.append(_change(part, name, old.get(name), new.get(name)))
        else:
            changes.append(f"{part} {old} → {new}")
    return "; ".join(changes)


def _change(part: str, name: str, old: object, new: object) -> str:
    if part == "inputs":
        return f"{name} changed"
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [_change(part, f"{name}.{key}", old.get(key), new.get(key)) for key in sorted({*old, *new})]
        return "; ".join(
            text for text, key in zip(inner, sorted({*old, *new}), strict=True) if old.get(key) != new.get(key)
        )
    old, new = (str(v)[:12] + "…" if _is_digest(v) else v for v in (old, new))
    label = {"options": "option", "tools": "version of", "target": "target's", "device": "device's"}.get(part, part)
    return f"{label} {name} {old} → {new}"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
