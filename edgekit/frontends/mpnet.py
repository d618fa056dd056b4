"""MPNet: one relative-bias table for all layers beside absolute positions that start behind the padding id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.frontends import ACTIVATIONS, Names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

POSITION_OFFSET = 2
"""MPNet's embeddings have padding_idx 1 whatever the configuration says; the first token has the position behind it."""

BUCKETS = 32
"""Buckets that transformers computes with, whatever the configuration says (transformers 5.23)."""

_LAYER = "mpnet.encoder.layer.{}"

NAMES = Names(
    word="mpnet.embeddings.word_embeddings",
    position="mpnet.embeddings.position_embeddings",
    norm="mpnet.embeddings.LayerNorm",
    query=f"{_LAYER}.attention.attn.q",
    key=f"{_LAYER}.attention.attn.k",
    value=f"{_LAYER}.attention.attn.v",
    output=f"{_LAYER}.attention.attn.o",
    attention_norm=f"{_LAYER}.attention.LayerNorm",
    up=f"{_LAYER}.intermediate.dense",
    down=f"{_LAYER}.output.dense",
    ffn_norm=f"{_LAYER}.output.LayerNorm",
    relative="mpnet.encoder.relative_attention_bias",
    dense="classifier.dense",
    classifier="classifier.out_proj",
    position_offset=POSITION_OFFSET,
)


def shape(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the arguments of `EdgekitConfig` that MPNet decides.

    Raises:
        ValueError: the table has another number of buckets than transformers computes with.
    """
    if config.relative_attention_num_buckets != BUCKETS:
        given = config.relative_attention_num_buckets
        raise ValueError(f"relative_attention_num_buckets is {given}; transformers computes with {BUCKETS}")
    return {
        "ffn": [config.intermediate_size] * config.num_hidden_layers,
        "max_positions": config.max_position_embeddings - POSITION_OFFSET,
        "type_vocab_size": 0,
        "positions": "relative-bias",
        "relative_buckets": BUCKETS,
        "activation": ACTIVATIONS.get(config.hidden_act, config.hidden_act),
        "head_activation": "tanh",
        "norm_eps": config.layer_norm_eps,
    }
