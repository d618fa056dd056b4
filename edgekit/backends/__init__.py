"""Formats and runtimes: one module each, found by `target.runtime.name`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgekit.errors import TargetError, suggestion

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.quant.findings import Finding
    from edgekit.quant.ranges import Range
    from edgekit.quant.weights import Bound


@dataclass(frozen=True)
class Scheme:
    """One way to quantize a graph.

    Attributes:
        name: for reports.
        weight: integer type of the weights, "int8" or "uint8".
        bound: of int8 weights (`edgekit.quant.weights`): what keeps pairs of uint8 x int8 products within 16 bits on
            x86 CPUs without VNNI. uint8 weights need none.
    """

    name: str
    weight: str
    bound: Bound | None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model file: name, element type (numpy's name) and shape (names are dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Description:
    """What an app must know of a model file.

    Attributes:
        format: for instance "onnx".
        inputs, outputs: in order.
        opset, ir_version: of the operators and of the file format.
        min_runtime: oldest runtime that loads it.
        nodes: operators in the graph.
    """

    format: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    ir_version: int
    min_runtime: str
    nodes: int


class Backend(Protocol):
    """What a module in this folder offers."""

    TOOLS: tuple[str, ...]
    OPS: tuple[str, ...]

    def export_student(
        self, model: EdgekitForSequenceClassification, length: int | str, max_length: int, out: Path
    ) -> None:
        """Writes the float student, for one row of `length` tokens ("dynamic": any up to `max_length`)."""
        ...

    def export_teacher(self, model: PreTrainedModel, max_length: int, out: Path) -> None:
        """Writes the float teacher from transformers' own code: what the user would run without edgekit.

        Args:
            model: the classifier.
            max_length: tokens that it reads at most.
            out: file to write.
        """
        ...

    def quantized_tensors(self, graph: Path, ops: Sequence[str] | Literal["all"]) -> list[str]:
        """Names the activations that quantization of these operators needs ranges of."""
        ...

    def activations(self, graph: Path, tensors: Sequence[str], rows: Sequence[np.ndarray], pad_id: int) -> Any:
        """Yields, row by row, the named activations as a dictionary of arrays, on this machine."""
        ...

    def quantize(
        self, graph: Path, ranges: Mapping[str, Range], quant: Mapping[str, Any], scheme: Scheme, out: Path
    ) -> None:
        """Writes the integer graph."""
        ...

    def logits(self, graph: Path, rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
        """Runs rows on this machine; returns float32 logits, (rows, classes)."""
        ...

    def findings(self, graph: Path, arch: str, isa: Sequence[str], ops: Sequence[str]) -> list[Finding]:
        """Lints a model file for a processor; `ops` are the operators that a target quantizes."""
        ...

    def describe(self, graph: Path) -> Description:
        """Reads inputs, outputs, opset and the oldest runtime off a model file."""
        ...


def names() -> tuple[str, ...]:
    """Names the backends there are, from the files of this folder."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load_backend(name: str) -> Backend:
    """Returns a backend by the runtime's name.

    Raises:
        TargetError: there is none of that name.
    """
    if name not in names():
        raise TargetError(f"no backend for runtime {name!r}{suggestion(name, names())}")
    backend: Backend = importlib.import_module(f"{__name__}.{name}")
    return backend
