"""Integer forms of .tflite graphs, written by ai-edge-quantizer from edgekit's own ranges and scales.

The quantizer takes a calibration result, {tensor: min and max}, whoever made it; so ranges come from the histograms
that all backends share. Its weights' scales are those of the largest weight: where edgekit's own are smaller, weights
are put on their grid before, and as the largest lies at its end, the quantizer finds that very scale.

A static form has integers in the operators that the target names but for `SECOND_PRODUCTS`, a dynamic one in products
and the embedding alone. Inputs and outputs stay what apps feed and read: int32 ids, float32 logits.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.backends import Precision, Product, Scheme
from edgekit.backends import _litert_file as file
from edgekit.errors import TargetError
from edgekit.quant.weights import rounded, scales_of

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT

    from edgekit.quant.ranges import Range

PRODUCT, LOOKUP = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"
STATIC_OPS = (
    PRODUCT, "BATCH_MATMUL", "SOFTMAX", "GELU", "TANH", "RELU", "LOGISTIC", "ADD", "SUB", "MUL", "MEAN", "RSQRT",
    "SQUARED_DIFFERENCE", "GATHER", "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "CONCATENATION",
)  # fmt: skip
"""What the quantizer gives static integers; the lookup has a form of its own, an integer table with float results."""

OPS = (*STATIC_OPS, LOOKUP)
GRANULARITY = {"int8": "TENSORWISE", "int8-rows": "CHANNELWISE"}
"""Of the word table, by `Precision.embedding`."""

SECOND_PRODUCTS = r"layers\.\d+\.down\."
"""Pattern of the names of what FFNs give. A channel of it may be twenty times the others, which then have three of
eight bits left: most of a static form's error. So these products are dynamic, in a static form too, and give floats; or
they have 16 bits where there are no floats (docs/log.md)."""

PADDED_BELOW = 6.0
"""How far below the lowest score of a real token that of padding comes to lie: e^-6 of the smallest weight there is.

Padding is not in the ranges. Cut off at the lowest score, it would take part in every mean that attention makes; at its
own -30, it would leave the other scores half of the steps.
"""


@dataclass(frozen=True)
class Floatless:
    """A graph without floats, logits too: they come out as integers with a scale.

    Attributes:
        wide_ops: operators whose inputs and outputs have 16 bits.
        wide_products: pattern of the names of products that have, from their beginning.
    """

    wide_ops: frozenset[str]
    wide_products: str


def chosen(ops: Sequence[str] | Literal["all"]) -> Sequence[str]:
    """Returns the operators that a target names."""
    return OPS if ops == "all" else ops


def quantized_tensors(graph: Path, ops: Sequence[str] | Literal["all"]) -> list[str]:
    """Names the float activations that go into the operators or come out of them.

    What is made of the mask alone has the grid of the biases that it chooses from, and on unpadded rows no range.
    """
    model = file.read(graph)
    of_mask = _of_mask(model)
    found: dict[str, None] = {}
    for op, operator in file.operators(model):
        if op in STATIC_OPS and op in chosen(ops):
            for tensor in (*file.inputs_of(model, operator), *file.outputs_of(model, operator)):
                name = file.name_of(tensor)
                if file.is_float(tensor) and not file.is_constant(model, tensor) and name not in of_mask:
                    found[name] = None
    return list(found)


def _of_mask(model: ModelT) -> set[str]:
    """Names what is made of the mask and constants alone."""
    found = {"attention_mask"}
    for _, operator in file.operators(model):
        given = [file.name_of(t) for t in file.inputs_of(model, operator) if not file.is_constant(model, t)]
        if set(given) <= found:
            found |= {file.name_of(tensor) for tensor in file.outputs_of(model, operator)}
    return found


def input_weights(graph: Path, ops: Sequence[str] | Literal["all"]) -> dict[str, np.ndarray]:
    """Returns of each tensor that products multiply with constants, the squared norm of each channel's weights."""
    model = file.read(graph)
    found: dict[str, np.ndarray] = {}
    for _, entering, weights in _products(model, chosen(ops)):
        norms = (weights.astype(np.float64) ** 2).sum(axis=0)
        found[entering] = found.get(entering, 0) + norms
    return found


def products(graph: Path, ops: Sequence[str] | Literal["all"]) -> dict[str, Product]:
    """Names the encoder's products in the order of the graph; of one cut in two, what enters the larger part."""
    from edgekit.ir.lean import product_of

    model = file.read(graph)
    parts: dict[str, list[Product]] = {}
    for operator, entering, weights in _products(model, chosen(ops)):
        parts.setdefault(product_of(_weight_name(model, operator)), []).append(Product(entering, weights.size))
    return {
        name: Product(max(of, key=lambda part: part.weights).entering, sum(part.weights for part in of))
        for name, of in parts.items()
    }


def _products(model: ModelT, ops: Sequence[str]) -> Iterator[tuple[OperatorT, str, np.ndarray]]:
    """Yields products with constant float weights: the operator, what enters it, and the weights (outputs, inputs)."""
    for op, operator in file.operators(model):
        if op == PRODUCT and op in ops:
            entering, weight = file.inputs_of(model, operator)[:2]
            if file.is_constant(model, weight) and file.is_float(weight):
                yield operator, file.name_of(entering), file.values_of(model, weight)


def _weight_name(model: ModelT, operator: OperatorT) -> str:
    return file.name_of(file.inputs_of(model, operator)[1])


