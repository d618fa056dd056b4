"""The IR's own configuration, forward and relative buckets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from edgekit.ir.config import EdgekitConfig
from edgekit.ir.encoder import EdgekitForSequenceClassification, relative_buckets


def uneven(**changes: Any) -> EdgekitForSequenceClassification:
    """Returns a random model whose layers have different widths."""
    shape: dict[str, Any] = {
        "vocab_size": 60, "embedding_size": 32, "hidden_size": 32, "head_dim": 8, "heads": [4, 1, 3],
        "ffn": [64, 5, 33], "max_positions": 40, "num_labels": 3, "pad_token_id": 0,
    }  # fmt: skip
    model = EdgekitForSequenceClassification(EdgekitConfig(**(shape | changes)))
    tiny.randomise(model, 0)
    return model.eval()


def reference(model: EdgekitForSequenceClassification, ids: np.ndarray) -> np.ndarray:
    """Computes one unpadded row's logits with NumPy in float64, head by head, every token in every layer."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    config = model.config

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_eps)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    x = w["embeddings.word.weight"][ids]
    if config.word_rank:
        x = linear(x, "embeddings.words")
    x = norm(x + w["embeddings.position.weight"][: len(ids)] + w["embeddings.token_type.weight"][0], "embeddings.norm")
    if config.embedding_size != config.hidden_size:
        x = linear(x, "embeddings.projection")
    for i, (heads, d) in enumerate((h, config.head_dim) for h in config.heads):
        name = f"layers.{i}"
        query, key, value = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        contexts = []
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            scores = query[:, part] @ key[:, part].T / np.sqrt(d)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            contexts.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
        x = norm(x + linear(np.concatenate(contexts, -1), f"{name}.output"), f"{name}.attention_norm")
        x = norm(x + linear(relu(linear(x, f"{name}.up")), f"{name}.down"), f"{name}.ffn_norm")
    return linear(np.tanh(linear(x[0], "head.dense")), "head.classifier")


@pytest.mark.parametrize(
    "tables", [{}, {"embedding_size": 12}, {"word_rank": 7}, {"word_rank": 5, "embedding_size": 12}]
)
def test_forward_equals_numpy_with_uneven_widths(tables: dict[str, int]) -> None:
    model = uneven(activation="relu", **tables)
    for row in tiny.token_rows(60, [1, 2, 13, 40]):
        with torch.inference_mode():
            logits = model(torch.from_numpy(row)[None]).logits[0].numpy()
        np.testing.assert_allclose(logits, reference(model, row), rtol=0, atol=1e-5)


def test_hidden_states_are_the_first_tokens_and_labels_give_the_mean_cross_entropy() -> None:
    model = uneven()
    ids = torch.from_numpy(np.stack(tiny.token_rows(60, [7, 7])))
    expected = torch.tensor([2, 0])
    with torch.inference_mode():
        output = model(ids, labels=expected)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, 32)] * 4
    p = torch.softmax(output.logits.double(), -1)[torch.arange(2), expected]
    assert float(output.loss) == pytest.approx(float(-p.log().mean()), abs=1e-6)


@pytest.mark.parametrize("length", [1, 17, 150])
def test_relative_buckets_are_mpnets(length: int) -> None:
    context, memory = torch.arange(length)[:, None], torch.arange(length)[None, :]
    theirs = MPNetEncoder.relative_position_bucket(memory - context, num_buckets=32, max_distance=128)
    assert torch.equal(relative_buckets(length, 32, 128), theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": [2, 2], "ffn": [8]}, "heads has 2 layers, ffn has 1"),
        ({"heads": [2, 0], "ffn": [8, 8]}, "positive"),
        ({"vocab_size": 0}, "positive"),
        ({"word_rank": -1}, "word_rank is -1"),
        ({"word_rank": 33, "embedding_size": 32}, "word_rank is 33; from 0 \\(none\\) to embedding_size, 32"),
        ({"positions": "rotary"}, "rotary"),
        ({"activation": "mish"}, "mish"),
        ({"head_activation": "sigmoid"}, "sigmoid"),
    ],
)
def test_an_impossible_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgekitConfig(**changes)


def test_a_checkpoint_from_before_word_ranks_is_one_without(tmp_path: Path) -> None:
    model = uneven()
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["word_rank"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    loaded = EdgekitForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.word_rank == 0
    assert loaded.embeddings.words is None
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_the_configuration_survives_json() -> None:
    config = uneven(activation="gelu_tanh", positions="relative-bias", norm_eps=1e-5, dropout=0.0).config
    again = EdgekitConfig(**config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert (again.num_hidden_layers, again.num_attention_heads, again.num_labels) == (3, 4, 3)
