"""Shape of an encoder of the IR.

`BertConfig` cannot say what pruning makes (other head counts and FFN widths in each layer), and transformers 5 has no
`prune_heads`, so the IR has a configuration of its own, saved and loaded by `from_pretrained` like any other.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")
POSITIONS = ("learned", "relative-bias", "none")


class EdgekitConfig(PretrainedConfig):
    """Shape of an encoder with a classification head.

    Args:
        vocab_size: tokens.
        word_rows: rows of the word table where tokens share them; 0 where each token has its own.
        embedding_size: width of the word, position and type tables; other than `hidden_size` it is projected.
        word_rank: width of the word table where it is factorised, at most `embedding_size`: a product widens its rows
            before positions and types are added; 0 for a table of full width.
        hidden_size: width of the residual stream.
        head_dim: width of one attention head, the same in all layers.
        heads: attention heads of each layer, at least 1; its length is the number of layers.
        ffn: FFN channels of each layer, at least 1.
        max_positions: rows of the position table, the longest input in tokens.
        type_vocab_size: rows of the token-type table; 0 for none.
        positions: "learned" (absolute table), "relative-bias" (T5-style buckets added to the attention scores, beside
            an absolute table) or "none".
        relative_buckets: buckets of the relative bias.
        relative_max_distance: distance in tokens from which all share the last bucket.
        activation: of the FFN.
        head_activation: between the head's dense layer and the classifier.
        norm_eps: epsilon of every layer norm.
        multiplied: names of the products whose input is scaled channel by channel, such as "layers.0.up".
        dropout: probability of dropout on embeddings, attention output and FFN output while training.
        initializer_range: standard deviation of weights that no checkpoint gives.

    Raises:
        ValueError: a width is not positive, `word_rank` is wider than the table, `word_rows` are more than tokens,
            `heads` and `ffn` differ in length, or a name is unknown.
    """

    model_type = "edgekit"

    def __init__(
        self,
        vocab_size: int = 30522,
        word_rows: int = 0,
        embedding_size: int = 384,
        word_rank: int = 0,
        hidden_size: int = 384,
        head_dim: int = 32,
        heads: list[int] | None = None,
        ffn: list[int] | None = None,
        max_positions: int = 512,
        type_vocab_size: int = 2,
        positions: str = "learned",
        relative_buckets: int = 32,
        relative_max_distance: int = 128,
        activation: str = "gelu",
        head_activation: str = "tanh",
        norm_eps: float = 1e-12,
        multiplied: list[str] | None = None,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        **kwargs: Any,  # transformers passes label names, token ids and its own bookkeeping through the base class
    ) -> None:
        self.vocab_size = vocab_size
        self.word_rows = word_rows
        self.embedding_size = embedding_size
        self.word_rank = word_rank
        self.hidden_size = hidden_size
        self.head_dim = head_dim
        self.heads = list(heads) if heads is not None else [12]
        self.ffn = list(ffn) if ffn is not None else [1536]
        self.max_positions = max_positions
        self.type_vocab_size = type_vocab_size
        self.positions = positions
        self.relative_buckets = relative_buckets
        self.relative_max_distance = relative_max_distance
        self.activation = activation
        self.head_activation = head_activation
        self.norm_eps = norm_eps
        self.multiplied = list(multiplied or ())
        self.dropout = dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if len(self.heads) != len(self.ffn):
            raise ValueError(f"heads has {len(self.heads)} layers, ffn has {len(self.ffn)}")
        widths = (self.vocab_size, self.embedding_size, self.hidden_size, self.head_dim, self.max_positions)
        if min((*widths, *self.heads, *self.ffn)) < 1:
            raise ValueError(f"every width must be positive: heads {self.heads}, ffn {self.ffn}, others {widths}")
        if not 0 <= self.word_rows <= self.vocab_size:
            raise ValueError(f"word_rows is {self.word_rows}; from 0 (one a token) to vocab_size, {self.vocab_size}")
        if not 0 <= self.word_rank <= self.embedding_size:
            raise ValueError(f"word_rank is {self.word_rank}; from 0 (none) to embedding_size, {self.embedding_size}")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions is {self.positions!r}; known: {', '.join(POSITIONS)}")
        for name in (self.activation, self.head_activation):
            if name not in ACTIVATIONS:
                raise ValueError(f"activation {name!r}; known: {', '.join(ACTIVATIONS)}")

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers, under the name that transformers' own code asks for."""
        return len(self.heads)

    @property
    def num_attention_heads(self) -> int:
        """Heads of the widest layer, under the name that transformers' own code asks for."""
        return max(self.heads)
