"""Random students for tables of costs: shapes of a width, and their integer forms as model files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import file_digest
from edgekit.backends import Precision, Scheme, load_backend
from edgekit.devices import ModelFile
from edgekit.errors import RecipeError
from edgekit.quant.ranges import Range
from edgekit.search.shapes import Shape
from edgekit.stages.export import numbers
from edgekit.target import TargetView

if TYPE_CHECKING:
    from edgekit.ir.config import EdgekitConfig
    from edgekit.ir.encoder import EdgekitForSequenceClassification

SHARES = (
    (((1, 1),), 2, 0),
    (((12, 48),), 150, 0),
    (((4, 16),), 8, 0),
    (((8, 32),), 300, 0),
    (((2, 4), (1, 2)), 1000, 0),
    (((8, 36), (2, 28)), 20, 0),
    (((12, 12), (12, 24)), 77, 0),
    (((4, 48), (8, 8)), 77, 2),
    (((6, 24), (2, 48)), 300, 5),
    (((3, 3), (5, 20), (2, 12)), 20, 0),
    (((12, 32), (6, 16), (10, 36)), 150, 0),
    (((2, 48), (2, 48), (2, 12), (2, 4)), 2, 0),
    (((8, 24), (8, 12), (8, 6), (8, 24)), 77, 10),
    (((1, 8), (12, 2), (1, 28), (4, 20), (6, 48)), 77, 0),
    (((12, 24), (8, 12), (12, 8), (6, 16), (10, 12), (12, 24)), 77, 4),
    (((12, 48), (8, 40), (12, 32), (10, 48)), 20, 0),
    (((12, 40), (12, 48), (9, 36), (12, 30), (11, 48), (12, 48)), 8, 0),
    (((6, 20),), 20, 5),
    (((10, 44),), 77, 3),
    (((9, 22),), 30, 0),
    (((5, 10), (8, 20)), 77, 0),
    (((8, 6), (4, 12)), 150, 0),
    (((3, 18), (6, 6), (3, 24)), 77, 0),
)
"""The spread: for each layer the heads in twelfths of the width and the FFN channels in forty-eighths of four times the
width; then the labels; then the columns of a factorised word table in twelfths of the width, 0 where it is whole.
Depths, widths, wide and narrow last layers vary apart from one another."""

VOCABULARY = 512
CALIBRATION_ROWS = (8, 24)
"""Lengths of the random rows that ranges are taken of: what they are does not change what a product takes."""


def spread(hidden: int, head_dim: int) -> list[Shape]:
    """Returns the shapes that a table of that width is made of."""
    most_heads, most_channels = max(1, hidden // head_dim), 4 * hidden
    return [
        Shape(
            hidden,
            head_dim,
            tuple(max(1, round(heads * most_heads / 12)) for heads, _ in layers),
            tuple(max(1, round(channels * most_channels / 48)) for _, channels in layers),
            labels,
            rank * hidden // 12,
        )
        for layers, labels, rank in SHARES
    ]


def schemes_of(target: TargetView) -> dict[str, Scheme]:
    """Returns the scheme of each family that costs are taken of: the first that the target allows and loads.

    Raises:
        RecipeError: there is none.
    """
    backend, quant, has = load_backend(target["runtime.name"]), target["quant"], target["runtime.version"]
    found: dict[str, Scheme] = {}
    for scheme in backend.SCHEMES:
        allowed = {
            "static": quant["weight"]["dtype"] in ("auto", scheme.weight),
            "dynamic": quant["scheme"] != "static-qdq",
        }
        if allowed.get(scheme.family) and numbers(backend.oldest(scheme)) <= numbers(has):
            found.setdefault(scheme.family, scheme)
    if not found:
        raise RecipeError(
            f"{target['runtime.name']} {has} loads no integer form of a student: raise 'runtime.version' in the "
            "target's profile if the device has a newer one"
        )
    return found


def write_forms(shape: Shape, max_length: int, target: TargetView, folder: Path, seed: int) -> dict[str, ModelFile]:
    """Writes a random student of a shape in the form of each family.

    Args:
        shape: of it.
        max_length: tokens of the longest row.
        target: through the fields of `Profile.READS`.
        folder: to make.
        seed: of its weights.

    Raises:
        RecipeError: the target's runtime loads none of the forms.
    """
    from edgekit.ir.config import EdgekitConfig

    schemes = schemes_of(target)
    folder.mkdir()
    backend, quant = load_backend(target["runtime.name"]), target["quant"]
    config = EdgekitConfig(
        vocab_size=VOCABULARY,
        embedding_size=shape.hidden,
        word_rank=shape.word_rank,
        hidden_size=shape.hidden,
        head_dim=shape.head_dim,
        heads=list(shape.heads),
        ffn=list(shape.ffn),
        max_positions=max_length,
        num_labels=shape.labels,
    )
    model = random_student(config, seed)
    graph = folder / f"float{backend.SUFFIX}"
    backend.export_student(model, target["shape.sequence_length"], max_length, graph)
    random = np.random.Generator(np.random.PCG64(seed))
    rows = [random.integers(1, VOCABULARY, min(length, max_length)) for length in CALIBRATION_ROWS]
    ranges = extremes(backend.activations(graph, backend.quantized_tensors(graph, quant["ops"]), rows, 0))
    made = {}
    for family, scheme in schemes.items():
        path = folder / f"{family}{backend.SUFFIX}"
        backend.quantize(graph, ranges, quant, scheme, Precision(weight_method="max"), path)
        made[family] = ModelFile(
            path, file_digest(path), 0, backend.describe(path).min_runtime, target["runtime.options"]
        )
    graph.unlink()
    return made


def random_student(config: EdgekitConfig, seed: int) -> EdgekitForSequenceClassification:
    """Makes a student of random weights, and of random biases: an export leaves out those that are zero."""
    import torch

    from edgekit.ir.encoder import EdgekitForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: EdgekitForSequenceClassification = EdgekitForSequenceClassification(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=config.initializer_range)
    return model


def extremes(activations: Iterator[Mapping[str, np.ndarray]]) -> dict[str, Range]:
    """Returns the smallest and largest value of each tensor over all rows."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    rows = 0
    for row in activations:
        rows += 1
        for name, values in row.items():
            low[name] = min(low.get(name, 0.0), float(values.min()))
            high[name] = max(high.get(name, 0.0), float(values.max()))
    return {name: Range(low[name], high[name], "minmax", rows) for name in low}
