"""Where models and data lie: a path, or `package:NAME/PATH` inside an installed PyPI package.

A package is a way to ship a model or a data set through the registry that a company mirrors anyway. Its files are found
through the import system's finder, without importing it: nothing of the package runs.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path, PureWindowsPath

from edgekit.errors import InputError

PREFIX = "package:"
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_SHOWN = 8  # names that a message lists


def resolve(location: str, what: str) -> Path:
    """Returns the file or folder that a location names.

    Args:
        location: a path (`~` is expanded), or `package:NAME/PATH`, where NAME is an installed package's import name, or
            its PyPI name where that differs in `-` for `_` only.
        what: the thing it should be, for messages ("model", "data").

    Raises:
        InputError: it is not there, the package is not installed, or its path leads out of the package.
    """
    if location.startswith(PREFIX):
        return _in_package(location, what)
    path = Path(location).expanduser()
    if not location or not is_there(path):
        raise InputError(
            f"{what} {location!r} does not exist{listing(path)}; give a file, a folder or {PREFIX}NAME/PATH"
        )
    return path


def shown(names: Iterable[str]) -> str:
    """Joins names for a message, the first few of many."""
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _in_package(location: str, what: str) -> Path:
    name, slash, inside = location.removeprefix(PREFIX).partition("/")
    parts = inside.rstrip("/").split("/") if inside else []
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} {location!r}: expected {PREFIX}NAME/PATH with the name of an installed package")
    if any(part in ("", ".", "..") or PureWindowsPath(part).anchor or "\\" in part for part in parts) or (
        slash and not parts
    ):
        raise InputError(f"{what} {location!r}: the path must lie inside the package, without '..', '.' or empty parts")
    spec = _find(name)
    if spec is None:
        raise InputError(f"{what} {location!r}: package {name!r} is not installed here; `pip install {name}`")
    roots = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not roots:
        raise InputError(f"{what} {location!r}: {name!r} is a single module, not a package with files")
    for root in roots:  # a namespace package has several
        if is_there(root.joinpath(*parts)):
            return root.joinpath(*parts)
    raise InputError(f"{what} {location!r} does not exist{listing(roots[0].joinpath(*parts))}")


def _find(name: str) -> ModuleSpec | None:
    """Finds a top-level package; a name without dots is found without importing anything."""
    for spelling in dict.fromkeys((name, re.sub(r"[-.]", "_", name))):
        if spelling.isidentifier():
            try:
                spec = importlib.util.find_spec(spelling)
            except ValueError:  # a module that was made by hand, such as __main__
                spec = None
            if spec is not None:
                return spec
    return None


def is_there(path: Path) -> bool:
    """Says whether a path exists; one that the system cannot even look up does not."""
    try:
        return path.exists()
    except OSError:  # a name too long, a loop of links
        return False


def listing(path: Path) -> str:
    """Says what there is beside a missing path, or which of it may be meant."""
    close = meant(path)
    folder, names = _beside(path)
    if close or names is None:
        return close
    return f"; {folder.absolute()} holds {shown(names)}" if names else f"; {folder.absolute()} is empty"


def meant(path: Path) -> str:
    """Returns `; did you mean 'x'?` where something beside a missing path has nearly its name, else nothing."""
    _, names = _beside(path)
    close = difflib.get_close_matches(_first_missing(path).name, names or (), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _beside(path: Path) -> tuple[Path, list[str] | None]:
    """Returns the folder that a missing path would be in, and what it holds; None where that cannot be read."""
    folder = _first_missing(path).parent
    try:
        return folder, [entry.name for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]
    except OSError:
        return folder, None


def _first_missing(path: Path) -> Path:
    missing = path
    while not is_there(missing.parent) and missing != missing.parent:
        missing = missing.parent
    return missing
