"""A model that trains in an instant."""

from __future__ import annotations

import torch

from edgekit.ir.config import EdgekitConfig
from edgekit.ir.encoder import EdgekitForSequenceClassification


def model(dropout: float = 0.1, word_rank: int = 0) -> EdgekitForSequenceClassification:
    """Returns a random model of two layers."""
    config = EdgekitConfig(
        vocab_size=140, embedding_size=16, hidden_size=16, head_dim=8, heads=[2, 1], ffn=[24, 8], max_positions=32,
        num_labels=4, pad_token_id=0, dropout=dropout, word_rank=word_rank,
    )  # fmt: skip
    torch.manual_seed(0)
    return EdgekitForSequenceClassification(config)
