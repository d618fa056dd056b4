"""DistilBERT: BERT without token types and pooler; the head's activation is ReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.frontends import ACTIVATIONS, Names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_LAYER = "distilbert.transformer.layer.{}"

NAMES = Names(
    word="distilbert.embeddings.word_embeddings",
    position="distilbert.embeddings.position_embeddings",
    norm="distilbert.embeddings.LayerNorm",
    query=f"{_LAYER}.attention.q_lin",
    key=f"{_LAYER}.attention.k_lin",
    value=f"{_LAYER}.attention.v_lin",
    output=f"{_LAYER}.attention.out_lin",
    attention_norm=f"{_LAYER}.sa_layer_norm",
    up=f"{_LAYER}.ffn.lin1",
    down=f"{_LAYER}.ffn.lin2",
    ffn_norm=f"{_LAYER}.output_layer_norm",
    dense="pre_classifier",
    classifier="classifier",
)


def shape(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the arguments of `EdgekitConfig` that DistilBERT decides."""
    return {
        "ffn": [config.hidden_dim] * config.n_layers,
        "max_positions": config.max_position_embeddings,
        "type_vocab_size": 0,
        "activation": ACTIVATIONS.get(config.activation, config.activation),
        "head_activation": "relu",
        "norm_eps": 1e-12,
    }