def quantize(
    graph: Path,
    ranges: Mapping[str, Range],
    quant: Mapping[str, Any],
    scheme: Scheme,
    precision: Precision,
    out: Path,
    floatless: Floatless | None = None,
) -> None:
    """Writes the integer graph; see `edgekit.backends.Backend.quantize`.

    Args:
        graph, ranges, quant, scheme, precision, out: as there.
        floatless: how a graph without floats is written; None leaves floats where the target names no operators.

    Raises:
        TargetError: the word table's form is none that LiteRT has.
        OSError: the file cannot be written.
    """
    from ai_edge_quantizer import quantizer

    if precision.embedding not in GRANULARITY:
        known = " or ".join(GRANULARITY)
        raise TargetError(f"quantize.embedding is {precision.embedding!r}, but LiteRT's lookup has {known}")
    model, ops = file.read(graph), chosen(quant["ops"])
    kept = _kept(model, precision.keep_float)
    _put_on_grid(model, ops, kept, scheme, precision, quant)
    made = quantizer.Quantizer(file.packed(model))
    for regex, op, config in _recipe(ops, quant, scheme, precision, floatless):
        made.update_quantization_recipe(regex, op, config)
    for name in kept:
        made.update_quantization_recipe(f"^{re.escape(name)};?$", PRODUCT, None, "no_quantize")
    statistics = _statistics(model, ranges) if scheme.family == "static" else None
    with contextlib.redirect_stderr(io.StringIO()):  # it draws one more progress bar, whatever it is told (0.10)
        result = made.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    out.write_bytes(bytes(result.quantized_model))


def _recipe(
    ops: Sequence[str], quant: Mapping[str, Any], scheme: Scheme, precision: Precision, floatless: Floatless | None
) -> Iterator[tuple[str, str, Any]]:
    """Yields what becomes integers, and how."""
    from ai_edge_quantizer import qtyping

    def weights(granularity: str) -> qtyping.TensorQuantizationConfig:
        return qtyping.TensorQuantizationConfig(8, True, qtyping.QuantGranularity[granularity])

    def integers(
        weight: qtyping.TensorQuantizationConfig, activation: qtyping.TensorQuantizationConfig | None
    ) -> qtyping.OpQuantizationConfig:
        return qtyping.OpQuantizationConfig(activation, weight, qtyping.ComputePrecision.INTEGER)

    product = weights("CHANNELWISE" if quant["weight"]["granularity"] == "per-channel" else "TENSORWISE")
    if LOOKUP in ops:
        yield ".*", LOOKUP, integers(weights(GRANULARITY[precision.embedding]), None)
    if scheme.family == "dynamic":
        yield from ((".*", PRODUCT, integers(product, None)) for _ in range(PRODUCT in ops))
        return
    eight = qtyping.TensorQuantizationConfig(8, bool(quant["activation"]["symmetric"]))
    sixteen = qtyping.TensorQuantizationConfig(16, True)  # LiteRT's kernels of 16 bits have no zero point
    for op in (op for op in STATIC_OPS if op in ops):
        yield ".*", op, integers(product, sixteen if floatless is not None and op in floatless.wide_ops else eight)
    if floatless is None:
        yield "^" + SECOND_PRODUCTS, PRODUCT, integers(product, None)
    else:
        yield "^" + floatless.wide_products, PRODUCT, integers(product, sixteen)
        yield ".*", "OUTPUT", integers(product, eight)


def _statistics(model: ModelT, ranges: Mapping[str, Range]) -> dict[str, dict[str, np.ndarray]]:
    """Returns ranges as the quantizer's calibration would; scores reach as far down as padding needs."""
    scores = {file.name_of(file.inputs_of(model, o)[0]) for op, o in file.operators(model) if op == "SOFTMAX"}
    return {
        name: {
            "min": np.array(one.low - PADDED_BELOW * (name in scores), dtype=np.float32),
            "max": np.array(one.high, dtype=np.float32),
        }
        for name, one in ranges.items()
    }


def _kept(model: ModelT, keep_float: Collection[str]) -> list[str]:
    """Names what the products that stay float give: the quantizer knows an operator by that."""
    from edgekit.ir.lean import product_of

    return [
        file.name_of(file.outputs_of(model, operator)[0])
        for op, operator in file.operators(model)
        if op == PRODUCT and product_of(_weight_name(model, operator)) in keep_float
    ]


def _put_on_grid(
    model: ModelT,
    ops: Sequence[str],
    kept: Collection[str],
    scheme: Scheme,
    precision: Precision,
    quant: Mapping[str, Any],
) -> None:
    """Rounds the products' weights to their scales, in place, and corrects biases by what that adds on average.

    b <- b - (Q(W) - W) E[x], with the mean of the input's channels over the calibration rows.

    Ref: Nagel et al. 2019 (1906.04721), section 4.2, with measured means in place of those of a batch norm.
    """
    assert scheme.bound is not None, "every scheme here has one"
    for operator, entering, weights in list(_products(model, ops)):
        if file.name_of(file.outputs_of(model, operator)[0]) in kept:
            continue
        scales = scales_of(weights, scheme.bound, precision.weight_method)
        if quant["weight"]["granularity"] != "per-channel":
            scales = np.full_like(scales, scales.max())
        grid = rounded(weights, scales, scheme.bound).astype(np.float32) * scales[:, None]
        _, weight, *biases = file.inputs_of(model, operator)
        file.set_values(model, weight, grid)
        means = precision.means.get(entering)
        if biases and means is not None and file.is_constant(model, biases[0]):
            bias = file.values_of(model, biases[0])
            file.set_values(model, biases[0], bias - ((grid.astype(np.float64) - weights) @ means).reshape(bias.shape))
