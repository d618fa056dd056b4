"""What the exported form of the IR depends on beside the model: the operators that a runtime or an accelerator has.

What an accelerator lacks is left to the CPU, and with it the copies to and fro. Graphs are made to fit here, where they
are made, and not by editing model files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def selected(table: Tensor, places: Tensor) -> Tensor:
    """Returns the rows of a table at places, (count,): one Gather in ONNX."""
    return table.index_select(0, places)


@dataclass(frozen=True)
class Form:
    """How the lean form is written; the default is for ONNX Runtime's CPU kernels.

    Attributes:
        gather: chooses rows of a table, by the operator that the runtime has for it.
        gathered_words: whether words are read so too, rather than by an embedding lookup.
        gathered_bias: whether the mask chooses one of two biases: computing with it takes a cast to float, which no
            integer accelerator has, and gives a tensor whose range shows in padding alone.
        spelled_norms: whether layer norms are written out, for a runtime without an operator of that name. They start
            from the centred input, whose rounding to eight bits costs less than that of two large terms that are then
            subtracted; and what reads a norm reads it with weight and bias, not with these moved into a product.
    """

    gather: Callable[[Tensor, Tensor], Tensor] = selected
    gathered_words: bool = False
    gathered_bias: bool = False
    spelled_norms: bool = False
