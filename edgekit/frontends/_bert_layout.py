"""The layout of weights that BERT and its descendants share, under each one's own prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.frontends import ACTIVATIONS, Names

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def names(prefix: str, dense: str, classifier: str, projection: str | None = None, position_offset: int = 0) -> Names:
    """Returns the names of a model whose encoder is BERT's under `prefix`."""
    layer, embeddings = f"{prefix}.encoder.layer.{{}}", f"{prefix}.embeddings"
    return Names(
        word=f"{embeddings}.word_embeddings",
        position=f"{embeddings}.position_embeddings",
        type=f"{embeddings}.token_type_embeddings",
        norm=f"{embeddings}.LayerNorm",
        projection=projection,
        query=f"{layer}.attention.self.query",
        key=f"{layer}.attention.self.key",
        value=f"{layer}.attention.self.value",
        output=f"{layer}.attention.output.dense",
        attention_norm=f"{layer}.attention.output.LayerNorm",
        up=f"{layer}.intermediate.dense",
        down=f"{layer}.output.dense",
        ffn_norm=f"{layer}.output.LayerNorm",
        dense=dense,
        classifier=classifier,
        position_offset=position_offset,
    )


def shape(config: PretrainedConfig, head_activation: str, position_offset: int = 0) -> dict[str, Any]:
    """Returns the arguments of `EdgekitConfig` that such a model's configuration decides."""
    return {
        "ffn": [config.intermediate_size] * config.num_hidden_layers,
        "max_positions": config.max_position_embeddings - position_offset,
        "type_vocab_size": config.type_vocab_size,
        "activation": ACTIVATIONS.get(config.hidden_act, config.hidden_act),
        "head_activation": head_activation,
        "norm_eps": config.layer_norm_eps,
    }
