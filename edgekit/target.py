"""Target profiles: what a device can do and must meet. One TOML a device in `targets/`.

The reader is strict. An unknown, missing or unit-less key is an error with a suggestion, because a limit that is
silently not applied is worse than none. A stage sees a target only through `TargetView`, which refuses fields that the
stage did not declare: what a stage may read is what its cache key holds.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import StageContractError, TargetError, suggestion

SCHEMA = 1


@dataclass(frozen=True)
class DeviceSection:
    """The processor: `arch` as `uname -m` prints it, `cpu` as qemu names it.

    `accelerator` is the NPU beside it, as its compiler names it, "" for none; `socs` are the chips that programs are
    compiled for.
    """

    arch: Literal["x86_64", "aarch64"]
    isa: tuple[str, ...]
    cpu: str
    threads: int
    ram_bytes: int
    accelerator: str = ""
    socs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuntimeSection:
    """The runtime; `version` is the oldest that the device has: a file that needs a newer one is refused.

    `options` are entries of its session configuration, passed on as they are wherever the model is run.
    """

    name: str
    version: str
    provider: Literal["CPUExecutionProvider", "XNNPACK", "QNNExecutionProvider", "Ethos-U"]
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShapeSection:
    """Input shape and the multiples that widths are rounded to.

    A `sequence_length` of "buckets" is chosen from the data: at most `buckets` lengths that rows are padded to.
    """

    batch: int
    sequence_length: int | Literal["dynamic", "buckets"]
    head_multiple: int
    ffn_multiple: int
    buckets: int = 1


@dataclass(frozen=True)
class WeightSection:
    """How weights are quantized; dtype "auto" takes whichever measures better."""

    dtype: Literal["int8", "uint8", "auto"]
    granularity: Literal["per-channel", "per-tensor"]
    symmetric: bool


@dataclass(frozen=True)
class ActivationSection:
    """How activations are quantized."""

    dtype: Literal["int8", "uint8", "auto"]
    symmetric: bool


@dataclass(frozen=True)
class QuantSection:
    """The quantization that the runtime is fast at; `ops` are the operators that get integers, or "all"."""

    scheme: Literal["auto", "static-qdq"]
    weight: WeightSection
    activation: ActivationSection
    ops: tuple[str, ...] | Literal["all"]
    io: Literal["float32"]


@dataclass(frozen=True)
class BudgetSection:
    """Limits of the device; an absent one is not gated."""

    latency_p95_ms: float | None = None
    instructions: int | None = None
    peak_rss_bytes: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class GateSection:
    """The accuracy that must be kept: `max_drop` in points, against the teacher, on at least `min_examples` rows.

    `min_coverage` is the share of the graph that the accelerator takes, `min_agreement` that of the answers which it
    gives as a CPU does by the same file, both in percent.
    """

    max_drop: float
    min_examples: int
    confidence: float | None = None
    min_coverage: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True)
class Target:
    """A whole profile."""

    schema: int
    name: str
    summary: str
    source: str
    device: DeviceSection
    runtime: RuntimeSection
    shape: ShapeSection
    quant: QuantSection
    budget: BudgetSection
    gate: GateSection

    def as_dict(self) -> dict[str, Any]:
        """Returns the profile as plain values, for the manifest and for cache keys."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TargetView:
    """A target through the fields that a stage declared in READS, as dotted paths."""

    target: Target
    reads: tuple[str, ...]
    stage: str

    def __getitem__(self, name: str) -> Any:
        """Returns the field `section.key`.

        Raises:
            StageContractError: the stage did not declare it.
        """
        if name not in self.reads:
            raise StageContractError(f"stage {self.stage} read target field {name!r} without declaring it in READS")
        return field_of(self.target, name)


def field_of(target: Target, name: str) -> Any:
    """Returns a field by its dotted path, sections as plain dictionaries."""
    value: Any = target
    for part in name.split("."):
        value = getattr(value, part)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def shipped_folder() -> Path:
    """The folder of the shipped profiles: inside the wheel, or beside the package in a checkout."""
    inside = Path(str(resources.files("edgekit"))) / "targets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "targets"


def shipped_targets() -> dict[str, Path]:
    """Returns the shipped profiles' files by name."""
    return {p.stem: p for p in sorted(shipped_folder().glob("*.toml"))}


