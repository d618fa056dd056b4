"""Shapes of students, and what one inference of a shape makes a processor do.

The units are counted of the graph that is exported (`edgekit.ir.lean`): of the last layer only keys and values are made
for every token, while query, output projection and FFN run for the first token alone.

Products of one row are a unit of their own: their weights are read for a single row. Kernels take many rows in tiles,
and read the weights anew for each. ONNX Runtime's for Arm take eight, and what is left in fours, twos and ones, so that
fifteen rows are four passes over the weights and sixteen are two; those for x86 with AVX2 go almost by rows alone, and
the fit then finds passes to be free. With AVX-512 and AMX sixteen rows, or as many columns of attention scores, cost
what one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shape:
    """What of a student decides its cost, beside its precision.

    Attributes:
        hidden: width of the residual stream.
        head_dim: width of an attention head.
        heads: attention heads of each layer, at least 1.
        ffn: FFN channels of each layer, at least 1.
        labels: classes.
        word_rank: width of a factorised word table, whose rows one more product maps to `hidden`; 0 for a whole one.
    """

    hidden: int
    head_dim: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    labels: int
    word_rank: int = 0

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.ffn) or not self.heads:
            raise ValueError(f"heads has {len(self.heads)} layers, ffn has {len(self.ffn)}; there must be as many")
        if min(self.hidden, self.head_dim, self.labels, *self.heads, *self.ffn) < 1 or self.word_rank < 0:
            raise ValueError(f"every width must be positive: {self}")

    def __str__(self) -> str:
        rank = f", word table of {self.word_rank}" if self.word_rank else ""
        return f"heads {_listed(self.heads)}, FFN {_listed(self.ffn)}{rank}"


UNITS = (
    "call",
    "layers",
    "heads",
    "products",
    "passes",
    "tiled",
    "weights",
    "one_row",
    "outputs",
    "streamed",
    "fetched",
    "activation",
    "activation_one_row",
    "attention",
    "scores",
    "tiled_scores",
    "head_tokens",
    "factors",
    "residual",
    "tokens",
)
"""What is counted of one inference: the call itself; layers that run for all tokens, and the heads of any; of products
over all tokens the multiply-adds, the weights times the passes over them, the multiply-adds with tokens rounded up to
whole tiles, the weights, and the elements that they give; the multiply-adds of products of one row; elements through
the FFN's activation, for all tokens and for one; elements of query, key, value and context; attention scores, as they
are and with their columns rounded up; heads times tokens; elements read of a factorised word table; elements that are
normed and added to the residual; tokens.
Two are no sums over layers but of the weights that the caches do not hold: `streamed`, those beyond, for each token;
`fetched`, those that are read from farther away once an inference."""

TILES = (8, 4, 2, 1)
"""Rows that one pass over the weights of a product serves, the most that there are first."""

TILE = 16
"""Rows of a wide processor's tile, and columns of its vectors of floats."""

LOST_AT = 2
"""How many times what a cache holds weights must be for none of them to be there still when they are read again. The
share that is lost rises from none where all fit. Found on a Xeon, whose second cache of 2 MB loses none of 0.9 and all
of 1.8: by it the worst of 30 shapes that a table did not hold was nearer than by any of 1.25 to 4."""


def units(shape: Shape, lengths: Sequence[int], cached: int | None = None) -> np.ndarray:
    """Counts what one inference does.

    Args:
        shape: of the student.
        lengths: tokens of rows, (rows,).
        cached: weights of products that a cache of the processor holds, a byte each, at least 1; None where all are.

    Returns:
        (rows, len(UNITS)), float64.
    """
    counted = _fixed_units(shape.hidden, shape.labels, shape.word_rank, lengths)
    for place, (heads, ffn) in enumerate(zip(shape.heads, shape.ffn, strict=True)):
        last = place == len(shape.heads) - 1
        counted = counted + _layer_units(shape.hidden, shape.head_dim, heads, ffn, last, lengths)
    if cached is not None:
        weights = counted[:, [UNITS.index("weights"), UNITS.index("one_row")]].sum(axis=1)
        counted[:, UNITS.index("streamed")] = np.maximum(weights - cached, 0.0) * lengths
        counted[:, UNITS.index("fetched")] = weights * np.clip((weights / cached - 1) / (LOST_AT - 1), 0.0, 1.0)
    return counted


