"""Integer arithmetic played through in float: what the int8 graph will answer, before there is one.

Each product's input is rounded to the grid of its range and its weights to theirs, exactly as QuantizeLinear and the
stored integers have it; sums run in float, where a runtime's int32 sums are exact, so that answers agree with the
runtime's to float rounding.

Ref: Jacob et al. 2018 (1712.05877), section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import DataError
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.equalise import FLOOR, WORDS, products
from edgekit.quant.methods import LEVELS
from edgekit.quant.weights import Bound, bound_scales, least_error_scales, rounded


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value of each input channel of a product, (inputs,) each."""

    low: Tensor
    high: Tensor

    @property
    def range(self) -> tuple[float, float]:
        """The range of the whole tensor, zero in it."""
        return min(float(self.low.min()), 0.0), max(float(self.high.max()), 0.0)

    @property
    def magnitudes(self) -> Tensor:
        """Largest magnitude of each channel."""
        return torch.maximum(-self.low, self.high)

    @property
    def outlier_ratio(self) -> float:
        """The largest channel's magnitude over the median one's."""
        return float(self.magnitudes.max() / self.magnitudes.median().clamp(min=FLOOR))

    def divided(self, divisor: Tensor) -> Extremes:
        """Returns the extremes of the input with its channels divided."""
        return Extremes(self.low / divisor, self.high / divisor)


class _Watch(nn.Module):
    """Keeps the extremes of what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.detach().reshape(-1, x.shape[-1])
        low, high = flat.amin(dim=0), flat.amax(dim=0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        return x

    @property
    def finite(self) -> bool:
        """Whether no NaN and no infinity has passed."""
        return self.low is None or bool(torch.isfinite(torch.stack([self.low, self.high])).all())  # type: ignore[list-item]


@torch.no_grad()
def watch(model: EdgekitForSequenceClassification, rows: Sequence[np.ndarray]) -> dict[str, Extremes]:
    """Takes the extremes of every product's input channels; rows run one by one, so padding is never seen.

    Those of a factorised word table are of all its rows (`table_extremes`).

    Args:
        model: not changed.
        rows: token ids of each row.

    Raises:
        DataError: NaN or infinite values (product and row are named).
    """
    watched = copy.deepcopy(model).eval()
    gates = {}
    for name, product in products(watched):
        product.gate = gates[name] = _Watch()
    for number, row in enumerate(rows, 1):
        watched(torch.from_numpy(row)[None])
        broken = next((name for name, gate in gates.items() if not gate.finite), None)
        if broken is not None:
            raise DataError(
                f"the input of product {broken!r} is not finite on row {number} of {len(rows)}: the model is broken "
                "before it; look whether its training diverged (a lower learning rate) or its checkpoint is damaged"
            )
    found = {}
    for name, gate in gates.items():
        assert gate.low is not None
        assert gate.high is not None
        found[name] = Extremes(gate.low, gate.high)
    return found | table_extremes(model)


def table_extremes(model: EdgekitForSequenceClassification) -> dict[str, Extremes]:
    """Returns the extremes of the product that widens a factorised word table, by its name; without one, nothing.

    The table's integers go into the product as they are stored, so that its grid is the table's: it has to reach tokens
    that no calibration row has.
    """
    if model.embeddings.words is None:
        return {}
    table = model.embeddings.word.weight.detach()
    return {WORDS: Extremes(table.amin(dim=0), table.amax(dim=0))}


class _Round(torch.autograd.Function):
    """Rounds half to even; gradients pass as if it did not."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class FakeQuantizer(nn.Module):
    """Rounds to the grid of a range, half to even, and back; gradients pass where nothing is clipped."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        scale = np.float32((high - low) / (LEVELS - 1)) if high > low else np.float32(1)
        self.scale, self.zero = float(scale), float(np.round(-low / float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the grid's nearest values, of x's shape."""
        steps: Tensor = _Round.apply(x / self.scale)  # type: ignore[no-untyped-call]
        return torch.clamp(steps, -self.zero, LEVELS - 1 - self.zero) * self.scale


class WeightRounder(nn.Module):
    """Rounds weights to the integers of their scales and back; gradients pass as if it did not.

    The scales are the bound's own and follow the weights: the search for those of least error, fifty roundings of every
    weight, would be made in each step.
    """

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, weight: Tensor) -> Tensor:
        """Returns integers times scales, (outputs, inputs)."""
        exact = weight.detach()
        return weight + (restored(exact, bound_scales(exact.numpy(), self.bound), self.bound) - exact)


def trainable(
    model: EdgekitForSequenceClassification, ranges: Mapping[str, tuple[float, float]], bound: Bound
) -> EdgekitForSequenceClassification:
    """Returns a copy that computes as its integers would and can be trained so.

    Args:
        model: not changed.
        ranges: (low, high) of each product's input; a product without one stays float.
        bound: of the weights' integers.
    """
    result = copy.deepcopy(model)
    for name, product in products(result):
        if name in ranges:
            product.gate, product.rounding = FakeQuantizer(*ranges[name]), WeightRounder(bound)
    return result


