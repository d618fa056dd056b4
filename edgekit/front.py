"""What a sweep finds: students of falling cost with their measured figures, those left out that another beats.

The points of one front were measured on the same rows and the same device, and times are of one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from edgekit import codec
from edgekit.artifact import json_text
from edgekit.codec import Within
from edgekit.errors import ArtifactError, OutputError
from edgekit.measured import Amount, Count, Points, Positive, Score, Text
from edgekit.provenance import Provenance
from edgekit.store import write_file

MILLISECONDS: Literal["ms"] = "ms"
INSTRUCTIONS: Literal["instructions"] = "instructions"


@dataclass(frozen=True)
class Basis:
    """How the costs of a front were taken.

    Attributes:
        device: its URI.
        provenance, reason: of the costs, for the target.
        measure: "ms" or "instructions".
        teacher: what an inference of the teacher costs: p50 in ms, or instructions.
        unsteady: students on whose times the rounds disagree, so that their order may be another in the next run.
    """

    device: Text
    provenance: Provenance
    reason: str
    measure: Literal["ms", "instructions"]
    teacher: Amount
    unsteady: Count


@dataclass(frozen=True)
class Point:
    """One student, built and measured.

    Attributes:
        structure: what it is, in words.
        score: the task's metric of the artifact on test, in percent.
        drop: against the teacher on the same rows, in points.
        cost: of an inference, in the front's measure: the teacher's ÷ `ratio`.
        ratio: the teacher's cost ÷ this one's; of times the median over rounds in which both ran.
        bytes: of the model file.
        chosen: whether it is the one in the bundle.
    """

    structure: Text
    score: Score
    drop: Points
    cost: Amount
    ratio: Annotated[float, Within(1e-9)]
    bytes: Positive
    chosen: bool


@dataclass(frozen=True)
class Front:
    """What is left of a sweep for one target.

    Attributes:
        target: its name.
        basis: what costs are of.
        points: those that no other beats, the most accurate and dearest first.
        beaten: the others, the most accurate first.
    """

    target: Text
    basis: Basis
    points: tuple[Point, ...]
    beaten: tuple[Point, ...]


def unbeaten(points: Iterable[Point]) -> tuple[Point, ...]:
    """Returns the points that no other is at least as accurate and as cheap as, most accurate first.

    Of equals one is left, and that is the one in the bundle where it is among them.
    """
    left: list[Point] = []
    for one in sorted(points, key=lambda p: (-p.score, -p.ratio, not p.chosen)):
        if not left or one.ratio > left[-1].ratio:
            left.append(one)
    return tuple(left)


def front_file(out: Path, target: str) -> Path:
    """Returns where a sweep's points are written, beside the target's bundle."""
    return out / f"{target}.sweep.json"


def page_file(out: Path, target: str) -> Path:
    """Returns where the page of a sweep is written, beside its points."""
    return out / f"{target}.sweep.html"


def write_front(out: Path, front: Front) -> None:
    """Writes a front into the folder of the bundles.

    Raises:
        OutputError: the file cannot be written; nothing half-written is left.
    """
    write_file(front_file(out, front.target), "points", json_text(codec.encode(front)))


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


def read_front(out: Path, target: str) -> Front:
    """Reads what `write_front` wrote.

    Raises:
        ArtifactError: there is no such file, or it is not one.
    """
    path = front_file(out, target)
    try:
        front: Front = codec.decode(Front, json.loads(path.read_text(encoding="utf-8")), "sweep")
    except (OSError, ValueError, ArtifactError) as error:
        raise ArtifactError(f"{path} is not a sweep's file ({error}); run the build with --sweep again") from error
    return front
