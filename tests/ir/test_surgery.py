"""Cut models against masked ones: the model with zeros in place of what the cut removed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_encoder import uneven

from edgekit import frontends
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import (
    factorise_words,
    fewer_rows,
    keep_layers,
    keep_positions,
    keep_vocabulary,
    keep_widths,
    read_rows,
    share_words,
    with_rows,
)
from edgekit.stages._word_rows import needed_rows
from edgekit.tokenization import pad

KEPT_HEADS = [[1], [0, 3], [0, 1, 2, 3], [3, 1]]
KEPT_CHANNELS = [list(range(0, 64, 2)), [63], list(range(64)), [9, 3, 17]]


def logits_of(model: EdgekitForSequenceClassification, rows: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Runs rows as one padded batch."""
    if rows is None:
        rows = tiny.token_rows(model.config.vocab_size, [3, 12, 29])
    ids, mask = pad(rows, model.config.pad_token_id)
    with torch.inference_mode():
        logits: np.ndarray = model(torch.from_numpy(ids), torch.from_numpy(mask)).logits.numpy()
    return logits


def masked(
    model: EdgekitForSequenceClassification, heads: Sequence[Sequence[int]], channels: Sequence[Sequence[int]]
) -> EdgekitForSequenceClassification:
    """Returns a copy whose other heads and channels reach nothing: their columns in the next matrix are zero."""
    result, width = copy.deepcopy(model), model.config.head_dim
    with torch.no_grad():
        for i, layer in enumerate(result.layers):
            for head in set(range(model.config.heads[i])) - set(heads[i]):
                layer.output.weight[:, head * width : (head + 1) * width] = 0
            layer.down.weight[:, sorted(set(range(model.config.ffn[i])) - set(channels[i]))] = 0
    return result


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_a_model_with_narrower_layers_equals_the_masked_one(model_type: str) -> None:
    model = frontends.build(tiny.classifier(model_type))
    pruned = keep_widths(model, KEPT_HEADS, KEPT_CHANNELS)
    assert (pruned.config.heads, pruned.config.ffn) == ([1, 2, 4, 2], [32, 1, 64, 3])
    assert pruned.layers[1].up.weight.shape == (1, tiny.HIDDEN)
    expected = logits_of(masked(model, KEPT_HEADS, KEPT_CHANNELS))
    np.testing.assert_allclose(logits_of(pruned), expected, rtol=0, atol=1e-5)
    assert np.abs(expected - logits_of(model)).max() > 0.01


def test_layers_of_different_widths_are_cut_again() -> None:
    model = uneven()
    heads, channels = [[0, 2], [0], [1]], [[0, 63], [4], list(range(30))]
    expected = logits_of(masked(model, heads, channels))
    np.testing.assert_allclose(logits_of(keep_widths(model, heads, channels)), expected, rtol=0, atol=1e-5)