def without_rounding(model: EdgekitForSequenceClassification) -> EdgekitForSequenceClassification:
    """Returns a copy of a model of `trainable` that computes in float, with the weights it was trained to."""
    result = copy.deepcopy(model)
    for _, product in products(result):
        product.gate = product.rounding = nn.Identity()
    return result


def restored(weight: Tensor, scales: np.ndarray, bound: Bound) -> Tensor:
    """Returns a product's integers times their scales, (outputs, inputs)."""
    integers = rounded(weight.detach().numpy(), scales, bound)
    return torch.from_numpy(integers.astype(np.float32) * scales[:, None])


class _Divided(nn.Module):
    """Divides the input before it is rounded."""

    def __init__(self, divisor: Tensor, then: nn.Module) -> None:
        super().__init__()
        self.divisor, self.then = divisor, then

    def forward(self, x: Tensor) -> Tensor:
        rounded_input: Tensor = self.then(x / self.divisor)
        return rounded_input


@torch.no_grad()
def one_rounded(
    model: EdgekitForSequenceClassification, name: str, seen: Extremes, divisor: Tensor | None, bound: Bound
) -> EdgekitForSequenceClassification:
    """Returns a copy in which one product alone computes as its integers would, its input divided or as it is.

    Args:
        model: not changed; the copy shares the other parameters.
        name: of the product.
        seen: extremes of its input.
        divisor: of its input, (inputs,), or None.
        bound: of its weights' integers; their scales are the bound's own, which a search can afford.
    """
    memo: dict[int, object] = {id(p): p for p in model.parameters()}
    result = copy.deepcopy(model, memo)
    product = dict(products(result))[name]
    gate: nn.Module = FakeQuantizer(*(seen if divisor is None else seen.divided(divisor)).range)
    weight = product.weight.detach() if divisor is None else product.weight.detach() * divisor
    product.gate = gate if divisor is None else _Divided(divisor, gate)
    product.weight = nn.Parameter(restored(weight, bound_scales(weight.numpy(), bound), bound), requires_grad=False)
    return result


class _Replayed(nn.Module):
    """Stands for a layer: gives what it gave, batch after batch, and from the first again."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.outputs, self.next = outputs, 0

    def forward(self, x: Tensor, bias: Tensor, buckets: Tensor | None, first_only: bool) -> Tensor:
        output = self.outputs[self.next]
        self.next = (self.next + 1) % len(self.outputs)
        return output


class _Skipped(nn.Module):
    """Stands for a layer whose output nothing reads."""

    def forward(self, x: Tensor, bias: Tensor, buckets: Tensor | None, first_only: bool) -> Tensor:
        return x


def layer_of(product: str, layers: int) -> int:
    """Returns the index of the layer that a product is in: -1 before the first, `layers` after the last."""
    part, _, rest = product.partition(".")
    return int(rest.split(".")[0]) if part == "layers" else -1 if part == "embeddings" else layers


def outputs_of(
    model: EdgekitForSequenceClassification, layer: int, run: Callable[[EdgekitForSequenceClassification], object]
) -> list[Tensor]:
    """Returns what a layer gives for each batch of a run.

    Args:
        model: not changed.
        layer: its index.
        run: runs the model over batches, always in one order.
    """
    found: list[Tensor] = []
    hook = model.layers[layer].register_forward_hook(lambda _, given, output: found.append(output))
    try:
        run(model)
    finally:
        hook.remove()
    return found


def resumed(
    model: EdgekitForSequenceClassification, layer: int, before: Sequence[Tensor]
) -> EdgekitForSequenceClassification:
    """Changes a model, in place, so that runs start behind the layer before the given one.

    Args:
        model: a copy of its own.
        layer: index of the first layer that runs, at least 1.
        before: of `outputs_of` for the layer before it and the same batches.

    Returns:
        The model.
    """
    for index in range(layer - 1):
        model.layers[index] = _Skipped()
    model.layers[layer - 1] = _Replayed(before)
    return model


@torch.no_grad()
def integers(
    model: EdgekitForSequenceClassification, seen: Mapping[str, Extremes], bound: Bound = "pairs"
) -> EdgekitForSequenceClassification:
    """Returns a copy whose products all compute as their integers would, those that the backend writes.

    Args:
        model: not changed.
        seen: extremes of the products' inputs; a product without them stays float.
        bound: of the weights' integers.
    """
    result = copy.deepcopy(model)
    for name, product in products(result):
        if name in seen:
            product.gate = FakeQuantizer(*seen[name].range)
            product.weight.copy_(restored(product.weight, least_error_scales(product.weight.numpy(), bound), bound))
    return result