def load_target(name: str) -> Target:
    """Reads a profile: a shipped one by its name, or a file of the user's by its path (ending in .toml).

    Raises:
        TargetError: no such profile, or it is invalid.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise TargetError(f"target file {name} does not exist")
        return read_target(path)
    known = shipped_targets()
    if name not in known:
        raise TargetError(f"unknown target {name!r}{suggestion(name, known)}")
    return read_target(known[name])


def read_target(path: Path) -> Target:
    """Reads and checks one profile.

    Raises:
        TargetError: not TOML; an unknown, missing, wrongly typed or unit-less key; impossible values.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise TargetError(f"{path}: not a readable TOML file: {error}") from error
    target: Target = parse_table(Target, table, str(path), "")
    _check(target, path)
    return target


def parse_table(cls: type[Any], table: Mapping[str, Any], where: str, prefix: str) -> Any:
    """Makes a frozen dataclass from a TOML table, recursively and strictly.

    Raises:
        TargetError: an unknown, missing or wrongly typed key, named by its path.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in table:
        if key not in fields:
            raise TargetError(f"{where}: unknown key '{prefix}{key}'{_unit_hint(key, fields)}")
    values = {}
    for name, spec in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], where, prefix + name)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise TargetError(f"{where}: key '{prefix}{name}' is missing")
    return cls(**values)


def _unit_hint(key: str, fields: Mapping[str, Any]) -> str:
    with_unit = [name for name in fields if name.startswith(f"{key}_")]
    if with_unit:
        return f": give it with its unit, as {' or '.join(map(repr, with_unit))}"
    return suggestion(key, fields)


def _value(hint: Any, value: Any, where: str, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise TargetError(f"{where}: '{name}' must be a table, is {value!r}")
        return parse_table(hint, value, where, f"{name}.")
    if origin in (typing.Union, types.UnionType):
        for option in (a for a in arguments if a is not type(None)):
            if _fits(option, value):
                return _value(option, value, where, name)
        raise TargetError(f"{where}: '{name}' is {value!r}; expected {_words(hint)}")
    if not _fits(hint, value):
        raise TargetError(f"{where}: '{name}' is {value!r}; expected {_words(hint)}")
    if origin is tuple:
        return tuple(value)
    return float(value) if hint is float else value


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments and type(value) is type(arguments[0])
    if origin is tuple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is hint


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return "a list of strings"
    if origin is Mapping:
        return "a table of strings (a name with dots in quotes)"
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(hint, "a table")


def _check(target: Target, path: Path) -> None:
    positive = {
        "device.threads": target.device.threads,
        "device.ram_bytes": target.device.ram_bytes,
        "shape.head_multiple": target.shape.head_multiple,
        "shape.ffn_multiple": target.shape.ffn_multiple,
        "shape.buckets": target.shape.buckets,
        "gate.min_examples": target.gate.min_examples,
    } | {f"budget.{k}": v for k, v in dataclasses.asdict(target.budget).items() if v is not None}
    length = target.shape.sequence_length
    if isinstance(length, int) and not 8 <= length <= 512:
        raise TargetError(
            f"{path}: 'shape.sequence_length' is {length}; it must lie between 8 and 512, or be dynamic or buckets"
        )
    for name, value in positive.items():
        if not value > 0:
            raise TargetError(f"{path}: '{name}' is {value}; it must be positive")
    if not re.fullmatch(r"\d+(\.\d+)*", target.runtime.version):
        raise TargetError(f"{path}: 'runtime.version' is {target.runtime.version!r}; expected numbers such as 1.18")
    if target.schema != SCHEMA:
        raise TargetError(f"{path}: 'schema' is {target.schema}; this edgekit reads {SCHEMA}")
    if target.name != path.stem:
        raise TargetError(f"{path}: 'name' is {target.name!r}; it must be the file's name, {path.stem!r}")
    if target.shape.batch != 1:
        raise TargetError(f"{path}: 'shape.batch' is {target.shape.batch}; only 1 is supported")
    if target.gate.max_drop < 0:
        raise TargetError(f"{path}: 'gate.max_drop' is {target.gate.max_drop} points; it must not be negative")
    if target.gate.confidence is not None and not 0.5 < target.gate.confidence < 1:
        raise TargetError(f"{path}: 'gate.confidence' is {target.gate.confidence}; it must lie between 0.5 and 1")
