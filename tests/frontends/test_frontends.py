"""Every frontend against transformers itself: the same logits, on padded rows, with no weight left at its default."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from edgekit import frontends
from edgekit.errors import ModelError
from edgekit.tokenization import pad

LENGTHS = (2, 9, 17, 31, 64)
WITH_TYPES = ("bert", "roberta", "xlm-roberta", "electra")


def logits_of(model: Any, lengths: tuple[int, ...] = LENGTHS, **inputs: Any) -> torch.Tensor:
    """Runs random rows of the given lengths as one padded batch."""
    ids, mask = pad(tiny.token_rows(model.config.vocab_size, lengths), model.config.pad_token_id)
    with torch.inference_mode():
        logits: torch.Tensor = model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **inputs
        ).logits
    return logits


def assert_same(theirs: torch.Tensor, ours: torch.Tensor) -> None:
    """The logits differ by 1e-5 at most, and they are worth comparing: rows and classes differ by far more."""
    assert float(theirs.std(dim=0).min()) > 0.01
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=1e-5)


def test_there_is_a_frontend_for_each_of_the_promised_architectures() -> None:
    assert frontends.architectures() == tuple(sorted(tiny.MODEL_TYPES))


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_logits_are_those_of_transformers(model_type: str) -> None:
    model = tiny.classifier(model_type, seed=1)
    assert_same(logits_of(model), logits_of(frontends.build(model)))


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_padding_does_not_change_a_row(model_type: str) -> None:
    ours = frontends.build(tiny.classifier(model_type, seed=2))
    row = tiny.token_rows(ours.config.vocab_size, [9])[0]
    ids, mask = pad([row, np.concatenate([row, row, row])], ours.config.pad_token_id)
    with torch.inference_mode():
        padded = ours(torch.from_numpy(ids), torch.from_numpy(mask)).logits[0]
        alone = ours(torch.from_numpy(row)[None]).logits[0]
    np.testing.assert_allclose(padded.numpy(), alone.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", WITH_TYPES)
def test_token_types_are_taken_from_the_input(model_type: str) -> None:
    model = tiny.classifier(model_type, seed=3, type_vocab_size=2)
    shape = (len(LENGTHS), max(LENGTHS))
    types = torch.arange(shape[0] * shape[1]).reshape(shape) % 3 % 2
    ours = frontends.build(model)
    assert_same(logits_of(model, token_type_ids=types), logits_of(ours, token_type_ids=types))
    assert float((logits_of(ours) - logits_of(ours, token_type_ids=types)).abs().max()) > 0.01


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta"])
def test_a_model_with_a_single_token_type_is_read(model_type: str) -> None:
    model = tiny.classifier(model_type, type_vocab_size=1)
    assert_same(logits_of(model), logits_of(frontends.build(model)))


@pytest.mark.parametrize("embedding_size", [8, 16, tiny.HIDDEN])
def test_electra_with_and_without_projected_embeddings(embedding_size: int) -> None:
    model = tiny.classifier("electra", embedding_size=embedding_size)
    ours = frontends.build(model)
    assert (ours.embeddings.projection is None) == (embedding_size == tiny.HIDDEN)
    assert ours.config.embedding_size == embedding_size
    assert_same(logits_of(model), logits_of(ours))


def test_mpnet_rows_longer_than_the_largest_distance_share_the_last_bucket() -> None:
    model = tiny.classifier("mpnet", max_position_embeddings=202)
    assert_same(logits_of(model, (200, 150, 3)), logits_of(frontends.build(model), (200, 150, 3)))


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "tanh"]
)
@pytest.mark.parametrize(("model_type", "key"), [("bert", "hidden_act"), ("distilbert", "activation")])
def test_activations_are_read_under_transformers_names(model_type: str, key: str, name: str) -> None:
    model = tiny.classifier(model_type, **{key: name})
    assert_same(logits_of(model), logits_of(frontends.build(model)))


def test_layer_norm_epsilon_and_label_names_are_taken_over() -> None:
    model = tiny.classifier("bert", ["no", "yes", "maybe"], layer_norm_eps=0.1)
    ours = frontends.build(model)
    assert ours.config.norm_eps == 0.1
    assert ours.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert_same(logits_of(model), logits_of(ours))


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_the_original_is_neither_changed_nor_shared(model_type: str) -> None:
    model = tiny.classifier(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ours = frontends.build(model)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_architecture_without_frontend_lists_those_there_are() -> None:
    model = tiny.classifier("deberta-v2", vocab_size=100)
    with pytest.raises(ModelError, match="no frontend for model type 'deberta-v2'") as caught:
        frontends.build(model)
    assert all(name in str(caught.value) for name in frontends.architectures())
    with pytest.raises(ModelError, match="gpt2"):
        frontends.check("gpt2")


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("bert", {"hidden_act": "gelu_10"}, "gelu_10"),
        ("distilbert", {"activation": "mish"}, "mish"),
        ("mpnet", {"hidden_act": "quick_gelu"}, "quick_gelu"),
        ("roberta", {"pad_token_id": 0}, "pad_token_id is 0"),
        ("xlm-roberta", {"pad_token_id": 3}, "pad_token_id is 3"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("roberta", {"is_decoder": True}, "is_decoder"),
        ("electra", {"is_decoder": True}, "is_decoder"),
    ],
)
def test_a_setting_that_the_ir_does_not_express_is_refused(
    model_type: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        frontends.build(tiny.classifier(model_type, **changes))


def test_relative_key_positions_are_refused() -> None:
    model = tiny.classifier("bert")
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(ModelError, match="relative_key"):
        frontends.build(model)
