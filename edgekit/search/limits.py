"""What a structure will cost on a target, foretold, and whether that is within the target's limits.

Nothing is exported for it: costs come from the target's table, the size of the file from what its tensors take. A limit
that nothing here can foretell (peak memory; time where the table holds instructions) is left to the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgekit.quant import blocks
from edgekit.search.costs import CostTable
from edgekit.search.shapes import Shape
from edgekit.search.structure import Outline, Structure

ROW_BYTES: dict[str, Callable[[int], int]] = {
    "float32": lambda columns: 4 * columns,
    "int8": lambda columns: columns,
    "int8-rows": lambda columns: columns + 4,
    "int4-blocks": blocks.row_bytes,
}
"""Bytes that a row of the word table takes, by the table's form."""

SMALLER = "int4-blocks"
"""Form of the word table that is taken where the file would be too large: little more than half of the size, and what
it loses of a student was not to be seen (docs/log.md)."""

RESTORING_MS = 1.1
"""What reading words from four bits makes of an inference's time: of a student of three narrow layers, others differ
(docs/log.md)."""

RESTORING_INSTRUCTIONS = 18
"""Instructions that reading words from four bits adds, for each token and column (docs/log.md)."""

ROOM = 0.97
"""Share of a limit that a figure foretold may reach: tables are off by a few percent."""

TAIL = 1.15
"""What the 95th percentile of times is above the time of a row of the 95th percentile of lengths."""

GRAPH_BYTES, LAYER_BYTES = 5_000, 6_000
"""Of a file that are no tensors, nodes and names: of all but the layers, and of each."""

OUTPUT_BYTES = 17
"""That each output of a product takes beside its weights: bias, its scale and zero point, the weights' scale of four
bytes, their zero point of one."""

LEAST_ROWS = 2000
"""Rows that a word table is cut to at least before it is factorised: down to there rows that words share lose less than
columns do, at the same size (docs/log.md)."""

ROWS_STEP = 500


@dataclass(frozen=True)
class Limits:
    """Limits of a target, in the manifest's units; None is no limit.

    Attributes:
        latency_p95_ms: of an inference.
        instructions: of an inference, the mean.
        file_bytes: of the model.
    """

    latency_p95_ms: float | None = None
    instructions: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class Forecast:
    """What is known of a target and a task before a student is built.

    Attributes:
        table: the target's costs.
        outline: of the teacher.
        lengths: tokens of typical rows.
        tokens: that the student's tokenizer knows.
        rows: of its word table; fewer than the tokens where some share them.
        needed_rows: of these, those that texts need: students learn by them, or dev's words have no others.
        positions: rows of its position table.
        judged: whether the gate judges costs like the table's: not where they are estimates.
        families: of integer forms that may be shipped; all that the table has by default.
        weight_bytes: that a weight of a product takes in the file.
        carried_bytes: of what else lies in the file, whatever the structure, such as the tokenizer's words.
        word_forms: of the word table, by their names in `ROW_BYTES`: the one that is taken, and those that may stand
            in for it where the file would be too large, the smallest last.
    """

    table: CostTable
    outline: Outline
    lengths: Sequence[int]
    tokens: int
    rows: int
    needed_rows: int
    positions: int
    judged: bool
    families: Sequence[str] = ()
    weight_bytes: float = 1.0
    carried_bytes: int = 0
    word_forms: Sequence[str] = ("int8",)

    def cost(self, structure: Structure) -> float:
        """Returns the mean cost of an inference, in the table's unit."""
        cost = self.table.cost(self.shape(structure), self.lengths, self.families)
        return self._restoring(structure, cost, float(np.mean(self.lengths)))

    def file_bytes(self, structure: Structure) -> int:
        """Returns the size of the static form's file: weights and words as they are stored, all else as it is there.

        Of four bytes are norms, what equalisation multiplies by, positions, row numbers and, where attention scores get
        a bias by distance, its table in each layer, which the last has for the first token alone.
        """
        outline, width = self.outline, self.outline.hidden
        columns, rows = structure.word_rank or outline.embedding, structure.word_rows or self.rows
        weights = width * (width + outline.labels + outline.projected) + outline.embedding * structure.word_rank
        shared = self.tokens if rows < self.tokens else 0
        singles = shared + (self.positions + 2) * outline.embedding
        outputs = width + outline.labels + (width if outline.projected else 0)
        outputs += outline.embedding if structure.word_rank else 0
        for heads, ffn in zip(structure.heads, structure.ffn, strict=True):
            inner = heads * outline.head_dim
            weights += width * (4 * inner + 2 * ffn)
            outputs += 3 * inner + ffn + 2 * width
            singles += 5 * width
        if outline.relative:
            singles += self.positions * (self.positions * sum(structure.heads[:-1]) + structure.heads[-1])
        graph = GRAPH_BYTES + LAYER_BYTES * len(structure.layers)
        stored = self.weight_bytes * weights + ROW_BYTES[self._form(structure)](columns) * rows
        return int(stored + OUTPUT_BYTES * outputs + 4 * singles + graph + self.carried_bytes)

    def foretold(self, structure: Structure) -> dict[str, float]:
        """Returns the figures that limits are held against, by the limit's name."""
        found = {"file_bytes": float(self.file_bytes(structure))}
        if self.judged and self.table.unit == "ms":
            shape, long = self.shape(structure), [int(np.ceil(np.percentile(self.lengths, 95)))]
            family = self.table.shipped(shape, self.lengths, self.families)
            cost = self._restoring(structure, self.table.cost_of(shape, long, family), float(long[0]))
            found["latency_p95_ms"] = TAIL * cost
        elif self.judged:
            found["instructions"] = self.cost(structure)
        return found

    def _restoring(self, structure: Structure, cost: float, tokens: float) -> float:
        """Returns a cost with what reading the words of so many tokens from four bits takes."""
        if self._form(structure) != SMALLER:
            return cost
        if self.table.unit == "ms":
            return RESTORING_MS * cost
        fixed = self.table.setting.sequence_length
        read = fixed if isinstance(fixed, int) else tokens
        return cost + RESTORING_INSTRUCTIONS * read * (structure.word_rank or self.outline.embedding)

    def misses(self, structure: Structure, limits: Limits) -> list[str]:
        """Names the limits that a structure is foretold to be beyond."""
        return [
            name
            for name, value in self.foretold(structure).items()
            if (limit := getattr(limits, name)) is not None and value > ROOM * limit
        ]

    def _form(self, structure: Structure) -> str:
        """Returns the form that the word table is stored in."""
        return structure.word_form or self.word_forms[0]

    def shape(self, structure: Structure) -> Shape:
        """Returns what of a structure decides its cost."""
        outline = self.outline
        # What follows tables of another width is a product like the one that widens a narrow word table.
        rank = structure.word_rank + outline.projected
        return Shape(outline.hidden, outline.head_dim, structure.heads, structure.ffn, outline.labels, rank)


