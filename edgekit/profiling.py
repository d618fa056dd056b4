"""Tables of costs by themselves: taken for a target and a width, and written for later builds."""

from __future__ import annotations

from pathlib import Path

from edgekit import devices, frontends
from edgekit.action import Observer
from edgekit.artifact import json_text
from edgekit.backends import ready_backend
from edgekit.checkpoint import inspect, locate
from edgekit.codec import encode
from edgekit.devices import processor_of
from edgekit.errors import RecipeError
from edgekit.quiet import quiet_libraries
from edgekit.recipe import check_seed, make_stage
from edgekit.search.costs import CostTable
from edgekit.stages.profile import Profile, measure, setting_of
from edgekit.store import write_file
from edgekit.target import Target, TargetView

MAX_HIDDEN = 8192
TASK = "text-classification"


def make(
    target: Target,
    model: str | None,
    hidden: int | None,
    head_dim: int | None,
    device: str,
    seed: int,
    rounds: int | None,
    observer: Observer,
) -> CostTable:
    """Takes what shapes of students cost; always anew, also where a table is shipped.

    Args:
        target: whose runtime and quantization.
        model: folder, hub id or `package:NAME/PATH` of a teacher, whose width is taken; None where it is given.
        hidden, head_dim: the width; both or neither.
        device: URI; empty chooses the best that is ready.
        seed: of weights and rows.
        rounds: blocks of each model where times are taken; None for as many as a build takes.
        observer: is told what happens.

    Raises:
        RecipeError: no width, two, or one that cannot be; too few rounds.
        TargetError: no backend serves the target's runtime.
        ModelError: the model cannot be read, or no frontend serves it.
        UnmeasurableError: the device gives neither times nor counts.
        DeviceError: the device cannot be used.
    """
    check_seed(seed)
    stage = make_stage(Profile, {} if rounds is None else {"rounds": rounds})
    width = _width(model, hidden, head_dim)
    runtime = ready_backend(target.runtime.name).RUNS_ON  # before a device is asked for a runtime that there is not
    uri, note = devices.choose(target.name, processor_of(target.device), device, runtime)
    if note:
        observer.noted(note)
    view = TargetView(target, Profile.READS, Profile.NAME)
    observer.started(target.name, Profile.NAME, f"hidden {width[0]}, head_dim {width[1]}, on {uri}")
    with quiet_libraries(Profile.TOOLS):
        return measure(view, uri, setting_of(view, uri, *width), stage.rounds, seed, observer.progressed)


def _width(model: str | None, hidden: int | None, head_dim: int | None) -> tuple[int, int]:
    if model is not None:
        if hidden is not None or head_dim is not None:
            raise RecipeError("a model has a width of its own; leave --hidden and --head-dim out")
        return frontends.width_of(inspect(locate(model, allow_download=False), TASK).path)
    if hidden is None or head_dim is None:
        raise RecipeError("profile needs the teacher's width: name the model, or give --hidden and --head-dim")
    if not 1 <= head_dim <= hidden <= MAX_HIDDEN or hidden % head_dim:
        raise RecipeError(
            f"hidden is {hidden}, head_dim {head_dim}; hidden must be a multiple of head_dim, at most {MAX_HIDDEN}"
        )
    return hidden, head_dim


def write(path: Path, table: CostTable) -> None:
    """Writes a table of costs, or nothing.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, "costs", json_text(encode(table)))
