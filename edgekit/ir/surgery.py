"""Cuts: a new, smaller model from a model and what is to be kept. The original is never changed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from edgekit.ir.config import EdgekitConfig
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.neighbours import nearest_rows, rows_by_use


def _per_row(model: EdgekitForSequenceClassification, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns how often each row of the word table is read, from how often each token occurs."""
    config, seen = model.config, np.asarray(counts, dtype=np.float64)
    if seen.shape != (config.vocab_size,) or not (seen >= 0).all():
        raise ValueError(f"counts must be {config.vocab_size} numbers from 0 on, one a token; got {seen.shape}")
    if model.embeddings.row_of is None:
        return seen
    return np.bincount(model.embeddings.row_of.numpy(), seen, config.word_rows).astype(np.float64)


def _resized(config: EdgekitConfig, **changes: object) -> EdgekitConfig:
    return EdgekitConfig(**{**config.to_dict(), **changes})


def _refuse_multiplied(config: EdgekitConfig) -> None:
    if config.multiplied:
        raise ValueError("the model is equalised, channel by channel; cut it before")


def _refuse_shared(config: EdgekitConfig) -> None:
    if config.word_rows:
        raise ValueError("tokens share rows of the word table; cut it before")


def _built(config: EdgekitConfig, state: dict[str, Tensor]) -> EdgekitForSequenceClassification:
    model = EdgekitForSequenceClassification(config)
    model.load_state_dict(state)
    model.eval()
    return model


def keep_layers(model: EdgekitForSequenceClassification, layers: Sequence[int]) -> EdgekitForSequenceClassification:
    """Keeps the given layers, in the given order.

    Raises:
        ValueError: `layers` is empty, not strictly increasing, or names a layer that is not there.
    """
    config = model.config
    _refuse_multiplied(config)
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < len(config.heads):
        raise ValueError(f"cannot keep layers {list(layers)} of a model of {len(config.heads)}")
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("layers.")}
    for new, old in enumerate(layers):
        state |= {f"layers.{new}.{k}": v for k, v in model.layers[old].state_dict().items()}
    changed = _resized(config, heads=[config.heads[i] for i in layers], ffn=[config.ffn[i] for i in layers])
    return _built(changed, state)


def keep_widths(
    model: EdgekitForSequenceClassification, heads: Sequence[Sequence[int]], channels: Sequence[Sequence[int]]
) -> EdgekitForSequenceClassification:
    """Keeps the given heads and FFN channels of each layer.

    The result equals the model in which the other heads' context and the other channels' activations are zero, since
    neither the output projection nor the second FFN matrix then sees them.

    Args:
        model: the model to cut.
        heads: kept head indices of each layer, at least one each.
        channels: kept FFN channel indices of each layer, at least one each.
    """
    config, state = model.config, copy.copy(model.state_dict())
    _refuse_multiplied(config)
    for i, (kept_heads, kept_channels) in enumerate(zip(heads, channels, strict=True)):
        width = config.heads[i] * config.head_dim
        first = torch.tensor(sorted(kept_heads))[:, None] * config.head_dim
        columns = (first + torch.arange(config.head_dim)).flatten()
        rows = torch.cat([columns, columns + width, columns + 2 * width])
        kept = torch.tensor(sorted(kept_channels))
        name = f"layers.{i}"
        state[f"{name}.qkv.weight"] = state[f"{name}.qkv.weight"][rows]
        state[f"{name}.qkv.bias"] = state[f"{name}.qkv.bias"][rows]
        state[f"{name}.output.weight"] = state[f"{name}.output.weight"][:, columns]
        state[f"{name}.up.weight"] = state[f"{name}.up.weight"][kept]
        state[f"{name}.up.bias"] = state[f"{name}.up.bias"][kept]
        state[f"{name}.down.weight"] = state[f"{name}.down.weight"][:, kept]
        if f"{name}.relative.weight" in state:
            state[f"{name}.relative.weight"] = state[f"{name}.relative.weight"][:, sorted(kept_heads)]
    changed = _resized(config, heads=[len(h) for h in heads], ffn=[len(c) for c in channels])
    return _built(changed, state)


