"""What a sweep finds: students of falling cost with their measured figures, those left out that another beats.

The points of one front were measured on the same rows and the same device, and what they cost in one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit.artifact import json_text
from edgekit.errors import ArtifactError, OutputError
from edgekit.store import write_file

MILLISECONDS, INSTRUCTIONS = "ms", "instructions"


@dataclass(frozen=True)
class Point:
    """One student, built and measured.

    Attributes:
        structure: what it is, in words.
        score: the task's metric of the artifact on test, in percent.
        drop: against the teacher on the same rows, in points.
        cost: of an inference: p50 in ms, all points and the teacher timed beside one another; or instructions.
        measure: "ms" or "instructions".
        ratio: the teacher's cost ÷ this one's.
        bytes: of the model file.
        provenance: of the cost.
        chosen: whether it is the one in the bundle.
    """

    structure: str
    score: float
    drop: float
    cost: float
    measure: str
    ratio: float
    bytes: int
    provenance: str
    chosen: bool


def unbeaten(points: Iterable[Point]) -> list[Point]:
    """Returns the points that no other is at least as accurate and as cheap as, most accurate first; of equals one."""
    left: list[Point] = []
    for one in sorted(points, key=lambda p: (-p.score, p.cost)):
        if not left or one.cost < left[-1].cost:
            left.append(one)
    return left


def front_file(out: Path, target: str) -> Path:
    """Returns where a sweep's points are written, beside the target's bundle."""
    return out / f"{target}.sweep.json"


def page_file(out: Path, target: str) -> Path:
    """Returns where the page of a sweep is written, beside its points."""
    return out / f"{target}.sweep.html"


def write_front(out: Path, target: str, points: Sequence[Point], beaten: int) -> None:
    """Writes the points of a front.

    Args:
        out: folder of the bundles.
        target: its name.
        points: none beaten by another.
        beaten: how many more were measured.

    Raises:
        OutputError: the file cannot be written; nothing half-written is left.
    """
    values = {"target": target, "points": [asdict(p) for p in points], "beaten": beaten}
    write_file(front_file(out, target), "points", json_text(values))


def remove_front(out: Path, target: str) -> None:
    """Removes an earlier sweep's points and page: they are not of the bundle that is there now.

    Raises:
        OutputError: a file cannot be removed.
    """
    for path in (front_file(out, target), page_file(out, target)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} of an earlier sweep cannot be removed ({error.strerror})") from error


def read_front(out: Path, target: str) -> list[Point]:
    """Reads what `write_front` wrote.

    Raises:
        ArtifactError: there is no such file, or it is not one.
    """
    path = front_file(out, target)
    try:
        return [Point(**one) for one in json.loads(path.read_text(encoding="utf-8"))["points"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a sweep's file ({error}); run the build with --sweep again") from error