def _fixed_units(hidden: int, labels: int, word_rank: int, lengths: Sequence[int]) -> np.ndarray:
    """Counts what is no layer's: the call, the embeddings, their norm, and the head on the first token.

    Args:
        hidden, labels, word_rank: as in `Shape`.
        lengths: tokens of rows, (rows,).

    Returns:
        (rows, len(UNITS)), float64.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    return _counted(
        lengths,
        {
            "call": 1.0,
            "tokens": tokens,
            "residual": hidden * tokens,
            "one_row": hidden * (hidden + labels),
            "factors": word_rank * tokens,
            **_over_rows(word_rank * hidden, hidden if word_rank else 0, lengths),
        },
    )


def _layer_units(hidden: int, head_dim: int, heads: int, ffn: int, last: bool, lengths: Sequence[int]) -> np.ndarray:
    """Counts what one layer does.

    Args:
        hidden, head_dim: as in `Shape`.
        heads, ffn: of the layer, at least 0.
        last: whether it is the last, which runs for the first token alone but for keys and values.
        lengths: tokens of rows, (rows,).

    Returns:
        (rows, len(UNITS)), float64.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    width = heads * head_dim
    through = hidden * (2 * width + 2 * ffn)  # query and output projection, up and down
    if last:
        return _counted(
            lengths,
            {
                "heads": heads,
                "one_row": through,
                "activation_one_row": ffn,
                "attention": width * (2 * tokens + 2),
                "scores": heads * tokens,
                "tiled_scores": heads * whole_tiles(tokens),
                "head_tokens": heads * tokens,
                "residual": hidden * (tokens + 3),
                **_over_rows(2 * hidden * width, 2 * width, lengths),
            },
        )
    return _counted(
        lengths,
        {
            "layers": 1.0,
            "heads": heads,
            "activation": ffn * tokens,
            "attention": 4 * width * tokens,
            "scores": heads * tokens**2,
            "tiled_scores": heads * tokens * whole_tiles(tokens),
            "head_tokens": heads * tokens,
            "residual": 4 * hidden * tokens,
            **_over_rows(through + 2 * hidden * width, 3 * width + 2 * hidden + ffn, lengths),
        },
    )


def _over_rows(weights: int, outputs: int, lengths: Sequence[int]) -> dict[str, np.ndarray | float]:
    """Counts products over all tokens, of so many weights and outputs a token."""
    tokens = np.asarray(lengths, dtype=np.float64)
    return {
        "products": weights * tokens,
        "passes": weights * np.array([passes(int(length)) for length in lengths], dtype=np.float64),
        "tiled": weights * whole_tiles(tokens),
        "weights": weights,
        "outputs": outputs * tokens,
    }


def whole_tiles(tokens: np.ndarray) -> np.ndarray:
    """Returns numbers of tokens, (rows,), rounded up to whole tiles of a wide processor."""
    rounded: np.ndarray = np.ceil(tokens / TILE) * TILE
    return rounded


def passes(rows: int) -> int:
    """Returns how often a product's weights are read for so many rows."""
    count = 0
    for tile in TILES:
        count += rows // tile
        rows %= tile
    return count


def _counted(lengths: Sequence[int], by_unit: Mapping[str, np.ndarray | float]) -> np.ndarray:
    counted = np.zeros((len(lengths), len(UNITS)))
    for name, count in by_unit.items():
        counted[:, UNITS.index(name)] = count
    return counted


def _listed(values: Sequence[int]) -> str:
    return "/".join(map(str, values))
