"""Moves outlier channels from activations into weights without changing what the float model answers.

A product's input channel j is divided by s_j and its column of the weights multiplied by s_j. Where one layer alone
makes that input, the division goes into its weights and costs nothing: a factorised word table, a layer norm that only
the product reads, the values of attention, a ReLU between two products. Elsewhere (BERT's layer norms feed the residual
too, and GELU does not commute with a scale) the product gets a multiplier, one Mul in the graph. Folding into such a
norm alone is a known fault of other tools: the residual then carries other values than the model was trained with.

Ref: Xiao et al. 2022, SmoothQuant (2211.10438), equation 4, for s; Nagel et al. 2019 (1906.04721), section 4.1, for
folding a pair of layers through a ReLU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edgekit.ir.config import EdgekitConfig
from edgekit.ir.encoder import PRODUCTS, EdgekitForSequenceClassification, Layer
from edgekit.ir.product import Product
from edgekit.quant.findings import OUTLIER_RATIO

NORM_SPREAD = 3.0
"""A normalised value rarely lies beyond three: what a norm's channel reaches is about 3 |gamma| + |beta|."""

WORDS = "embeddings.words"
"""The product that widens the rows of a factorised word table."""

FLOOR = 1e-5
"""Least magnitude of a channel in the formula: a dead channel would otherwise be scaled without limit."""


def products(model: EdgekitForSequenceClassification) -> Iterator[tuple[str, Product]]:
    """Yields the model's products by name, in the order in which they run."""
    if model.embeddings.words is not None:
        yield WORDS, model.embeddings.words
    if model.embeddings.projection is not None:
        yield "embeddings.projection", model.embeddings.projection
    layers: list[Layer] = list(model.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
    for index, layer in enumerate(layers):
        for name in PRODUCTS:
            yield f"layers.{index}.{name}", getattr(layer, name)
    yield "head.dense", model.head.dense
    yield "head.classifier", model.head.classifier


def is_free(config: EdgekitConfig, name: str) -> bool:
    """Says whether the product's input can be divided without a Mul."""
    part = name.rsplit(".", 1)[1]
    return part in ("words", "projection", "output", "dense") or (part == "down" and config.activation == "relu")


def can_divide(config: EdgekitConfig, name: str) -> bool:
    """Says whether the product's input can be divided at all; the classifier's, a tanh, has nothing to even out."""
    return is_free(config, name) or name.rsplit(".", 1)[1] in PRODUCTS


def migration(magnitudes: Tensor, weight: Tensor, strength: float) -> Tensor:
    """Returns the divisor of each input channel, s_j = max|X_j|^a / max|W_j|^(1-a), its geometric mean made 1.

    Args:
        magnitudes: largest magnitude of each input channel over the calibration rows, (inputs,).
        weight: (outputs, inputs).
        strength: a, from 0 (all to the activations) to 1 (all to the weights).

    Ref: SmoothQuant, equation 4. The mean is taken out because a common factor changes no rounding.
    """
    columns = weight.detach().abs().amax(dim=0).clamp(min=FLOOR)
    divisor = magnitudes.clamp(min=FLOOR) ** strength / columns ** (1 - strength)
    return divisor / divisor.log().mean().exp()


def with_multipliers(model: EdgekitForSequenceClassification, names: Sequence[str]) -> EdgekitForSequenceClassification:
    """Returns a copy in which the named products have a multiplier, 1 where there was none; others lose theirs.

    Raises:
        ValueError: a multiplier that would be lost is not 1.
    """
    lost = [
        name
        for name, product in products(model)
        if product.multiplier is not None and name not in names and bool((product.multiplier != 1).any())
    ]
    if lost:
        raise ValueError(f"the multipliers of {', '.join(lost)} are in use")
    result = EdgekitForSequenceClassification(EdgekitConfig(**{**model.config.to_dict(), "multiplied": list(names)}))
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(".multiplier")}
    kept = {name: value for name, value in model.state_dict().items() if name.removesuffix(".multiplier") in names}
    fresh = {name: value for name, value in result.state_dict().items() if name.endswith(".multiplier")}
    result.load_state_dict(state | fresh | kept)
    result.eval()
    return result


@torch.no_grad()
def divide(model: EdgekitForSequenceClassification, name: str, divisor: Tensor) -> None:
    """Divides the input of one product channel by channel, in place; the model answers the same.

    Args:
        model: has a multiplier there, unless the division is free.
        name: of the product.
        divisor: positive, (inputs,).

    Raises:
        ValueError: the product's input cannot be divided.
    """
    product = model.get_submodule(name)
    assert isinstance(product, Product)
    if not is_free(model.config, name):
        if product.multiplier is None:
            raise ValueError(f"{name} has no multiplier")
        product.multiplier.div_(divisor)
    elif name == WORDS:
        model.embeddings.word.weight.div_(divisor)
    elif name == "embeddings.projection":
        _divide_outputs(model.embeddings.norm, divisor)
    elif name == "head.dense":
        last = model.layers[-1]
        assert isinstance(last, Layer)
        _divide_outputs(last.ffn_norm, divisor)
    else:
        where, part = name.rsplit(".", 1)
        layer = model.get_submodule(where)
        assert isinstance(layer, Layer)
        if part == "down":
            _divide_outputs(layer.up, divisor)
        else:  # the values, the last third of the packed product
            layer.qkv.weight[-layer.width :].div_(divisor[:, None])
            layer.qkv.bias[-layer.width :].div_(divisor)
    product.weight.mul_(divisor)


@torch.no_grad()
def fold_outliers(model: EdgekitForSequenceClassification) -> list[str]:
    """Evens out the layer norms that one product alone reads, where channels stand out, in place; nothing else changes.

    What stands out there is the model's own doing and free to move, so it is done before anything is learned from the
    states: one channel of sixty times the others would be all that a squared error of states sees.

    Returns:
        Products whose input was divided.
    """
    last = model.layers[-1]
    assert isinstance(last, Layer)
    readers = {"head.dense": last.ffn_norm}
    if model.embeddings.projection is not None:
        readers["embeddings.projection"] = model.embeddings.norm
    folded = []
    for name, norm in readers.items():
        reach = norm_reach(norm)
        median = reach.median().clamp(min=FLOOR)
        if float(reach.max() / median) >= OUTLIER_RATIO:
            divide(model, name, torch.where(reach >= OUTLIER_RATIO * median, reach / median, torch.ones_like(reach)))
            folded.append(name)
    return folded


def norm_reach(norm: torch.nn.LayerNorm) -> Tensor:
    """Returns what each channel of a layer norm's output reaches, (channels,), from its weights alone."""
    return (NORM_SPREAD * norm.weight.abs() + norm.bias.abs()).detach()


def _divide_outputs(module: torch.nn.Module, divisor: Tensor) -> None:
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    weight.div_(divisor if weight.dim() == 1 else divisor[:, None])
    bias.div_(divisor)