def keep_vocabulary(
    model: EdgekitForSequenceClassification, token_ids: Sequence[int], special_ids: dict[str, int | None]
) -> EdgekitForSequenceClassification:
    """Keeps the given rows of the word table, renumbered in their order.

    Args:
        model: the model to cut.
        token_ids: old ids, in the order of their new ids.
        special_ids: new values of the configuration's `pad_token_id` and its like.
    """
    state = copy.copy(model.state_dict())
    _refuse_shared(model.config)
    state["embeddings.word.weight"] = state["embeddings.word.weight"][torch.tensor(list(token_ids))]
    return _built(_resized(model.config, vocab_size=len(token_ids), **special_ids), state)


def share_words(model: EdgekitForSequenceClassification, owners: Sequence[int]) -> EdgekitForSequenceClassification:
    """Lets tokens read the rows of other tokens, and drops the rows that none reads.

    Args:
        model: the model to cut.
        owners: for each token the one whose row it reads; that one reads its own, (tokens,).

    Raises:
        ValueError: rows are shared already, there are other tokens, or an owner reads another's row.
    """
    config, state = model.config, copy.copy(model.state_dict())
    _refuse_shared(config)
    owner = np.asarray(owners, dtype=np.int64)
    if owner.shape != (config.vocab_size,) or not (np.isin(owner, np.arange(len(owner)))).all():
        raise ValueError(f"owners must be {config.vocab_size} tokens, one a token; got {owner.shape}")
    if not (owner[owner] == owner).all():
        raise ValueError("the owner of a row reads another's row")
    kept, rows = np.unique(owner, return_inverse=True)
    state["embeddings.word.weight"] = state["embeddings.word.weight"][torch.from_numpy(kept)]
    state["embeddings.row_of"] = torch.from_numpy(rows.astype(np.int32))
    return _built(_resized(config, word_rows=len(kept)), state)


def fewer_rows(
    model: EdgekitForSequenceClassification,
    rows: int,
    counts: Sequence[int] | np.ndarray,
    special: Collection[int] = (),
) -> EdgekitForSequenceClassification:
    """Leaves so many rows of the word table: those that texts read most, of equals the first.

    Tokens that read another row read the one nearest to it of those that are left.

    Args:
        model: the model to cut.
        rows: to leave at most, special tokens' among them; those and one more stay in any case.
        counts: how often each token occurs in training texts, (tokens,).
        special: tokens that stand for no text: each keeps its row, and no other token reads it.

    Raises:
        ValueError: fewer than one row is to be left, or counts are negative or of another number of tokens.
    """
    config, state = model.config, copy.copy(model.state_dict())
    table = state["embeddings.word.weight"]
    if rows < 1:
        raise ValueError(f"rows is {rows}; it must be at least 1")
    seen = _per_row(model, counts)
    row_of = model.embeddings.row_of
    reads = np.arange(config.vocab_size) if row_of is None else row_of.numpy()
    reserved, order = rows_by_use(reads, seen, special)
    left = order[: max(1, rows - len(reserved))]
    goes = order[len(left) :]
    if not len(goes):
        return model
    owner = np.arange(len(table))
    owner[goes] = nearest_rows(table.numpy(), goes, np.sort(left))
    kept = np.sort(np.concatenate([left, reserved]))
    state["embeddings.word.weight"] = table[torch.from_numpy(kept)]
    state["embeddings.row_of"] = torch.from_numpy(np.searchsorted(kept, owner[reads]).astype(np.int32))
    return _built(_resized(config, word_rows=len(kept)), state)


