"""The exported form against the trained one."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from test_encoder import uneven

from edgekit import frontends
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.lean import LeanClassifier
from edgekit.ir.surgery import keep_widths, share_words

LENGTHS = (1, 2, 7, 24)


def rows(model: EdgekitForSequenceClassification) -> list[torch.Tensor]:
    """Returns random rows, each a batch of one."""
    return [torch.from_numpy(row)[None] for row in tiny.token_rows(model.config.vocab_size, LENGTHS)]


def assert_lean_equals(model: EdgekitForSequenceClassification, max_length: int) -> None:
    """Compares unpadded rows, and the same rows padded to `max_length` with a mask."""
    lean = LeanClassifier(model, max_length).eval()
    with torch.inference_mode():
        for row in rows(model):
            expected = model(row).logits.numpy()
            np.testing.assert_allclose(lean(row).numpy(), expected, rtol=0, atol=1e-5)
            padded = torch.full((1, max_length), model.config.pad_token_id)
            padded[:, : row.shape[1]] = row
            mask = (torch.arange(max_length) < row.shape[1]).long()[None]
            np.testing.assert_allclose(lean(padded, mask).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("max_length", [24, tiny.POSITIONS])
@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_lean_logits_are_the_encoders(model_type: str, max_length: int) -> None:
    assert_lean_equals(frontends.build(tiny.classifier(model_type)), max_length)


def test_lean_logits_are_the_encoders_with_uneven_widths() -> None:
    assert_lean_equals(uneven(), 24)
    assert_lean_equals(uneven(positions="relative-bias", type_vocab_size=0, embedding_size=12), 30)


@pytest.mark.parametrize("changes", [{}, {"embedding_size": 12}, {"positions": "relative-bias", "type_vocab_size": 0}])
def test_lean_logits_are_the_encoders_with_a_factorised_word_table(changes: dict[str, object]) -> None:
    assert_lean_equals(uneven(word_rank=7, **changes), 24)


@pytest.mark.parametrize("changes", [{}, {"word_rank": 7}])
def test_lean_logits_are_the_encoders_where_tokens_share_rows(changes: dict[str, object]) -> None:
    model = uneven(**changes)
    assert_lean_equals(share_words(model, np.arange(model.config.vocab_size) // 3 * 3), 24)


def test_lean_logits_are_the_encoders_after_pruning_a_relative_bias() -> None:
    model = frontends.build(tiny.classifier("mpnet"))
    heads = [[0, 3], [1], [0, 1, 2, 3], [2]]
    assert_lean_equals(keep_widths(model, heads, [[0, 5, 63], [1], list(range(64)), [7, 8]]), 24)


def test_a_single_layer_serves_as_first_and_last() -> None:
    assert_lean_equals(uneven(heads=[3], ffn=[9]), 24)


def test_the_trained_form_is_not_changed() -> None:
    model = uneven()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    LeanClassifier(model, 24)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("max_length", [0, -3, 41])
def test_a_length_that_the_position_table_lacks_is_refused(max_length: int) -> None:
    with pytest.raises(ValueError, match="the model has 40 positions"):
        LeanClassifier(uneven(), max_length)
