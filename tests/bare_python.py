"""A Python of its own that has what a device has: a runtime and what that needs, no edgekit and no torch."""

from __future__ import annotations

import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def make(folder: Path, *packages: str) -> Path:
    """Makes a virtual environment with links to packages that are installed here and to what these need.

    Args:
        folder: of the environment, which is made.
        packages: by their distributions' names.

    Returns:
        Its interpreter.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in needed(packages):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return folder / "bin" / "python"


def needed(packages: tuple[str, ...]) -> set[str]:
    """Returns packages and those that they require, without extras."""
    found: set[str] = set()
    left = list(packages)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        requirements = map(Requirement, metadata.requires(name) or ())
        left += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found
