"""BERT: post-norm encoder, absolute positions, tanh pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.frontends import _bert_layout

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAMES = _bert_layout.names("bert", dense="bert.pooler.dense", classifier="classifier")


def shape(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the arguments of `EdgekitConfig` that BERT decides."""
    return _bert_layout.shape(config, head_activation="tanh")
