"""Formats and runtimes: one module each, found by `target.runtime.name`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgekit.errors import TargetError, suggestion

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.measured import Coverage, Cycles
    from edgekit.quant.findings import Finding
    from edgekit.quant.ranges import Range
    from edgekit.quant.weights import Bound


@dataclass(frozen=True)
class Scheme:
    """One way to quantize a graph.

    Attributes:
        name: for reports.
        family: "static" rounds activations to calibrated ranges, "dynamic" to those of each run; "weight-only" leaves
            them float, though the runtime's kernel may round them in blocks.
        weight: integer type of the weights, "int8", "uint8" or, weight-only, "int4".
        bound: of the integers (`edgekit.quant.weights`): what keeps pairs of uint8 x int8 products within 16 bits on
            x86 CPUs without VNNI; uint8 weights need none. None where the runtime's own quantizer rounds, in blocks.
        activation: integer type of a static scheme's activations, of 8 or 16 bits.
    """

    name: str
    family: Literal["static", "dynamic", "weight-only"]
    weight: str
    bound: Bound | None
    activation: str = "uint8"


@dataclass(frozen=True)
class Precision:
    """What departs from a scheme, operator by operator.

    Attributes:
        keep_float: products that stay float, by their names (`Backend.products`).
        means: of tensors that enter products, each channel's mean over the calibration rows: biases are corrected by
            what the weights' rounding adds on average. Empty for no correction.
        weight_method: of the weights' scales (`edgekit.quant.weights.WEIGHT_METHODS`); weight-only schemes have the
            runtime's own.
        embedding: form of the word table: "int8" with one scale, "int8-rows" with one a row, "int4-blocks" with one a
            block of a row.
    """

    keep_float: frozenset[str] = frozenset()
    means: Mapping[str, np.ndarray] = field(default_factory=dict)
    weight_method: str = "mse"
    embedding: str = "int8"


EMBEDDINGS = ("int8", "int8-rows", "int4-blocks")


@dataclass(frozen=True)
class Product:
    """A product of the encoder, as a graph has it.

    Attributes:
        entering: the activation that it multiplies; where the graph computes it in parts, that of the largest.
        weights: how many it has.
    """

    entering: str
    weights: int


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model file: name, element type (numpy's name) and shape (names are dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Request:
    """What a program is compiled for.

    Attributes:
        texts: of the training rows.
        lengths: their tokens, for the choice of input lengths where they are fixed.
        max_length: tokens of the longest row; longer ones are cut.
        pad_id: of the tokenizer.
        labels: names of the classes, in the order of the outputs.
        tokenizer: folder of tokenizer.json.
        device: of the target's section of that name `accelerator` and `socs`.
        shape: likewise `sequence_length` and `buckets`.
    """

    texts: Sequence[str]
    lengths: Sequence[int]
    max_length: int
    pad_id: int
    labels: Sequence[str]
    tokenizer: Path
    device: Mapping[str, Any]
    shape: Mapping[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What a device loads.

    Attributes:
        model: name of the file that is loaded and measured; of several that of the longest rows.
        bytes: of all files that one device loads.
        lengths: tokens that inputs have, increasing; empty where rows are run as long as they are.
        files: of each length, the name of its file; empty where `model` serves all.
        portable: name of the file that a CPU answers by as the accelerator should; "" where `model` is that.
        coverage: what an accelerator takes of the graph; None without one.
        cycles: what its compiler estimates of an inference; None where it says nothing.
        findings: what a user should know of it.
    """

    model: str
    bytes: int
    lengths: tuple[int, ...] = ()
    files: Mapping[int, str] = field(default_factory=dict)
    portable: str = ""
    coverage: Coverage | None = None
    cycles: Cycles | None = None
    findings: tuple[Finding, ...] = ()


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
    SUFFIX: str
    """Of its model files."""
    SCHEMES: tuple[Scheme, ...]
    """Ways to quantize, the one to beat first."""
    KEEPS_FLOAT: bool
    """Whether products may stay float where integers lose too much."""
    EMBEDDINGS: tuple[str, ...]
    """Forms of the word table that it makes (`Precision.embedding`)."""
    CARRIES_WORDS: bool
    """Whether its programs hold the tokenizer's words too."""
    PADS: bool
    """Whether the teacher's file takes rows of one length alone."""
    RUNS_ON: str
    """What runs its portable files on a CPU (`edgekit.devices.RUNTIMES`)."""

    def missing(self) -> str | None:
        """Says which package the backend lacks on this machine, with what to install, or None."""
        ...

    def estimates(self) -> str:
        """Names the compiler that estimates an inference's cycles, with its version; "" where none does."""
        ...

    def check(self, device: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
        """Refuses a target that it cannot compile for, before anything is run; sections as in `Request`.

        Raises:
            TargetError: with what it can.
        """
        ...

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

    def input_weights(self, graph: Path, ops: Sequence[str] | Literal["all"]) -> dict[str, np.ndarray]:
        """Returns, of each tensor that products multiply with constants, what an error in each channel weighs."""
        ...

    def activations(self, graph: Path, tensors: Sequence[str], rows: Sequence[np.ndarray], pad_id: int) -> Any:
        """Yields, row by row, the named activations as a dictionary of arrays, on this machine."""
        ...

    def products(self, graph: Path, ops: Sequence[str] | Literal["all"]) -> dict[str, Product]:
        """Names the encoder's products that quantization of these operators rounds, in the order in which they run."""
        ...

    def oldest(self, scheme: Scheme) -> str:
        """Returns the oldest runtime that loads a scheme's files, such as "1.17", before there is one."""
        ...

    def quantize(
        self,
        graph: Path,
        ranges: Mapping[str, Range],
        quant: Mapping[str, Any],
        scheme: Scheme,
        precision: Precision,
        out: Path,
    ) -> None:
        """Writes the integer graph.

        Args:
            graph: the float one.
            ranges: of the activations; only a static scheme reads them.
            quant: the target's section of that name.
            scheme: how.
            precision: where it is departed from.
            out: file to write.

        Raises:
            OSError: the file cannot be written.
        """
        ...

    def compile(self, graph: Path, request: Request, out: Path) -> Compiled:
        """Writes what the device loads into the folder `out`: for a CPU the quantized graph as it is.

        Raises:
            TargetError: the compiler refuses the graph or the device, with the operator or what is known instead.
        """
        ...

    def logits(self, graph: Path, rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
        """Runs rows on this machine; returns float32 logits, (rows, classes)."""
        ...

    def self_test(self, out: Path) -> tuple[list[np.ndarray], np.ndarray]:
        """Writes a model that drives integer products to their extremes; returns its rows and its exact logits."""
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


def schemes() -> dict[str, Scheme]:
    """Returns the schemes of all backends by their names, which are unique."""
    return {scheme.name: scheme for name in names() for scheme in load_backend(name).SCHEMES}


def load_backend(name: str) -> Backend:
    """Returns a backend by the runtime's name.

    Raises:
        TargetError: there is none of that name.
    """
    if name not in names():
        raise TargetError(f"no backend for runtime {name!r}{suggestion(name, names())}")
    backend: Backend = importlib.import_module(f"{__name__}.{name}")
    return backend


def lacking(packages: Mapping[str, str], extra: str) -> str | None:
    """Says which packages are not installed and what to install, or None where all are.

    Args:
        packages: by the modules that they bring.
        extra: of edgekit, which brings them.
    """
    absent = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    return f"{', '.join(absent)} {verb} not installed for {sys.executable}: pip install 'edgekit[{extra}]'"


def check_no_accelerator(device: Mapping[str, Any], runtime: str) -> None:
    """Refuses an accelerator beside a runtime of CPUs.

    Raises:
        TargetError: there is one.
    """
    if device["accelerator"]:
        raise TargetError(
            f"'device.accelerator' is {device['accelerator']!r}, but {runtime} runs on CPUs; leave it out, or name "
            "the accelerator's runtime"
        )


def ready_backend(name: str) -> Backend:
    """Returns a backend by the runtime's name whose packages are installed.

    Raises:
        TargetError: there is none of that name, or a package is missing, with what to install.
    """
    backend = load_backend(name)
    if (missing := backend.missing()) is not None:
        raise TargetError(missing)
    return backend
