"""Calibration policies: how the rows are drawn that ranges are taken from. One TOML a policy in `calibration/`."""

from __future__ import annotations

import dataclasses
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from edgekit.errors import RecipeError, TargetError, suggestion
from edgekit.quant.ranges import AUTO, NAMES
from edgekit.quant.weights import WEIGHT_METHODS
from edgekit.target import parse_table


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
        hard_share: share of the rows that are those the teacher is least sure of, by the entropy of its answer; the
            rest is drawn as above from the others.
        weight_method: of the weights' scales, one of `edgekit.quant.weights.WEIGHT_METHODS`.
    """

    name: str
    summary: str
    rows: int
    length_strata: int
    class_balance: bool
    method: str
    seed: int
    hard_share: float = 0.0
    weight_method: str = "mse"


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
    if path is None:
        raise RecipeError(f"unknown calibration policy {name!r}{suggestion(name, known)}")
    if not path.is_file():
        raise RecipeError(f"calibration policy {name}: there is no such file")
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
    except TargetError as error:  # it names the file
        raise RecipeError(f"calibration policy {error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"calibration policy {path}: not a text file in UTF-8") from error
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise RecipeError(f"calibration policy {path}: {error}") from error
    if policy.name != path.stem:
        raise RecipeError(
            f"calibration policy {path}: 'name' is {policy.name!r}; it must be the file's name, {path.stem!r}"
        )
    for key, value in (("rows", policy.rows), ("length_strata", policy.length_strata)):
        if value < 1:
            raise RecipeError(f"calibration policy {path}: {key!r} is {value}; it must be at least 1")
    if policy.seed < 0:
        raise RecipeError(f"calibration policy {path}: 'seed' is {policy.seed}; it must not be negative")
    if not 0 <= policy.hard_share <= 1:
        raise RecipeError(f"calibration policy {path}: 'hard_share' is {policy.hard_share}; it must lie in [0, 1]")
    if policy.weight_method not in WEIGHT_METHODS:
        raise RecipeError(
            f"calibration policy {path}: unknown weight_method {policy.weight_method!r}"
            f"{suggestion(policy.weight_method, WEIGHT_METHODS)}"
        )
    known = (AUTO, *NAMES)
    if policy.method not in known:
        raise RecipeError(
            f"calibration policy {path}: unknown method {policy.method!r}{suggestion(policy.method, known)}"
        )
    return policy


def draw(
    lengths: Sequence[int], classes: Sequence[int], policy: Policy, hardness: Sequence[float] | None = None
) -> list[int]:
    """Draws rows: the hardest where asked, then evenly over quantiles of length and the classes within each.

    Args:
        lengths: tokens of each row.
        classes: class of each row.
        policy: how many, and how.
        hardness: of each row, larger is harder; only looked at where the policy has a `hard_share`.

    Returns:
        Indices, increasing; all rows where there are no more than `policy.rows`.

    Raises:
        ValueError: the policy asks for hard rows, and there is no hardness.
    """
    if len(lengths) <= policy.rows:
        return list(range(len(lengths)))
    wanted = round(policy.hard_share * policy.rows)
    if not wanted:
        return _even(lengths, classes, policy)
    if hardness is None:
        raise ValueError("the policy draws hard rows; say how hard each is")
    hard = [int(i) for i in np.argsort(-np.array(hardness), kind="stable")[:wanted]]
    rest = sorted(set(range(len(lengths))) - set(hard))
    others = dataclasses.replace(policy, rows=policy.rows - wanted)
    even = _even([lengths[i] for i in rest], [classes[i] for i in rest], others) if others.rows else []
    return sorted(hard + [rest[i] for i in even])


def entropy_of(logits: np.ndarray) -> np.ndarray:
    """Returns the entropy of each row's answer in nats, (rows,): how unsure a model is.

    Args:
        logits: (rows, classes).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    entropy: np.ndarray = -(np.exp(logs) * logs).sum(axis=1)
    return entropy


def _even(lengths: Sequence[int], classes: Sequence[int], policy: Policy) -> list[int]:
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
