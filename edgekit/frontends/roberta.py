"""RoBERTa: BERT's encoder whose positions start behind the padding id (fairseq's numbering)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.frontends import _bert_layout

if TYPE_CHECKING:
    from transformers import PretrainedConfig

POSITION_OFFSET = 2
"""The first token has position padding_idx + 1, and padding_idx is 1; the rows before are never read."""

NAMES = _bert_layout.names(
    "roberta", dense="classifier.dense", classifier="classifier.out_proj", position_offset=POSITION_OFFSET
)


def shape(config: PretrainedConfig) -> dict[str, Any]:
    """Returns the arguments of `EdgekitConfig` that RoBERTa decides.

    Raises:
        ValueError: the padding id is not 1, so that positions start elsewhere.
    """
    if config.pad_token_id != POSITION_OFFSET - 1:
        raise ValueError(f"pad_token_id is {config.pad_token_id}; RoBERTa's positions are numbered from 1")
    return _bert_layout.shape(config, head_activation="tanh", position_offset=POSITION_OFFSET)
