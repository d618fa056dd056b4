"""Recipes: what the user wants. `edgekit.toml`; every key is also a flag of `edgekit build`."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError, suggestion
from edgekit.source import is_there
from edgekit.target import Target

DEFAULT_FILE = "edgekit.toml"
_LOCATIONS = ("model", "data", "out")


@dataclass(frozen=True)
class Limits:
    """Limits that override the target's own; None leaves the target's.

    Attributes:
        max_drop: points of the metric against the teacher.
        max_latency_ms: p95.
        max_instructions: of the target's ISA, an inference.
        max_size_mb: model file, in 10^6 bytes.
        confidence: of the accuracy check, between 0.5 and 1; None compares the drop itself.
        max_memory_mb: peak resident memory of a process that runs the model, in 10^6 bytes.
    """

    max_drop: float | None = None
    max_latency_ms: float | None = None
    max_instructions: int | None = None
    max_size_mb: float | None = None
    confidence: float | None = None
    max_memory_mb: float | None = None


@dataclass(frozen=True)
class Recipe:
    """One build.

    Attributes:
        model: folder, hub id, or `package:NAME/PATH`.
        data: folder, file, or `package:NAME/PATH`.
        task: name of a task.
        targets: names of shipped profiles, or paths of the user's.
        out: folder that gets one bundle a target.
        device: URI to measure on; empty picks the best one there is for each target.
        seed: of everything random.
        limits: override the targets' own.
        options: stage → option → value, over the stages' defaults.
        allow_download: whether a hub id may be fetched from the hub.
    """

    model: str
    data: str
    task: str = "text-classification"
    targets: tuple[str, ...] = ()
    out: str = "dist"
    device: str = ""
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allow_download: bool = False


def load_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe file into keyword arguments of `Recipe`, locations relative to the file made absolute.

    Raises:
        RecipeError: no such file, not TOML, an unknown key or a value of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe {path}; give MODEL and --data, or run `edgekit init`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from error
    hints = typing.get_type_hints(Recipe)
    known = {name for name in hints if name not in {"options", "allow_download"}} | {"set"}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise RecipeError(f"{path}: unknown key {key!r}{suggestion(key, known)}")
        if key == "limits":
            values[key] = _limits(value, path)
        elif key == "set":
            values["options"] = _options(value, path)
            _anchor_files(values["options"], path)
        elif key == "targets":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise RecipeError(f"{path}: 'targets' must be a list of names, is {value!r}")
            values[key] = tuple(value)
        else:
            values[key] = convert(value, hints[key], f"{path}: {key!r}")
    if "targets" in values:
        own = (str(path.parent / Path(n).expanduser()) if n.endswith(".toml") else n for n in values["targets"])
        values["targets"] = tuple(own)
    for key in _LOCATIONS:
        location = values.get(key, "")
        beside = path.parent / Path(location).expanduser()
        if location and not location.startswith("package:") and (key != "model" or is_there(beside)):
            values[key] = str(beside)
    return values


def _limits(table: object, path: Path) -> Limits:
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: 'limits' must be a table, is {table!r}")
    hints = typing.get_type_hints(Limits)
    for key in table:
        if key not in hints:
            raise RecipeError(f"{path}: unknown limit {key!r}{suggestion(key, hints)}")
    return Limits(**{k: convert(v, hints[k], f"{path}: 'limits.{k}'") for k, v in table.items()})


def _options(table: object, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
        raise RecipeError(f"{path}: 'set' must hold one table a stage, such as [set.distill]")
    return table


def _anchor_files(options: dict[str, dict[str, Any]], path: Path) -> None:
    """Makes the paths of files that options name absolute: all paths of a recipe are relative to it."""
    for stage, name, ending in (
        ("calibrate", "policy", ".toml"),
        ("calibrate", "ranges", ".json"),
        ("teach", "unlabelled", ""),
        ("profile", "table", ""),
    ):
        given = options.get(stage, {}).get(name)
        if isinstance(given, str) and given and given.endswith(ending):
            options[stage] = {**options[stage], name: str(path.parent / Path(given).expanduser())}


def merged_limits(before: Limits | None, given: Limits | None) -> Limits | None:
    """Returns the limits of a file with those given in their place; None where there are none of either."""
    if before is None or not isinstance(given, Limits):
        return before if given is None else given
    return dataclasses.replace(before, **{k: v for k, v in dataclasses.asdict(given).items() if v is not None})


def merged_options(
    before: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]] | None
) -> Mapping[str, Mapping[str, Any]]:
    """Returns the stages' options of a file with those given in their place.

    Raises:
        RecipeError: they are no mapping of stages to mappings.
    """
    later = {} if given is None else given
    if not isinstance(later, Mapping) or not all(isinstance(v, Mapping) for v in later.values()):
        raise RecipeError(f"options is {given!r}; expected stage → option → value")
    return {stage: {**before.get(stage, {}), **later.get(stage, {})} for stage in {*before, *later}}


def check_limits(limits: Limits) -> None:
    """Refuses limits that nothing can meet.

    Raises:
        RecipeError: a negative drop, a limit that is not positive, or a confidence outside (0.5, 1).
    """
    if limits.max_drop is not None and not 0 <= limits.max_drop <= 100:
        raise RecipeError(f"max_drop is {limits.max_drop}; it must lie between 0 and 100 points")
    for name in ("max_latency_ms", "max_instructions", "max_size_mb", "max_memory_mb"):
        value = getattr(limits, name)
        if value is not None and not 0 < value < math.inf:
            raise RecipeError(f"{name} is {value}; it must be positive and finite")
    if limits.confidence is not None and not 0.5 < limits.confidence < 1:
        raise RecipeError(f"confidence is {limits.confidence}; it must lie between 0.5 and 1")


def check_types(recipe: Recipe) -> None:
    """Refuses values that Python code, unlike a file or a flag, can give of the wrong type.

    Raises:
        RecipeError: names the field.
    """
    for name in ("model", "data", "task", "out", "device"):
        if not isinstance(getattr(recipe, name), str):
            raise RecipeError(f"{name} is {getattr(recipe, name)!r}; expected text")
    listed = isinstance(recipe.targets, Sequence) and not isinstance(recipe.targets, str)
    if not listed or not all(isinstance(name, str) for name in recipe.targets):
        raise RecipeError(f"targets is {recipe.targets!r}; expected a sequence of names, such as ('x86-64',)")
    if not isinstance(recipe.limits, Limits):
        raise RecipeError(f"limits is {recipe.limits!r}; expected edgekit.Limits(max_drop=1.0, ...)")
    if not isinstance(recipe.seed, int) or isinstance(recipe.seed, bool):
        raise RecipeError(f"seed is {recipe.seed!r}; expected an integer")


def check_seed(seed: int) -> None:
    """Refuses a seed that some generator would not take.

    Raises:
        RecipeError: negative, or not below 2^32.
    """
    if not 0 <= seed < 1 << 32:
        raise RecipeError(f"seed is {seed}; it must lie between 0 and {(1 << 32) - 1}")


def assembled(
    file: Mapping[str, Any],
    model: str | Path | None,
    data: str | Path | None,
    targets: Sequence[str],
    task: str | None,
    out: str | Path | None,
    device: str | None,
    seed: int | None,
    limits: Limits | None,
    options: Mapping[str, Mapping[str, Any]] | None,
    allow_download: bool,
) -> Recipe:
    """Makes a recipe of what a file holds and what is given over it; what is empty leaves the file's, or a default.

    Raises:
        RecipeError: the model or the data is empty, a value is of the wrong type, or the seed is out of range.
    """
    given: dict[str, Any] = {"task": task, "device": device, "seed": seed, "allow_download": allow_download or None}
    given |= {
        name: str(p) if isinstance(p, Path) else p for name, p in (("model", model), ("data", data), ("out", out))
    }
    given["targets"] = tuple(targets) if isinstance(targets, Sequence) and not isinstance(targets, str) else targets
    given["limits"] = merged_limits(file.get("limits"), limits)
    given["options"] = merged_options(file.get("options", {}), options)
    values = {**file, **{name: value for name, value in given.items() if value not in (None, (), {}, "")}}
    for name in ("model", "data"):
        if not values.get(name):
            raise RecipeError(f"no {name} given; name it, or put `{name} = …` into the recipe")
    recipe = Recipe(**values)
    check_types(recipe)
    check_seed(recipe.seed)
    return recipe


def with_limits(target: Target, limits: Limits) -> Target:
    """Returns the target with the recipe's limits in place of its own."""
    budget: dict[str, Any] = {
        "latency_p95_ms": limits.max_latency_ms,
        "instructions": limits.max_instructions,
        "file_bytes": None if limits.max_size_mb is None else int(limits.max_size_mb * 1e6),
        "peak_rss_bytes": None if limits.max_memory_mb is None else int(limits.max_memory_mb * 1e6),
    }
    gate: dict[str, Any] = {"max_drop": limits.max_drop, "confidence": limits.confidence}
    return dataclasses.replace(
        target,
        budget=dataclasses.replace(target.budget, **{k: v for k, v in budget.items() if v is not None}),
        gate=dataclasses.replace(target.gate, **{k: v for k, v in gate.items() if v is not None}),
    )