def read_rows(
    model: EdgekitForSequenceClassification, tokens: Sequence[int] | np.ndarray
) -> tuple[EdgekitForSequenceClassification, np.ndarray]:
    """Leaves out the rows of the word table that the given tokens do not read, to train what is left.

    No gradient reaches those rows: the model is trained as a whole would be, in less time (`with_rows` puts it back).

    Args:
        model: the model to cut.
        tokens: all that it will see meanwhile; what it answers for others means nothing.

    Returns:
        The model, of as many tokens as before, and the rows that it has left, increasing.
    """
    state = copy.copy(model.state_dict())
    row_of = model.embeddings.row_of
    reads = np.arange(model.config.vocab_size) if row_of is None else row_of.numpy()
    rows = np.unique(reads[np.asarray(tokens)])
    state["embeddings.word.weight"] = state["embeddings.word.weight"][torch.from_numpy(rows)]
    left = np.minimum(np.searchsorted(rows, reads), len(rows) - 1)
    state["embeddings.row_of"] = torch.from_numpy(left.astype(np.int32))
    return _built(_resized(model.config, word_rows=len(rows)), state), rows


@torch.no_grad()
def with_rows(
    model: EdgekitForSequenceClassification, part: EdgekitForSequenceClassification, rows: np.ndarray
) -> None:
    """Takes over what was trained of a model that `read_rows` made.

    Args:
        model: that it was made of; changed.
        part: what it made.
        rows: that this has.
    """
    state = part.state_dict()
    table = model.embeddings.word.weight.detach().clone()
    table[torch.from_numpy(rows)] = state["embeddings.word.weight"]
    state["embeddings.word.weight"] = table
    if model.embeddings.row_of is None:
        del state["embeddings.row_of"]
    else:
        state["embeddings.row_of"] = model.embeddings.row_of
    model.load_state_dict(state)


@torch.no_grad()
def factorise_words(
    model: EdgekitForSequenceClassification, rank: int, counts: Sequence[int] | np.ndarray
) -> EdgekitForSequenceClassification:
    """Replaces the word table E by a narrow one, A, and a product that widens its rows to A B.

    Minimised is sum_i f_i |E_i - A_i B|^2: the squared error that a text of these token frequencies sees, and what a
    linear autoencoder of the table's rows comes to when it is trained on that text. With D = diag(sqrt f) it is
    |D E - (D A) B|^2, and D A may be any matrix of that width, for D is invertible; so by Eckart and Young D A B is the
    truncated D E = U S V^T. Taken are A = D^-1 U S and B = V^T; what is left is the sum of the squared singular values
    cut off. V's columns are orthonormal, so that A = E V: no row grows by D^-1, and tokens that no text has are
    projected as the others are.

    Args:
        model: the model to cut.
        rank: width of the new table.
        counts: how often each token occurs in training texts, (tokens,); a row counts for all tokens that read it, and
            0 as 1, so that every f is positive.

    Raises:
        ValueError: the table is factorised, the rank is not between 1 and its width, or counts are negative or of
            another number of tokens.

    Ref: Eckart and Young 1936; Acharya et al. 2018 (1811.00641), section 3, there unweighted and trained on.
    """
    config, state = model.config, copy.copy(model.state_dict())
    if config.word_rank:
        raise ValueError(f"the word table is factorised already, at rank {config.word_rank}")
    if not 1 <= rank <= config.embedding_size:
        raise ValueError(f"cannot factorise a word table of width {config.embedding_size} at rank {rank}")
    seen = _per_row(model, counts)
    table = state["embeddings.word.weight"].double().numpy()
    # E^T D^2 E = V S^2 V^T is hidden x hidden, where the SVD of D E would be taken of tokens x hidden.
    _, vectors = np.linalg.eigh(table.T @ (table * np.maximum(seen, 1)[:, None]))
    kept = np.ascontiguousarray(vectors[:, ::-1][:, :rank])  # eigh sorts from the least
    state["embeddings.word.weight"] = torch.from_numpy(table @ kept).float()
    state["embeddings.words.weight"] = torch.from_numpy(kept).float()
    state["embeddings.words.bias"] = torch.zeros(config.embedding_size)
    return _built(_resized(config, word_rank=rank), state)


def keep_positions(model: EdgekitForSequenceClassification, length: int) -> EdgekitForSequenceClassification:
    """Keeps the first `length` rows of the position table."""
    state = copy.copy(model.state_dict())
    state["embeddings.position.weight"] = state["embeddings.position.weight"][:length]
    return _built(_resized(model.config, max_positions=min(length, model.config.max_positions)), state)
