"""Plain JSON values into frozen dataclasses and back, strictly, by the dataclasses' own annotations.

A field is declared once: its type, its range and its pattern stand in its annotation. Chosen over a validation library
because `edgekit gate` must start at once, and over hand-written checks because those drift from the fields.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, TypeVar

from edgekit.errors import ArtifactError, suggestion


@dataclass(frozen=True)
class Within:
    """The closed range of a number."""

    minimum: float
    maximum: float | None = None


@dataclass(frozen=True)
class Matches:
    """The pattern of a string, and what it stands for in a message."""

    pattern: str
    expected: str


@dataclass(frozen=True)
class InsideBundle:
    """Marks a path: relative, with forward slashes, staying inside the bundle's folder."""


T = TypeVar("T")


def decode(kind: Any, value: object, where: str) -> Any:
    """Returns `value` as the type `kind` asks, or raises an ArtifactError that begins with `where`, its dotted key."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        base, *constraints = typing.get_args(kind)
        decoded = decode(base, value, where)
        for constraint in constraints:
            _check(constraint, decoded, where)
        return decoded
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), value, where)
    if origin is Literal:
        return value if value in typing.get_args(kind) else _refuse(where, _choice(typing.get_args(kind)), value)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), value, where)
    if origin is Mapping:
        return {
            name: decode(typing.get_args(kind)[1], item, f"{where}.{_text(name, where)}")
            for name, item in _expect(dict, value, where, "an object").items()
        }
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        known = [str(item) for item in kind]
        return kind(value) if value in known else _refuse(where, _choice(known), value)
    return _decode_plain(kind, value, where)


def _decode_plain(kind: Any, value: object, where: str) -> Any:
    if kind is str:
        return _text(value, where)
    if kind is bool:
        return _expect(bool, value, where, "true or false")
    if kind is int:
        return (
            _refuse(where, "an integer", value) if isinstance(value, bool) else _expect(int, value, where, "an integer")
        )
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _refuse(where, "a number", value)
        if not abs(value) < 1e300:  # so that no arithmetic on it overflows; false for NaN
            return _refuse(where, "a finite number", value)
        return value  # an integer stays one, so that what was read is written back alike
    if kind is object:  # free-form facts: any JSON value, as long as every number in it is finite
        if isinstance(value, dict):
            return {_text(name, where): decode(object, item, f"{where}.{name}") for name, item in value.items()}
        if isinstance(value, list):
            return [decode(object, item, f"{where}[{place}]") for place, item in enumerate(value)]
        if value is None or isinstance(value, bool | int):
            return value
        return decode(float, value, where) if isinstance(value, float) else _text(value, where)
    raise TypeError(f"the codec does not know {kind!r}, the type of {where}")


def _decode_union(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not types.NoneType]
    faults = []
    for kind in rest:
        try:
            return decode(kind, value, where)
        except ArtifactError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    expected = " or ".join(re.sub(r".*?: expected (.*?), got .*", r"\1", str(fault)) for fault in faults)
    return _refuse(where, expected, value)


def _decode_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = _expect(list, value, where, "a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        _refuse(where, f"a list of {len(kinds)}", value)
    return tuple(
        decode(kind, item, f"{where}[{place}]") for place, (kind, item) in enumerate(zip(kinds, items, strict=True))
    )


def _decode_fields(kind: Any, value: object, where: str) -> Any:
    given = _expect(dict, value, where, "an object")
    hints = _hints(kind)
    for name in given:
        if name not in hints:
            raise ArtifactError(f"{_join(where, _text(name, where))}: unknown key{suggestion(name, hints)}")
    missing = [name for name in hints if name not in given]
    if missing:
        raise ArtifactError(f"{_join(where, missing[0])}: missing")
    return kind(**{name: decode(hint, given[name], _join(where, name)) for name, hint in hints.items()})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: encode(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def _check(constraint: object, value: Any, where: str) -> None:
    match constraint:
        case Within(minimum, maximum) if value < minimum or (maximum is not None and value > maximum):
            _refuse(where, f"at least {minimum:g}" if maximum is None else f"{minimum:g} to {maximum:g}", value)
        case Matches(pattern, expected) if not re.fullmatch(pattern, value, re.DOTALL):
            _refuse(where, expected, value)
        case InsideBundle():
            posix, windows = PurePosixPath(value), PureWindowsPath(value)
            outside = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
            if outside or "\\" in value or "\x00" in value or not posix.parts:
                _refuse(where, "a relative path inside the bundle, with / and without ..", value)


def _text(value: object, where: str) -> str:
    text = _expect(str, value, where, "a string")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        _refuse(where, "a string that UTF-8 can write", value)
    return text


def _expect(kind: type[T], value: object, where: str, expected: str) -> T:
    if not isinstance(value, kind):
        _refuse(where, expected, value)
    return value


def _refuse(where: str, expected: str, value: object) -> typing.NoReturn:
    raise ArtifactError(f"{where or 'the manifest'}: expected {expected}, got {shown(value)}")


def refuse_constant(name: str) -> typing.NoReturn:
    raise ArtifactError(f"holds {name}, which is not JSON")


def refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ArtifactError(f"{next(name for name in names if names.count(name) > 1)}: stands twice in one object")
    return value


def shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _choice(known: typing.Iterable[object]) -> str:
    return "one of " + ", ".join(str(item) for item in known)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
