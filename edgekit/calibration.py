"""Calibration policies: how the rows are drawn that ranges are taken from. One TOML a policy in `calibration/`."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from edgekit.errors import RecipeError, TargetError, suggestion
from edgekit.quant.ranges import NAMES
from edgekit.target import parse_table

AUTO = "auto"


@dataclass(frozen=True)
class Policy:
    """How calibration rows are drawn from the training split, and how ranges are made of them.

    Attributes:
        name: the file's name.
        summary: one line.
        rows: rows to draw; a smaller training split is used whole.
        length_strata: rows are drawn evenly from this many quantiles of length.
        class_balance: within a stratum, classes take turns, so that rare ones are seen.
        method: of the ranges; "auto" lets `quantize` take the one whose logits are nearest the float student's.
        seed: of the draw.
    """

    name: str
    summary: str
    rows: int
    length_strata: int
    class_balance: bool
    method: str
    seed: int


def shipped_policies() -> dict[str, Path]:
    """Returns the shipped policies' files by name."""
    inside = Path(str(resources.files("edgekit"))) / "policies"
    folder = inside if inside.is_dir() else Path(__file__).parent.parent / "calibration"
    return {p.stem: p for p in sorted(folder.glob("*.toml"))}


def policy_file(name: str) -> Path:
    """Returns a policy's file: a shipped one by its name, or the user's by its path (ending in .toml).

    Raises:
        RecipeError: there is none.
    """
    known = shipped_policies()
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None or not path.is_file():
        raise RecipeError(f"unknown calibration policy {name!r}{suggestion(name, known)}")
    return path


def load_policy(name: str) -> Policy:
    """Reads a policy.

    Raises:
        RecipeError: no such policy, or it is invalid.
    """
    path = policy_file(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        policy: Policy = parse_table(Policy, table, str(path), "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TargetError) as error:
        raise RecipeError(f"calibration policy {path}: {error}") from error
    if policy.rows < 1 or policy.length_strata < 1:
        raise RecipeError(f"calibration policy {path}: 'rows' and 'length_strata' must be at least 1")
    if policy.seed < 0:
        raise RecipeError(f"calibration policy {path}: 'seed' is {policy.seed}; it must not be negative")
    known = (AUTO, *NAMES)
    if policy.method not in known:
        raise RecipeError(
            f"calibration policy {path}: unknown method {policy.method!r}{suggestion(policy.method, known)}"
        )
    return policy


def draw(lengths: Sequence[int], classes: Sequence[int], policy: Policy) -> list[int]:
    """Draws rows: evenly over quantiles of length and, where asked, over the classes within each.

    Args:
        lengths: tokens of each row.
        classes: class of each row.
        policy: how many, and how.

    Returns:
        Indices, increasing; all rows where there are no more than `policy.rows`.
    """
    if len(lengths) <= policy.rows:
        return list(range(len(lengths)))
    random = np.random.Generator(np.random.PCG64(policy.seed))
    order = random.permutation(len(lengths))
    by_length = order[np.argsort(np.array(lengths)[order], kind="stable")]
    chosen: list[int] = []
    left: list[int] = []
    strata = np.array_split(by_length, min(policy.length_strata, policy.rows))
    for number, stratum in enumerate(strata):
        wanted = (policy.rows - len(chosen)) // (len(strata) - number)
        shuffled = [int(i) for i in random.permutation(stratum)]
        ordered = _in_turns(shuffled, classes) if policy.class_balance else shuffled
        chosen += ordered[:wanted]
        left += ordered[wanted:]
    return sorted(chosen + left[: policy.rows - len(chosen)])  # where a stratum had fewer rows than its part


def _in_turns(rows: Sequence[int], classes: Sequence[int]) -> list[int]:
    """Reorders rows so that classes take turns: the first of each, then the second of each, and so on."""
    queues: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        queues[classes[row]].append(row)
    turns = [(turn, place, row) for place, queue in enumerate(queues.values()) for turn, row in enumerate(queue)]
    return [row for _, _, row in sorted(turns)]
