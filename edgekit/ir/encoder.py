"""The trainable form of the IR: a post-norm encoder with per-layer widths and a first-token classification head.

The head reads the first token only, so the last layer computes its query, output projection and FFN for that one row:
float results are the same, and training is cheaper by that much too. The padding mask is a finite float bias made
inside the model; -inf or -3.4e38 would ruin a quantization scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name that every torch user reads)
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from edgekit.ir.config import EdgekitConfig
from edgekit.ir.product import Product

PRODUCTS = ("qkv", "output", "up", "down")
"""The products of a layer, in the order in which they run."""

PADDING_BIAS = -30.0
"""Added to the attention scores of padding: e^-30 is below float32's resolution beside 1, and fits an 8-bit scale."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Returns the activation function of that name (one of `config.ACTIVATIONS`)."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
        "tanh": torch.tanh,
    }
    return functions[name]


def relative_buckets(length: int, buckets: int, max_distance: int) -> Tensor:
    """Buckets of the distance from each query to each key.

    Half of the buckets serve either direction; of these the first half are exact, the rest logarithmic up to
    `max_distance` tokens.

    Returns:
        int64, shape (length, length), values in [0, buckets).

    Ref: Raffel et al. 2020 (1910.10683), section 2.1, with the signs as MPNet has them.
    """
    position = torch.arange(length)
    distance = position[None, :] - position[:, None]
    half = buckets // 2
    exact = half // 2
    steps = distance.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    far = exact + (torch.log(steps.clamp(min=1).float() / exact) * scale).long()
    bucket = torch.where(steps < exact, steps, far.clamp(max=half - 1))
    return bucket + (distance > 0).long() * half


class Embeddings(nn.Module):
    """Word, position and token-type tables, their norm, and products where tables are narrower than what reads them.

    Where tokens share rows of the word table, `row_of` says which row each reads. A factorised word table is widened
    before the sum (`words`), tables of another width than the layers' after the norm (`projection`, ELECTRA's form).
    """

    def __init__(self, config: EdgekitConfig) -> None:
        super().__init__()
        width = config.embedding_size
        self.word = nn.Embedding(config.word_rows or config.vocab_size, config.word_rank or width)
        self.row_of: Tensor | None
        # Half the bytes of int64 in a file, and nothing lost: no table has 2^31 rows.
        row_of = torch.zeros(config.vocab_size, dtype=torch.int32) if config.word_rows else None
        self.register_buffer("row_of", row_of)
        self.words = Product(config.word_rank, width) if config.word_rank else None
        self.position = nn.Embedding(config.max_positions, width)
        self.token_type = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.projection = None
        if width != config.hidden_size:
            self.projection = Product(width, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Embeds ids of shape (batch, length); returns (batch, length, hidden)."""
        x = self.word(input_ids if self.row_of is None else self.row_of[input_ids])
        if self.words is not None:
            x = self.words(x)
        x = x + self.position.weight[: input_ids.shape[1]]
        if self.token_type is not None:
            x = x + (self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids))
        normed: Tensor = self.dropout(self.norm(x))
        if self.projection is not None:
            normed = self.projection(normed)
        return normed


class Layer(nn.Module):
    """One post-norm layer: attention, then FFN, each added to the residual and normalised."""

    def __init__(self, config: EdgekitConfig, index: int) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads[index], config.head_dim
        self.width = self.heads * self.head_dim
        multiplied = {name for name in PRODUCTS if f"layers.{index}.{name}" in config.multiplied}
        self.qkv = Product(config.hidden_size, 3 * self.width, "qkv" in multiplied)
        self.output = Product(self.width, config.hidden_size, "output" in multiplied)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.up = Product(config.hidden_size, config.ffn[index], "up" in multiplied)
        self.down = Product(config.ffn[index], config.hidden_size, "down" in multiplied)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        relative = config.positions == "relative-bias"
        self.relative = nn.Embedding(config.relative_buckets, self.heads) if relative else None
        self.activation = activation(config.activation)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, buckets: Tensor | None, first_only: bool) -> Tensor:
        """Runs the layer.

        Args:
            x: (batch, length, hidden).
            bias: padding bias, (batch, 1, 1, length).
            buckets: relative buckets, (length, length), or None.
            first_only: compute the output for the first token alone.

        Returns:
            (batch, 1 if first_only else length, hidden).
        """
        rows = x[:, :1] if first_only else x
        if first_only:
            query_weight, key_value_weight = self.qkv.weights().split([self.width, 2 * self.width])
            query_bias, key_value_bias = self.qkv.bias.split([self.width, 2 * self.width])
            entering = self.qkv.entering(x)
            query = F.linear(entering[:, :1], query_weight, query_bias)
            key, value = F.linear(entering, key_value_weight, key_value_bias).chunk(2, dim=-1)
        else:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        if self.relative is not None and buckets is not None:
            bias = bias + self.relative(buckets[: rows.shape[1]]).permute(2, 0, 1)[None]
        context = F.scaled_dot_product_attention(self._split(query), self._split(key), self._split(value), bias)
        context = context.transpose(1, 2).reshape(rows.shape[0], rows.shape[1], self.width)
        rows = self.attention_norm(rows + self.dropout(self.output(context)))
        hidden = self.down(self.activation(self.up(rows)))
        normed: Tensor = self.ffn_norm(rows + self.dropout(hidden))
        return normed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)


class ClassificationHead(nn.Module):
    """Dense layer, activation and classifier on the first token."""

    def __init__(self, config: EdgekitConfig) -> None:
        super().__init__()
        self.dense = Product(config.hidden_size, config.hidden_size)
        self.activation = activation(config.head_activation)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Product(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        """Classifies first-token states of shape (batch, hidden); returns logits, (batch, labels)."""
        logits: Tensor = self.classifier(self.dropout(self.activation(self.dense(first))))
        return logits


class EdgekitForSequenceClassification(PreTrainedModel):
    """Encoder of the IR with a classification head; `from_pretrained` loads it after `import edgekit`."""

    config_class = EdgekitConfig
    config: EdgekitConfig
    layers: nn.ModuleList
    base_model_prefix = ""
    _supports_sdpa = True

    def __init__(self, config: EdgekitConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(len(config.heads)))
        self.head = ClassificationHead(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the word table."""
        return self.embeddings.word

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Classifies rows padded on the right.

        Args:
            input_ids: (batch, length), int64.
            attention_mask: 1 for tokens, 0 for padding, (batch, length); None means no padding.
            token_type_ids: (batch, length); None means all of type 0.
            labels: (batch,), adds the mean cross-entropy as `loss`.
            return_dict: accepted because transformers passes it; the output is always a `SequenceClassifierOutput`.

        Returns:
            logits (batch, labels) and hidden_states: the first token's state after the embeddings and after each
            layer, each (batch, hidden). Other tokens' states are not kept: no pass reads them.
        """
        x = self.embeddings(input_ids, token_type_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        bias = ((1 - mask.to(x.dtype)) * PADDING_BIAS)[:, None, None, :]
        buckets = None
        if self.config.positions == "relative-bias":
            buckets = relative_buckets(x.shape[1], self.config.relative_buckets, self.config.relative_max_distance).to(
                x.device
            )
        first = [x[:, 0]]
        for layer in self.layers:
            x = layer(x, bias, buckets, first_only=layer is self.layers[-1])
            first.append(x[:, 0])
        logits = self.head(x[:, 0])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=tuple(first))
