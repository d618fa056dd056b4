"""The form of the IR that is exported: one unpadded row, two-dimensional, with as few nodes as it can have.

At a millisecond an inference half of the run time is not matrix products but the nodes between them, so this form has
the tables merged (word; position, token type 0 and a factorised word table's bias), query, key and value packed into
one product with bias and the 1/sqrt(head_dim) folded into the query's weights, activations of rank 2 (a rank-2 product
becomes Gemm, whose quantized kernel takes the bias as int32), and the last layer for the first token only. Float
logits equal the encoder's to 1e-5.

A model with a fixed input length has padding, so it takes the mask as a second input; one with dynamic length takes
none. Runtimes differ in the operators that they have; a `Form` says which of them the model is written in.

Submodules have the names of the encoder's products, so that a graph's weights say which product they are of
(`product_of`).
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edgekit.ir.encoder import PADDING_BIAS, EdgekitForSequenceClassification, Embeddings, Layer, relative_buckets
from edgekit.ir.form import Form

DEFAULT = Form()
NEGLIGIBLE_EPSILON = 1e-9
"""Of a layer norm: below what float32 resolves beside a variance of 1e-2."""


def product_of(weight: str) -> str:
    """Returns the product of the encoder that a weight of the exported graph belongs to.

    Args:
        weight: its name in the graph, such as "layers.0.qkv.1.weight", part of "layers.0.qkv".
    """
    return re.sub(r"(\.\d+)?\.weight$", "", weight)


class CentredNorm(nn.Module):
    """A layer norm in operators of its own: the input less its mean, over the root of the mean of its squares.

    Args:
        norm: whose weights it shares.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Maps (rows, hidden) to (rows, hidden)."""
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        if self.eps > NEGLIGIBLE_EPSILON:
            variance = variance + self.eps
        normed: Tensor = centred * variance.rsqrt() * self.weight + self.bias
        return normed


class LeanEmbeddings(nn.Module):
    """Word table, what widens it, and one table of all that is added: positions, type 0, and the bias of what widens.

    Args:
        tables: the encoder's.
        max_length: rows of the merged table.
        form: what is written how.
    """

    def __init__(self, tables: Embeddings, max_length: int, form: Form) -> None:
        super().__init__()
        self.form = form
        self.word, self.words = tables.word, None
        self.row_of: Tensor | None
        self.register_buffer("row_of", tables.row_of)
        position = tables.position.weight[:max_length].detach().clone()
        if tables.token_type is not None:
            position = position + tables.token_type.weight[0].detach()
        if tables.words is not None:
            position = position + tables.words.bias.detach()
            self.words = _linear(tables.words.weight, torch.zeros_like(tables.words.bias))  # the exporter drops zeros
        self.position = nn.Parameter(position)
        self.norm, self.projection = _norm(tables.norm, form), tables.projection

    def forward(self, ids: Tensor) -> Tensor:
        """Embeds ids of shape (length,); returns (length, hidden)."""
        if self.row_of is not None:
            ids = self.form.gather(self.row_of, ids)  # one Gather, where [] takes three nodes
        x = self.form.gather(self.word.weight, ids) if self.form.gathered_words else F.embedding(ids, self.word.weight)
        if self.words is not None:
            x = self.words(x)
        normed: Tensor = self.norm(x + self.position[: ids.shape[0]])
        if self.projection is not None:
            normed = self.projection(normed)
        return normed


class LeanLayer(nn.Module):
    """A layer on rank-2 activations, its query scaled in the weights."""

    def __init__(self, layer: Layer, first_only: bool, buckets: Tensor | None, form: Form) -> None:
        super().__init__()
        self.heads, self.head_dim, self.width, self.first_only = layer.heads, layer.head_dim, layer.width, first_only
        scale = torch.ones(3 * self.width, 1)
        scale[: self.width] = 1 / math.sqrt(self.head_dim)
        weight, bias = layer.qkv.weight * scale, layer.qkv.bias * scale[:, 0]
        pieces = [self.width, 2 * self.width] if first_only else [3 * self.width]
        self.multiplier: Tensor | None
        self.register_buffer("multiplier", layer.qkv.multiplier)
        self.qkv = nn.ModuleList(_linear(w, b) for w, b in zip(weight.split(pieces), bias.split(pieces), strict=True))
        self.output, self.attention_norm = layer.output, _norm(layer.attention_norm, form)
        self.up, self.down, self.activation = layer.up, layer.down, layer.activation
        self.ffn_norm = _norm(layer.ffn_norm, form)
        relative = None
        if layer.relative is not None and buckets is not None:
            relative = layer.relative(buckets[:1] if first_only else buckets).permute(2, 0, 1).contiguous()
        self.relative: Tensor | None
        self.register_buffer("relative", relative)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Maps (length, hidden) to (length, hidden), or to (1, hidden) in the last layer; bias is (1, 1, length)."""
        rows = x[:1] if self.first_only else x
        query, key, value = self._heads(x)
        scores = torch.matmul(query, key.transpose(-1, -2))
        if self.relative is not None:
            scores = scores + self.relative[:, : rows.shape[0], : x.shape[0]]
        if bias is not None:
            scores = scores + bias
        context = torch.matmul(scores.softmax(-1), value)
        if not self.first_only:  # one row lies in memory as its transposition does
            context = context.transpose(0, 1)
        rows = self.attention_norm(rows + self.output(context.reshape(-1, self.width)))
        normed: Tensor = self.ffn_norm(rows + self.down(self.activation(self.up(rows))))
        return normed

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value, each (heads, rows, head_dim): one transposition, then one split."""
        x = x if self.multiplier is None else x * self.multiplier
        if not self.first_only:
            packed = self.qkv[0](x).view(-1, 3 * self.heads, self.head_dim).transpose(0, 1)
            query, key, value = packed.split(self.heads)
            return query, key, value
        key, value = self.qkv[1](x).view(-1, 2 * self.heads, self.head_dim).transpose(0, 1).split(self.heads)
        return self.qkv[0](x[:1]).view(self.heads, 1, self.head_dim), key, value


class LeanClassifier(nn.Module):
    """The whole model for one row.

    Args:
        model: the trained encoder; its weights are shared, not copied, wherever they are not folded.
        max_length: rows of the merged position table, at most `model.config.max_positions`.
        form: what is written how.
    """

    def __init__(self, model: EdgekitForSequenceClassification, max_length: int, form: Form = DEFAULT) -> None:
        super().__init__()
        config = model.config
        if not 1 <= max_length <= config.max_positions:
            raise ValueError(f"max_length is {max_length}; the model has {config.max_positions} positions")
        self.embeddings = LeanEmbeddings(model.embeddings, max_length, form)
        buckets = None
        if config.positions == "relative-bias":
            buckets = relative_buckets(max_length, config.relative_buckets, config.relative_max_distance)
        layers: list[Layer] = list(model.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
        self.layers = nn.ModuleList(LeanLayer(layer, layer is layers[-1], buckets, form) for layer in layers)
        self.head = model.head
        self.form = form
        self.biases: Tensor
        self.register_buffer("biases", torch.tensor([[PADDING_BIAS], [0.0]]), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Classifies one row: ids (1, length), mask (1, length) where the length is fixed; returns (1, labels)."""
        x = self.embeddings(input_ids.squeeze(0))
        bias = None
        if attention_mask is not None and self.form.gathered_bias:
            bias = self.form.gather(self.biases, attention_mask.squeeze(0)).view(1, 1, -1)
        elif attention_mask is not None:
            bias = ((1 - attention_mask.to(x.dtype)) * PADDING_BIAS)[None]
        for layer in self.layers:
            x = layer(x, bias)
        logits: Tensor = self.head(x)
        return logits


def _norm(norm: nn.LayerNorm, form: Form) -> nn.Module:
    return CentredNorm(norm) if form.spelled_norms else norm


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.detach().clone())
    linear.bias = nn.Parameter(bias.detach().clone())
    return linear
