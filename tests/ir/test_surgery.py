"""Cut models against masked ones: the model with zeros in place of what the cut removed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import tiny
import torch
from test_encoder import uneven

from edgekit import frontends
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import keep_layers, keep_positions, keep_vocabulary, keep_widths
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