def test_cuts_leave_the_original_alone() -> None:
    model = frontends.build(tiny.classifier("mpnet"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    cut = [
        keep_widths(model, KEPT_HEADS, KEPT_CHANNELS),
        keep_layers(model, [1, 3]),
        keep_vocabulary(model, range(10), {"pad_token_id": 1}),
        keep_positions(model, 5),
        factorise_words(model, 6, np.arange(model.config.vocab_size)),
        share_words(model, np.arange(model.config.vocab_size) // 2 * 2),
    ]
    with torch.no_grad():
        for result in cut:
            for parameter in result.parameters():
                parameter.fill_(3.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config


@pytest.mark.parametrize("kept", [[0], [3], [0, 2], [0, 1, 2, 3]])
def test_kept_layers_are_the_originals_in_order(kept: list[int]) -> None:
    model = frontends.build(tiny.classifier("bert"))
    skipping = copy.deepcopy(model)
    skipping.layers = torch.nn.ModuleList(skipping.layers[i] for i in kept)
    result = keep_layers(model, kept)
    assert len(result.layers) == len(result.config.heads) == len(result.config.ffn) == len(kept)
    np.testing.assert_allclose(logits_of(result), logits_of(skipping), rtol=0, atol=1e-6)


def test_kept_layers_bring_their_own_widths() -> None:
    assert keep_layers(uneven(), [0, 2]).config.heads == [4, 3]
    assert keep_layers(uneven(), [1]).config.ffn == [5]


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1], [3], [-1, 0]])
def test_layers_that_are_not_there_or_out_of_order_are_refused(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot keep layers"):
        keep_layers(uneven(), layers)


def test_a_smaller_vocabulary_answers_renumbered_rows_alike() -> None:
    model = frontends.build(tiny.classifier("distilbert"))
    kept = [7, 0, 50, 3, 99, 12]
    result = keep_vocabulary(model, kept, {"pad_token_id": 1})
    assert (result.config.vocab_size, result.config.pad_token_id) == (len(kept), 1)
    new = [np.array([3, 2, 4]), np.array([0, 5, 5, 2, 3])]
    old = [np.array([kept[i] for i in row]) for row in new]
    np.testing.assert_allclose(logits_of(result, new), logits_of(model, old), rtol=0, atol=1e-6)


def test_fewer_positions_answer_short_rows_alike() -> None:
    model = frontends.build(tiny.classifier("roberta"))
    result = keep_positions(model, 29)
    assert result.config.max_positions == 29
    rows = tiny.token_rows(100, [29, 4])
    np.testing.assert_allclose(logits_of(result, rows), logits_of(model, rows), rtol=0, atol=1e-6)


def test_more_positions_than_there_are_keep_all() -> None:
    assert keep_positions(uneven(), 512).config.max_positions == 40


def test_labels_and_padding_survive_every_cut() -> None:
    model = frontends.build(tiny.classifier("mpnet", ["a", "b"]))
    for result in (keep_layers(model, [0]), keep_widths(model, KEPT_HEADS, KEPT_CHANNELS), keep_positions(model, 8)):
        assert result.config.id2label == {0: "a", 1: "b"}
        assert result.config.pad_token_id == 1


@pytest.mark.parametrize(
    ("heads", "channels"),
    [
        ([[0], [0]], [[0], [0], [0]]),
        ([[], [0], [0]], [[0], [0], [0]]),
        ([[0], [0], [0]], [[0], [], [0]]),
        ([[4], [0], [0]], [[0], [0], [0]]),
        ([[0], [0], [0]], [[0], [5], [0]]),
    ],
)
def test_widths_that_are_not_there_are_refused(heads: list[list[int]], channels: list[list[int]]) -> None:
    with pytest.raises((ValueError, IndexError)):
        keep_widths(uneven(), heads, channels)


def frequencies(tokens: int) -> np.ndarray:
    """Returns counts as a text has them: few tokens often, many rarely, some never."""
    return np.random.default_rng(1).permutation(np.maximum(5000 // np.arange(1, tokens + 1) - 60, 0))


def widened(model: EdgekitForSequenceClassification) -> np.ndarray:
    """Returns A B of a factorised model, (tokens, embedding)."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    product: np.ndarray = state["embeddings.word.weight"] @ state["embeddings.words.weight"].T
    return product


@pytest.mark.parametrize("changes", [{}, {"embedding_size": 12}], ids=["bert", "projected"])
def test_a_word_table_factorised_at_full_rank_answers_alike(changes: dict[str, int]) -> None:
    model = uneven(**changes)
    result = factorise_words(model, model.config.embedding_size, frequencies(60))
    assert result.config.word_rank == model.config.embedding_size
    np.testing.assert_allclose(logits_of(result), logits_of(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 7, 31])
def test_a_factorised_word_table_is_the_weighted_truncated_svd(rank: int) -> None:
    model, counts = uneven(), frequencies(60)
    table = model.embeddings.word.weight.detach().double().numpy()
    root = np.sqrt(np.maximum(counts, 1.0))[:, None]
    left, singular, right = np.linalg.svd(root * table, full_matrices=False)
    result = factorise_words(model, rank, counts)
    assert result.embeddings.word.weight.shape == (60, rank)
    expected = (left[:, :rank] * singular[:rank]) @ right[:rank] / root
    np.testing.assert_allclose(widened(result), expected, rtol=0, atol=1e-6)
    error = ((root * (widened(result) - table)) ** 2).sum()
    np.testing.assert_allclose(error, (singular[rank:] ** 2).sum(), rtol=1e-5)
    unweighted = factorise_words(model, rank, np.ones(60))
    assert error < 0.95 * ((root * (widened(unweighted) - table)) ** 2).sum()
    assert ((widened(unweighted) - table) ** 2).sum() < ((widened(result) - table) ** 2).sum()


def test_no_other_narrow_table_is_nearer_where_tokens_are_common() -> None:
    """A linear autoencoder's own steps, alternating least squares, end at the same error."""
    model, counts, rank = uneven(), frequencies(60), 5
    table = model.embeddings.word.weight.detach().double().numpy()
    weights = np.maximum(counts, 1.0)[:, None]
    wide = np.random.default_rng(0).normal(size=(rank, 32))
    for _ in range(500):
        narrow = table @ np.linalg.pinv(wide)
        wide = np.linalg.solve(narrow.T @ (weights * narrow), narrow.T @ (weights * table))
    least = (weights * (narrow @ wide - table) ** 2).sum()
    found = (weights * (widened(factorise_words(model, rank, counts)) - table) ** 2).sum()
    np.testing.assert_allclose(found, least, rtol=1e-4)


def test_vocabulary_and_word_rank_are_cut_in_either_order() -> None:
    model, counts, kept = uneven(), frequencies(60), [0, 7, 50, 3, 59, 12, 30, 31]
    new = [np.array([3, 2, 4]), np.array([0, 5, 5, 2, 3, 7])]
    old = [np.array([kept[i] for i in row]) for row in new]
    narrow = factorise_words(model, 6, counts)
    trimmed = keep_vocabulary(narrow, kept, {"pad_token_id": 0})
    assert (trimmed.config.vocab_size, trimmed.config.word_rank) == (8, 6)
    np.testing.assert_allclose(logits_of(trimmed, new), logits_of(narrow, old), rtol=0, atol=1e-6)
    other = factorise_words(keep_vocabulary(model, kept, {"pad_token_id": 0}), 8, counts[kept])  # eight rows: all of it
    assert other.embeddings.word.weight.shape == (8, 8)
    np.testing.assert_allclose(logits_of(other, new), logits_of(model, old), rtol=0, atol=1e-5)


def test_a_factorised_model_is_cut_saved_and_loaded_as_others_are(tmp_path: Path) -> None:
    model = factorise_words(uneven(), 6, frequencies(60))
    heads, channels = [[0, 2], [0], [1]], [[0, 63], [4], list(range(30))]
    expected = logits_of(masked(model, heads, channels))
    cut = keep_widths(model, heads, channels)
    np.testing.assert_allclose(logits_of(cut), expected, rtol=0, atol=1e-5)
    cut = keep_positions(keep_layers(cut, [0, 2]), 30)
    cut.save_pretrained(tmp_path)
    loaded = EdgekitForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.word_rank == 6
    np.testing.assert_allclose(logits_of(loaded), logits_of(cut), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rank", "counts", "message"),
    [
        (0, np.ones(60), "cannot factorise a word table of width 32 at rank 0"),
        (33, np.ones(60), "at rank 33"),
        (4, np.ones(59), "counts must be 60 numbers"),
        (4, np.full(60, -1), "counts must be 60 numbers from 0 on"),
        (4, np.full(60, np.nan), "counts must be 60 numbers from 0 on"),
    ],
)
def test_ranks_and_counts_that_cannot_be_are_refused(rank: int, counts: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factorise_words(uneven(), rank, counts)


def test_a_factorised_table_is_not_factorised_again() -> None:
    with pytest.raises(ValueError, match="factorised already, at rank 4"):
        factorise_words(uneven(word_rank=4), 2, np.ones(60))


def owners_of(tokens: int) -> np.ndarray:
    """Returns for each token an owner: those of odd numbers read the rows of others, above and below them."""
    owners = np.arange(tokens)
    odd = owners % 2 == 1
    owners[odd] = np.random.default_rng(2).choice(owners[~odd], odd.sum())
    return owners


@pytest.mark.parametrize("changes", [{}, {"embedding_size": 12}, {"word_rank": 7}], ids=["bert", "projected", "narrow"])
def test_tokens_that_share_rows_answer_as_their_owners_do(changes: dict[str, int], tmp_path: Path) -> None:
    model, owners = uneven(**changes), owners_of(60)
    result = share_words(model, owners)
    assert (result.config.vocab_size, result.config.word_rows) == (60, len(set(owners)))
    assert result.embeddings.word.weight.shape[0] == len(set(owners)) < 60
    drawn = tiny.token_rows(60, [3, 12, 29])
    expected = logits_of(model, [owners[row] for row in drawn])
    np.testing.assert_allclose(logits_of(result, drawn), expected, rtol=0, atol=1e-6)
    assert np.abs(expected - logits_of(model, drawn)).max() > 0.01
    result.save_pretrained(tmp_path)
    again = EdgekitForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(logits_of(again, drawn), logits_of(result, drawn))
    fewer = keep_layers(result, [0, 2])
    np.testing.assert_allclose(
        logits_of(fewer, drawn),
        logits_of(keep_layers(model, [0, 2]), [owners[row] for row in drawn]),
        rtol=0,
        atol=1e-6,
    )


def test_a_shared_row_is_factorised_by_all_that_read_it() -> None:
    model, owners, counts = uneven(), owners_of(60), frequencies(60)
    kept = sorted(set(owners))
    together = np.array([counts[owners == owner].sum() for owner in kept])
    expected = factorise_words(keep_vocabulary(model, kept, {}), 7, together)
    found = factorise_words(share_words(model, owners), 7, counts)
    np.testing.assert_allclose(widened(found), widened(expected), rtol=0, atol=1e-6)
    assert found.config.word_rows == len(kept)
    drawn = tiny.token_rows(60, [3, 29])
    renumbered = [np.searchsorted(kept, owners[row]) for row in drawn]
    np.testing.assert_allclose(logits_of(found, drawn), logits_of(expected, renumbered), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rows", [1, 9, 20])
def test_rows_that_texts_read_least_go_and_their_tokens_read_the_nearest(shared: bool, rows: int) -> None:
    model, owners, counts = uneven(), owners_of(60), frequencies(60)
    special = {0, 2}
    first = share_words(model, owners) if shared else model
    reads = owners if shared else np.arange(60)
    table = model.embeddings.word.weight.detach().double().numpy()
    often = {owner: counts[reads == owner].sum() for owner in set(reads) - special}
    left = sorted(often, key=lambda owner: (-often[owner], owner))[: max(1, rows - len(special))]
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    stands = {owner: owner for owner in special}
    for owner in often:
        stands[owner] = owner if owner in left else max(sorted(left), key=lambda other: unit[owner] @ unit[other])
    found = fewer_rows(first, rows, counts, special)
    assert found.config.word_rows == len(found.embeddings.word.weight) == len(left) + len(special)
    drawn = tiny.token_rows(60, [3, 12, 29])
    expected = logits_of(model, [np.array([stands[reads[token]] for token in row]) for row in drawn])
    np.testing.assert_allclose(logits_of(found, drawn), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("coverage", [0.0, 0.6, 0.9, 1.0])
def test_rows_that_texts_need_are_as_few_as_leave_them_theirs(coverage: float) -> None:
    random, owners, special = np.random.default_rng(0), owners_of(60), {0, 2}
    model = share_words(uneven(), owners)
    learned, asked = random.integers(3, 25, 40), random.integers(0, 60, 200)
    needed = needed_rows(owners, special, learned, asked, coverage)

    def covered(rows: int) -> tuple[bool, float]:
        """Says whether what was learned keeps its rows, and which share of what is asked has some of its own."""
        found = fewer_rows(model, rows, np.bincount(learned, minlength=60), special)
        weights, before = found.embeddings.word.weight.detach(), model.embeddings.word.weight.detach()
        same = (weights[found.embeddings.row_of] == before[model.embeddings.row_of]).all(dim=1).numpy()
        return bool(same[learned].all()), float((same & (owners == np.arange(60)))[asked].mean())

    whole, share = covered(needed)
    assert whole
    every = float((owners == np.arange(60))[asked].mean())
    assert share >= coverage or (needed == model.config.word_rows and every < coverage)
    whole, share = covered(needed - 1)
    assert not whole or share < coverage


def test_a_table_of_few_rows_stays_as_it_is() -> None:
    assert fewer_rows(uneven(), 60, frequencies(60)).config.word_rows == 0
    with pytest.raises(ValueError, match="at least 1"):
        fewer_rows(uneven(), 0, frequencies(60))
    with pytest.raises(ValueError, match="counts must be 60"):
        fewer_rows(uneven(), 5, frequencies(60)[1:])


def test_owners_that_cannot_be_are_refused() -> None:
    model = uneven()
    with pytest.raises(ValueError, match="60 tokens"):
        share_words(model, np.zeros(59))
    with pytest.raises(ValueError, match="60 tokens"):
        share_words(model, np.full(60, 60))
    with pytest.raises(ValueError, match="reads another's row"):
        share_words(model, [1, 2, 2, *range(3, 60)])
    shared = share_words(model, owners_of(60))
    with pytest.raises(ValueError, match="share rows"):
        share_words(shared, range(60))
    with pytest.raises(ValueError, match="share rows"):
        keep_vocabulary(shared, [0, 1], {})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rank", [0, 7])
def test_training_without_the_rows_that_nothing_reads_is_training_with_them(shared: bool, rank: int) -> None:
    model = uneven(word_rank=rank, dropout=0.0)
    if shared:
        model = share_words(model, owners_of(60))
    tokens = [3, 4, 8, 9, 21, 40, 41, 59]
    whole, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    part, rows = read_rows(model, tokens)
    assert len(rows) == len(part.embeddings.word.weight) <= len(tokens)
    drawn = [np.random.default_rng(0).choice(tokens, length) for length in (3, 12, 29)]
    np.testing.assert_allclose(logits_of(part, drawn), logits_of(model, drawn), rtol=0, atol=1e-6)
    for one in (whole, part):
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(3):
            ids, mask = pad(drawn, drawn[0][0])
            loss = one(torch.from_numpy(ids), torch.from_numpy(mask)).logits.square().sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()
    with_rows(model, part, rows)
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name].numpy(), value.numpy(), rtol=0, atol=1e-5, err_msg=name)
    untouched = sorted(set(range(len(before["embeddings.word.weight"]))) - set(rows.tolist()))
    assert torch.equal(model.embeddings.word.weight[untouched], before["embeddings.word.weight"][untouched])
    assert not torch.equal(model.embeddings.word.weight[rows], before["embeddings.word.weight"][rows])
