"""Makes one artifact: finds what a stage would write in the store, or runs the stage and commits what it wrote.

A stage may itself have others run (`Context.make`): they are actions like any other, with keys of their own, so that
what a search trains is found by the build that comes after it, and by another target's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from edgekit import devices
from edgekit.artifact import Artifact
from edgekit.backends import load_backend
from edgekit.errors import OutputError
from edgekit.quiet import quiet_libraries
from edgekit.recipe import Recipe
from edgekit.stage import Context, Inputs, Stage, components, difference, key_of
from edgekit.store import Store
from edgekit.target import Target, TargetView
from edgekit.world import World, current_world


@dataclass(frozen=True)
class Made:
    """A stage that was run or found.

    Attributes:
        stage: its name.
        key: of the action.
        seconds: of the run that made the output, now or earlier.
        cached: whether this build found it.
        reason: why it was run, or where it was found.
        artifact: the output.
    """

    stage: str
    key: str
    seconds: float
    cached: bool
    reason: str
    artifact: Artifact


class Observer(Protocol):
    """What a build tells while it runs."""

    def started(self, target: str, stage: str, reason: str) -> None:
        """A stage starts, and why."""
        ...

    def progressed(self, done: int, total: int, what: str) -> None:
        """A stage got further."""
        ...

    def finished(self, target: str, made: Made) -> None:
        """A stage was run or found."""
        ...

    def noted(self, text: str) -> None:
        """Something the user should know."""
        ...


class Silent:
    """An observer that tells nobody."""

    def started(self, target: str, stage: str, reason: str) -> None:
        """Ignores a start."""

    def progressed(self, done: int, total: int, what: str) -> None:
        """Ignores progress."""

    def finished(self, target: str, made: object) -> None:
        """Ignores an end."""

    def noted(self, text: str) -> None:
        """Ignores a note."""


@dataclass(frozen=True)
class Actions:
    """What all actions of one target in one build share.

    Attributes:
        recipe: what is wanted.
        target: with the recipe's limits.
        device: URI to measure on; empty where no stage measures.
        store: where outputs are kept.
        observer: is told what happens.
        before: the keys of the bundle that is in place, by stage: what a reason is given against.
        made_now: keys made in this build, each with its target; grows.
        use_cache: whether entries made before this build count.
        unchanged: raises where the user's files are not what they were when the build started.
    """

    recipe: Recipe
    target: Target
    device: str
    store: Store
    observer: Observer
    before: Mapping[str, str]
    made_now: dict[str, str]
    use_cache: bool
    unchanged: Callable[[], None]

    def components(self, stage: Stage, artifacts: Mapping[type[Artifact], Artifact]) -> dict[str, Any]:
        """Returns all that the output of a stage depends on; its key is their digest."""
        return action_components(stage, artifacts, self.target, self.recipe, self.device)

    def make(self, stage: Stage, artifacts: Mapping[type[Artifact], Artifact]) -> Made:
        """Finds the output or runs the stage; every process of torchrun comes out with the same artifact.

        Args:
            stage: with its options.
            artifacts: its inputs among them.

        Raises:
            EdgekitError: the stage cannot be run, or failed; nothing is recorded then.
        """
        values, world = self.components(stage, artifacts), current_world()
        key, inputs = key_of(values), Inputs(artifacts, stage.IN)
        with ExitStack() as stack:
            found = None
            if world.leads:
                waits = f"{self.target.name}: another build is running stage {stage.NAME}; waiting for it"
                stack.enter_context(self.store.claim(key, lambda: self.observer.noted(waits)))
                if self.use_cache or key in self.made_now:
                    found = self.store.find(key, stage.OUT)
            if world.share(found is not None):
                action, artifact = found or _required(self.store.find(key, stage.OUT), stage)
                return Made(stage.NAME, key, action.seconds, True, self._why_found(key), artifact)
            reason = self._why(stage, key, values)
            self.observer.started(self.target.name, stage.NAME, reason)
            started = time.monotonic()
            if world.leads:
                with self.store.output(key) as folder:
                    self._run(stage, inputs, folder, self.store.resume_dir(key), world)
                    self.unchanged()
                    seconds = time.monotonic() - started
                    artifact = self.store.commit(key, values, folder, stage.OUT, seconds)
            elif stage.PARALLEL:
                with tempfile.TemporaryDirectory() as scratch:
                    self._run(stage, inputs, Path(scratch), self.store.resume_dir(key), world)
            world.share("done")
            if not world.leads:
                action, artifact = _required(self.store.find(key, stage.OUT), stage)
            self.made_now[key] = self.target.name
            return Made(stage.NAME, key, time.monotonic() - started, False, reason, artifact)

    def _run(self, stage: Stage, inputs: Inputs, folder: Path, resume_dir: Path, world: World) -> None:
        def make(other: Stage, artifacts: Mapping[type[Artifact], Artifact]) -> Artifact:
            made = self.make(other, artifacts)
            self.observer.finished(self.target.name, made)
            return made.artifact

        ctx = Context(
            target=TargetView(self.target, stage.READS, stage.NAME),
            task=self.recipe.task,
            seed=self.recipe.seed,
            resume_dir=resume_dir,
            device=self.device if stage.MEASURES else "",
            rank=world.rank,
            processes=world.size if stage.PARALLEL else 1,
            progress=self.observer.progressed if world.leads else lambda *_: None,
            make=make,
        )
        with quiet_libraries(stage.TOOLS):
            stage.requires(inputs, ctx)
            stage.run(inputs, folder, ctx)
            stage.ensures(folder, ctx)

    def _why_found(self, key: str) -> str:
        made_for = self.made_now.get(key)
        if made_for is None:
            return "nothing that it depends on changed"
        return "made earlier in this build" if made_for == self.target.name else f"shared with {made_for}"

    def _why(self, stage: Stage, key: str, values: Mapping[str, Any]) -> str:
        before = self.before.get(stage.NAME)
        if not self.use_cache:
            return "the cache is off"
        if before is None:
            return "not built before"
        if before == key:
            return "its entry in the store was missing or damaged"
        record = self.store.record(before)
        return difference(record.components, values) if record else "the earlier build's entry is gone"


def action_components(
    stage: Stage, artifacts: Mapping[type[Artifact], Artifact], target: Target, recipe: Recipe, device: str
) -> dict[str, Any]:
    """Returns all that the output of a stage depends on; its key is their digest."""
    fingerprint = None
    if stage.MEASURES:
        fingerprint = {"uri": device, **devices.connect(device).fingerprint(load_backend(target.runtime.name).RUNS_ON)}
    values = components(stage, Inputs(artifacts, stage.IN), target, recipe.task, recipe.seed, fingerprint)
    if "runtime.name" in stage.READS:
        values["tools"] |= {name: version(name) for name in load_backend(target.runtime.name).TOOLS}
    if stage.PARALLEL:
        values["processes"] = current_world().size
    return values


def _required(found: Any, stage: Stage) -> Any:
    if found is None:
        raise OutputError(f"the output of stage {stage.NAME} is not in the store that the first process wrote it to")
    return found
