"""The IR's matrix products: linear layers whose input can be scaled channel by channel, and watched or replaced.

An input channel that is far larger than the others sets the step of the whole tensor's 8-bit grid. Dividing the channel
and multiplying its column of the weights changes nothing in float and evens the two out; where the layer before cannot
take the division, the product does, at the cost of one Mul (see `edgekit.ir.equalise`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Product(nn.Linear):
    """y = W (x * multiplier) + b.

    Args:
        inputs, outputs: widths.
        multiplied: whether there is a multiplier; without one the input enters as it is.

    Attributes:
        multiplier: (inputs,) or None.
        gate: what the input passes through last; an identity, or what calibration and simulation put there.
        rounding: what the weights pass through; an identity, or what training with rounded weights puts there.
    """

    multiplier: Tensor | None

    def __init__(self, inputs: int, outputs: int, multiplied: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("multiplier", self.weight.new_ones(inputs) if multiplied else None)
        self.gate: nn.Module = nn.Identity()
        self.rounding: nn.Module = nn.Identity()

    def weights(self) -> Tensor:
        """Returns the weights as they are multiplied with, (outputs, inputs)."""
        rounded: Tensor = self.rounding(self.weight)
        return rounded

    def entering(self, x: Tensor) -> Tensor:
        """Returns what the weights are multiplied with, (…, inputs)."""
        scaled: Tensor = self.gate(x if self.multiplier is None else x * self.multiplier)
        return scaled

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, inputs) to (…, outputs)."""
        return F.linear(self.entering(x), self.weights(), self.bias)