def parse_settings(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parses `--set stage.option=value` flags; values stay text until the stage's own types are known.

    Raises:
        RecipeError: not of that form.
    """
    options: dict[str, dict[str, str]] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        stage, dot, option = name.partition(".")
        if not (equals and dot and stage and option):
            raise RecipeError(f"--set {setting!r}: expected stage.option=value, such as distill.epochs=4")
        options.setdefault(stage, {})[option] = value
    return options


def make_stage(cls: type[Any], options: Mapping[str, Any]) -> Any:
    """Makes a stage with the given options over its defaults.

    Raises:
        RecipeError: an unknown option, or a value that its type does not take.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls) if not f.metadata.get("internal")}
    for name in options:
        if not known:
            raise RecipeError(f"stage {cls.NAME!r} has no options; limits are set with --max-drop and its like")
        if name not in known:
            raise RecipeError(f"stage {cls.NAME!r} has no option {name!r}{suggestion(name, known)}")
    try:
        return cls(**{k: convert(v, hints[k], f"{cls.NAME}.{k}") for k, v in options.items()})
    except ValueError as error:
        raise RecipeError(f"stage {cls.NAME!r}: {error}") from error


def convert(value: Any, hint: Any, name: str) -> Any:
    """Converts a TOML value, or the text of a flag, to a field's type.

    Raises:
        RecipeError: it does not fit.
    """
    choices = [a for a in typing.get_args(hint) if a is not type(None)]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return None if value in (None, "none") else convert(value, choices[0], name)
    if typing.get_origin(hint) is tuple:
        items = [item for item in value.split(",") if item] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise RecipeError(f"{name} is {value!r}; expected a list")
        return tuple(convert(item, choices[0], name) for item in items)
    if hint is bool and value in (True, False, "true", "false"):
        return value in (True, "true")
    if hint is str and isinstance(value, str):
        return value
    if hint in (int, float) and not isinstance(value, bool):
        try:
            number = hint(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is not None and math.isfinite(number) and (isinstance(value, str) or number == value):
            return number
    expected = {bool: "true or false", int: "an integer", float: "a number", str: "text"}.get(hint, str(hint))
    raise RecipeError(f"{name} is {value!r}; expected {expected}")
