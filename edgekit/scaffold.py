"""Writes a commented recipe for `edgekit init`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import RecipeError
from edgekit.recipe import DEFAULT_FILE, Limits, check_limits
from edgekit.store import write_atomically
from edgekit.target import load_target, shipped_targets
from edgekit.tasks import load_task

TEMPLATE = """\
# What `edgekit build` makes; every key but `model` is also a flag of that command.
model = {model}    # a folder, a hub id in the hub's cache, or package:NAME/PATH
data = {data}    # a folder with train, dev and test files, one file, or package:NAME/PATH
task = {task}
targets = {targets}    # `edgekit targets` lists them; a .toml file of your own works too
out = "dist"
seed = 0

[limits]    # what is left out is the target's own
{max_drop}    # points of accuracy against the teacher
# max_latency_ms = 5.0    # p95 of an inference
# max_instructions = 5000000    # of the target's ISA, an inference
# max_size_mb = 8.0    # model file, in 10^6 bytes
# confidence = 0.95    # hold the drop's upper bound against max_drop, not the drop itself

# Options of stages, for instance:
# [set.data]
# text = "utterance"    # name of the column that holds the text
# [set.search]
# margin = 1.4    # more certainty that the drop is within max_drop, for a larger student
"""


def write_recipe(
    folder: Path, model: str, data: str, task: str, targets: Sequence[str], max_drop: float | None, force: bool
) -> Path:
    """Writes edgekit.toml.

    Raises:
        RecipeError: there is one already, or a value is invalid.
        TargetError: an unknown target.
    """
    path = folder / DEFAULT_FILE
    if path.exists() and not force:
        raise RecipeError(f"{path} is there already; give --force to replace it")
    for name, given in (("model", model), ("data", data)):
        if not given.strip():
            raise RecipeError(f"no {name} given; a build needs one")
    load_task(task)
    check_limits(Limits(max_drop=max_drop))
    names = list(targets) or list(shipped_targets())
    for name in names:
        load_target(name)
    # JSON's strings are TOML's basic strings, except that TOML forbids DEL and JSON may escape it: it is no name.
    text = TEMPLATE.format(
        model=json.dumps(model, ensure_ascii=False),
        data=json.dumps(data, ensure_ascii=False),
        task=json.dumps(task),
        targets=json.dumps(names, ensure_ascii=False),
        max_drop="# max_drop = 1.5" if max_drop is None else f"max_drop = {max_drop}",
    )
    try:
        write_atomically(path, text)
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}") from error
    return path
