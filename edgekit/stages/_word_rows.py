"""Which tokens keep rows of their own in the student's word table, and whose rows the others read."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import RecipeError
from edgekit.stages.teach import load_teacher

ROWS_STEP = 500
"""Rows are added so many at a time."""

_RESERVED = re.compile(r"\[.*\]")  # [unused0] and its like: no text ever uses them


def covering(
    owning: Callable[[int], list[int]], asked: Sequence[int], coverage: float, least: int, most: int
) -> list[int]:
    """Chooses as few tokens as have rows for most of what is asked.

    Args:
        owning: returns the tokens that keep their rows where at least so many are wanted.
        asked: token ids of texts that they were not chosen by.
        coverage: share of `asked` that must be among them, in [0, 1].
        least: wanted at first.
        most: beyond which no more are wanted, if that is more than `least`.
    """
    wanted = least
    owned = owning(wanted)
    while wanted < most and sum(map(set(owned).__contains__, asked)) < coverage * len(asked):
        wanted = max(wanted, len(owned)) + ROWS_STEP
        more = owning(min(wanted, most))
        if len(more) == len(owned):  # there are no more
            break
        owned = more
    return owned


def kept_ids(
    description: Mapping[str, Any], counts: Mapping[int, int], min_count: int, min_tokens: int, texts: Sequence[str]
) -> list[int]:
    """Chooses the tokens that stay.

    Args:
        description: parsed tokenizer.json of a WordPiece tokenizer.
        counts: uses of each token id in the training split.
        min_count: uses from which a token stays.
        min_tokens: tokens that stay at least, where there are as many.
        texts: the training split, whose scripts decide which characters stay.

    Returns:
        Old ids in increasing order, so that the new order is the old one.
    """
    model = description["model"]
    prefix = model["continuing_subword_prefix"]
    special = special_ids(description)
    scripts = {_script(character) for character in set("".join(texts))}
    kept = set(special)
    for token, index in model["vocab"].items():
        bare = token.removeprefix(prefix)
        character = len(bare) == 1 and (bare.isascii() or _script(bare) in scripts)
        if character or counts.get(index, 0) >= min_count:
            kept.add(index)
    for token, index in sorted(model["vocab"].items(), key=lambda item: item[1]):
        if len(kept) >= min_tokens:
            break
        bare = token.removeprefix(prefix)
        if len(bare) > 1 and not _RESERVED.fullmatch(token) and {_script(c) for c in bare} <= scripts:
            kept.add(index)
    return sorted(kept)


def used_ids(
    ids: Sequence[int], special: Iterable[int], counts: Mapping[int, int], min_count: int, min_tokens: int
) -> list[int]:
    """Chooses the tokens of a tokenizer that is not WordPiece's that keep their rows.

    Args:
        ids: of its tokens, the most frequent first, as BPE's merges and Unigram's pieces are.
        special: those that stand for no text.
        counts: uses of each token id in the training split.
        min_count: uses from which a token keeps its row.
        min_tokens: tokens that keep theirs at least, where there are as many.

    Returns:
        Ids in increasing order.
    """
    kept = set(special) | {index for index in ids if counts.get(index, 0) >= min_count}
    filling = (index for index in ids if index not in kept)
    kept |= set(itertools.islice(filling, max(0, min_tokens - len(kept))))
    return sorted(kept)


def special_ids(description: Mapping[str, Any]) -> set[int]:
    """Returns the ids of a parsed tokenizer.json that stand for no text: the added tokens and the unknown one."""
    model = description["model"]
    special = {token["id"] for token in description["added_tokens"]}
    if isinstance(model.get("unk_id"), int):  # Unigram
        special.add(model["unk_id"])
    elif model.get("unk_token") in model["vocab"]:
        special.add(model["vocab"][model["unk_token"]])
    return special


def row_owners(teacher: Path, ids: Sequence[int], owned: Sequence[int], special: Iterable[int]) -> list[int]:
    """Returns for each token the one whose row it reads: its own, or the nearest one's by the teacher's word table.

    Args:
        teacher: folder of the checkpoint.
        ids: the teacher's id of each of the student's tokens.
        owned: those of them that keep their rows.
        special: ids that stand for no text, and for no other token.

    Raises:
        RecipeError: no token that stands for text keeps its row.
    """
    place = {token: number for number, token in enumerate(ids)}
    others = sorted(set(ids) - set(owned))
    owners = list(range(len(ids)))
    if others:
        table = load_teacher(teacher)[0].embeddings.word.weight.detach().numpy()
        among = sorted(set(owned) - set(special))
        if not among:
            raise RecipeError("trim.min_count and trim.min_tokens leave no token a row of its own; lower the one")
        for token, owner in zip(others, nearest(table, others, among), strict=True):
            owners[place[token]] = place[int(owner)]
    return owners


def nearest(table: np.ndarray, tokens: Sequence[int], among: Sequence[int]) -> np.ndarray:
    """Returns for each token the one of `among` whose row has the largest cosine with its own; of equals the first.

    Args:
        table: (rows, width), float32.
        tokens, among: rows of it; `among` has at least one.
    """
    candidates = np.asarray(among)
    unit = _unit(table[candidates])
    found = [
        np.argmax(_unit(table[np.asarray(tokens[start : start + 1024])]) @ unit.T, axis=1)
        for start in range(0, len(tokens), 1024)
    ]
    chosen: np.ndarray = candidates[np.concatenate(found)]
    return chosen


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return unit


def _script(character: str) -> str:
    """Returns the first word of the character's Unicode name, which for letters is their script."""
    return unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]
