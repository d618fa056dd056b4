"""Texts to token ids with a tokenizer.json, without transformers: as an app will do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """Returns the folder's tokenizer, cutting rows to `max_length` tokens (special ones included), never padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns each text's token ids, int64, of its real length."""
    return [np.array(e.ids, dtype=np.int64) for e in tokenizer.encode_batch(list(texts))]


def count_longer(folder: Path, texts: Sequence[str], max_length: int) -> int:
    """Counts the texts that are longer than `max_length` tokens, special ones included, and so are cut."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return sum(len(e.ids) > max_length for e in tokenizer.encode_batch(list(texts)))


def batches(rows: Sequence[np.ndarray], tokens: int) -> list[list[int]]:
    """Groups row indices by length, so that little is padded: at most `tokens` padded tokens a batch.

    Returns:
        Lists of indices, shortest rows first; deterministic.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * len(rows[index]) <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def pad(rows: Sequence[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads rows on the right.

    Returns:
        ids and mask (1 for tokens), each int64 of shape (rows, longest row).
    """
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask
