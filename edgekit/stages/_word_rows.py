"""Which tokens keep rows of their own in the student's word table, and whose rows the others read."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import RecipeError
from edgekit.ir.neighbours import nearest_rows, rows_by_use
from edgekit.stages.teach import load_teacher

ROWS_STEP = 500
"""Rows are added so many at a time: a few texts more of dev then leave the table, and what is made of it, as it is."""

_RESERVED = re.compile(r"\[.*\]")  # [unused0] and its like: no text ever uses them


@dataclass(frozen=True)
class Candidates:
    """The tokens that may have rows, by the teacher's ids.

    Attributes:
        kept: that have one in any case.
        filling: those that get one while there is room, the most frequent first.
    """

    kept: frozenset[int]
    filling: Sequence[int]

    @property
    def all(self) -> list[int]:
        """All of them, in increasing order."""
        return sorted(self.kept.union(self.filling))


def covering(candidates: Candidates, asked: Sequence[int], coverage: float, least: int, most: int) -> list[int]:
    """Chooses as few tokens as have rows for most of what is asked.

    Args:
        candidates: to choose among.
        asked: token ids of texts that they were not chosen by.
        coverage: share of `asked` that must be among them, in [0, 1].
        least: tokens to choose at first, where there are as many.
        most: beyond which no more are chosen for coverage's sake, if that is more than `least`.

    Returns:
        Ids in increasing order.
    """
    wanted = max(least, len(candidates.kept))
    place = {token: number for number, token in enumerate(candidates.filling, len(candidates.kept))}
    # How many rows it takes until each of them has one; what is no candidate never does.
    takes = sorted(0 if token in candidates.kept else place.get(token, len(place) + wanted) + 1 for token in asked)
    needed = _reached_by(coverage, takes)
    if needed > wanted:
        steps = math.ceil((needed - wanted) / ROWS_STEP)
        wanted = max(wanted, min(wanted + steps * ROWS_STEP, most))
    return sorted(candidates.kept.union(candidates.filling[: wanted - len(candidates.kept)]))


def needed_rows(
    owners: np.ndarray, special: Collection[int], learned: np.ndarray, asked: np.ndarray, coverage: float
) -> int:
    """Counts the rows of a word table that texts need, of those that `surgery.fewer_rows` leaves first.

    Args:
        owners: for each token the one whose row it reads, (tokens,).
        special: tokens that stand for no text, whose rows stay.
        learned: token ids of texts that students learn from: each row that these read is needed.
        asked: token ids of texts that they do not learn from.
        coverage: share of `asked` that must have rows of their own, in [0, 1]; all rows are needed where fewer have.
    """
    owned, reads = np.unique(owners, return_inverse=True)
    seen = np.bincount(reads[learned], minlength=len(owned))
    reserved, order = rows_by_use(reads, seen, special)
    place = np.zeros(len(owned), dtype=np.int64)
    place[order] = np.arange(1, len(order) + 1)
    takes = np.sort(np.where(owners[asked] == asked, place[reads[asked]], len(order)))
    return len(reserved) + max(int(np.count_nonzero(seen[order])), _reached_by(coverage, takes.tolist()))


def _reached_by(share: float, values: Sequence[int]) -> int:
    """Returns the least number that at least a share of the values, which increase, do not exceed; 0 for none."""
    return values[math.ceil(share * len(values)) - 1] if share and values else 0


def wordpiece_candidates(
    description: Mapping[str, Any], counts: Mapping[int, int], min_count: int, texts: Sequence[str]
) -> Candidates:
    """Returns the tokens of a WordPiece tokenizer that texts in the scripts of these can use.

    Args:
        description: its parsed tokenizer.json.
        counts: uses of each token id in the training split.
        min_count: uses from which a token keeps its row.
        texts: the training split.
    """
    model = description["model"]
    prefix = model["continuing_subword_prefix"]
    scripts = {_script(character) for character in set("".join(texts))}
    kept, filling = special_ids(description), list[int]()
    for token, index in sorted(model["vocab"].items(), key=lambda item: item[1]):
        bare = token.removeprefix(prefix)
        character = len(bare) == 1 and (bare.isascii() or _script(bare) in scripts)
        if character or counts.get(index, 0) >= min_count:
            kept.add(index)
        elif len(bare) > 1 and not _RESERVED.fullmatch(token) and {_script(c) for c in bare} <= scripts:
            filling.append(index)
    return Candidates(frozenset(kept), [index for index in filling if index not in kept])


def other_candidates(ids: Sequence[int], special: set[int], counts: Mapping[int, int], min_count: int) -> Candidates:
    """Returns all tokens of a tokenizer of another kind.

    Args:
        ids: of its tokens, the most frequent first, as BPE's merges and Unigram's pieces are.
        special: those that stand for no text.
        counts, min_count: as for `wordpiece_candidates`.
    """
    kept = special | {index for index in ids if counts.get(index, 0) >= min_count}
    return Candidates(frozenset(kept), [index for index in ids if index not in kept])


def special_ids(description: Mapping[str, Any]) -> set[int]:
    """Returns the ids of a parsed tokenizer.json that stand for no text: the added tokens and the unknown one."""
    model = description["model"]
    special = {token["id"] for token in description["added_tokens"]}
    if isinstance(model.get("unk_id"), int):  # Unigram
        special.add(model["unk_id"])
    elif model.get("unk_token") in model["vocab"]:
        special.add(model["vocab"][model["unk_token"]])
    return special


def special_tokens(tokenizer: Path) -> set[int]:
    """Returns the ids of a tokenizer in a folder that stand for no text."""
    return special_ids(json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8")))


def words_bytes(tokenizer: Path) -> int:
    """Returns the bytes of the words of a tokenizer in a folder, one a line."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab()
    return sum(len(word.encode()) + 1 for word in words)


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
        for token, owner in zip(others, nearest_rows(table, others, among), strict=True):
            owners[place[token]] = place[int(owner)]
    return owners


def _script(character: str) -> str:
    """Returns the first word of the character's Unicode name, which for letters is their script."""
    return unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]