def with_words(forecast: Forecast, limits: Limits, structure: Structure) -> Structure:
    """Returns a structure with as much of the word table as its file has room for.

    All of it, where that fits, or all rows that texts need and as many more as there is room for, in steps of
    `ROWS_STEP`, where words may share rows: nothing trains the others, and smaller forms take time. Else all of it in
    the first smaller form in which that fits. Else, in the smallest, as many rows as there is room for; and where even
    few are too many, fewer columns too, in steps of 32, at least a quarter of the width.
    """
    forms = _forms(forecast, structure)
    spare = _fewer_rows(forecast, forms[0], max(LEAST_ROWS, forecast.needed_rows))
    cut = _fewer_rows(forecast, forms[-1], LEAST_ROWS)
    step, width = 32, forecast.outline.embedding
    ranks = range(width // 2 // step * step, max(step, width // 4) - 1, -step)
    narrow = [replace((cut or forms)[-1], word_rank=rank) for rank in ranks]
    return _first_within(forecast, limits, [forms[0], *spare, *forms[1:], *cut, *narrow])


def with_form(forecast: Forecast, limits: Limits, structure: Structure) -> Structure:
    """Returns a structure with its word table, as it is cut, in the first form in which its file has room for it."""
    return _first_within(forecast, limits, _forms(forecast, structure))


def _fewer_rows(forecast: Forecast, structure: Structure, least: int) -> list[Structure]:
    """Returns a structure with fewer and fewer rows of words, where words may share rows."""
    if forecast.rows == forecast.tokens:
        return []
    counts = range((forecast.rows - 1) // ROWS_STEP * ROWS_STEP, least - 1, -ROWS_STEP)
    return [replace(structure, word_rows=count) for count in counts]


def _forms(forecast: Forecast, structure: Structure) -> list[Structure]:
    return [structure, *(replace(structure, word_form=form) for form in forecast.word_forms[1:])]


def _first_within(forecast: Forecast, limits: Limits, tried: Sequence[Structure]) -> Structure:
    """Returns the first whose file is within its limit; the last where none is."""
    if limits.file_bytes is None:
        return tried[0]
    room = ROOM * limits.file_bytes
    return next((one for one in tried if forecast.file_bytes(one) <= room), tried[-1])
