"""ELECTRA: BERT's encoder behind narrower, projected embeddings; the head's activation is GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.frontends import _bert_layout

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAMES = _bert_layout.names(
    "electra", dense="classifier.dense", classifier="classifier.out_proj", projection="electra.embeddings_project"
)


def shape(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the arguments of `EdgekitConfig` that ELECTRA decides."""
    return _bert_layout.shape(config, head_activation="gelu") | {"embedding_size": config.embedding_size}
