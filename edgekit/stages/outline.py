"""Finds out what a teacher can do without: heads, FFN channels, layers.

A head or channel is scored by the diagonal of the Fisher information of a gate on it: the mean, over rows, of the
squared derivative of the loss by that gate, with a label drawn from the teacher's own answer. (With the row's label the
gradient of a fitted teacher vanishes, and against its own soft answer it is zero.) Half of it is, to second order, what
the loss grows by when the gate closes, and sums of it are what a set of units costs. Which layers a student of a given
depth copies is found by removing them: backwards from all, a few best sets at a time, by the divergence of the answers.

Ref: Kwon et al. 2022 (2204.09656), section 3.2, equations 4 to 6 (here gradients are of single rows, not of batches);
Kunstner et al. 2019 (1905.12558) for the drawn labels; Sajjad et al. 2020 (2004.03844) for removed layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, Teacher, TeacherOutline, TeacherOutputs, Vocabulary, write_json
from edgekit.inference import run_rows
from edgekit.search.estimate import divergence
from edgekit.search.structure import Outline
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.teach import USUAL_WEIGHTS, answered, load_teacher, with_vocabulary
from edgekit.tokenization import batches, encode, load_tokenizer, pad

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification, Layer

SHORT = 16
"""Tokens of a short text: of longer ones fewer are looked at, so that they take no longer."""

TOKENS_PER_BATCH = 1024
BEAM = 3
"""Sets of layers that are kept from depth to depth: one alone cannot take back an early choice."""


@dataclass(frozen=True)
class Outlining(Pass):
    """Scores the teacher's parts.

    Attributes:
        rows: training rows that heads and channels are scored on; fewer of long texts and for large teachers, an eighth
            at least.
        layer_rows: of these, how many sets of layers are compared on, likewise.
    """

    rows: int = 1024
    layer_rows: int = 128

    NAME: ClassVar[str] = "outline"
    VERSION: ClassVar[int] = 4
    IN: ClassVar = (Teacher, Vocabulary, LabelledData, TeacherOutputs)
    OUT: ClassVar = TeacherOutline
    TOOLS: ClassVar = ("torch", "transformers", "tokenizers", "optimum", "numpy")

    def __post_init__(self) -> None:
        if self.rows < 1 or self.layer_rows < 1:
            raise ValueError("rows and layer_rows must be at least 1")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes outline.json."""
        vocabulary, outputs = inputs[Vocabulary], inputs[TeacherOutputs]
        train = answered(data.read(inputs[LabelledData].path), outputs).train
        pad_id = vocabulary.facts["pad_token_id"]
        teacher, _ = load_teacher(inputs[Teacher].path)
        teacher = with_vocabulary(teacher, vocabulary)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        # In random order, so that the first of them are a draw too: files are often sorted by class.
        drawn = np.random.Generator(np.random.PCG64([ctx.seed, self.rows])).permutation(len(train))[: self.rows]
        rows = encode(tokenizer, [train[i][0] for i in drawn])
        rows = rows[: affordable(teacher, rows, self.rows)]
        recorded = np.load(outputs.array("train", "logits"), mmap_mode="r")[drawn[: len(rows)]]
        heads, channels = fisher(teacher, rows, recorded, pad_id, ctx)
        few = affordable(teacher, rows[: self.layer_rows], self.layer_rows)
        depths = layers_by_depth(teacher, rows[:few], recorded[:few], pad_id, ctx)
        outline = Outline(
            hidden=teacher.config.hidden_size,
            embedding=teacher.config.embedding_size,
            head_dim=teacher.config.head_dim,
            labels=teacher.config.num_labels,
            tokens=int(np.median([len(row) for row in rows])),
            head_loss=tuple(closing_loss(scores) for scores in heads),
            channel_loss=tuple(closing_loss(scores) for scores in channels),
            depths={depth: layers for depth, (layers, _) in depths.items()},
            relative=teacher.config.positions == "relative-bias",
        )
        write_outline(TeacherOutline(out_dir, "").file, outline)
        facts = {
            "rows": len(rows),
            "tokens": outline.tokens,
            "layers_by_depth": {str(depth): list(layers) for depth, (layers, _) in depths.items()},
            "divergence_by_depth": {str(depth): round(found, 4) for depth, (_, found) in depths.items()},
        }
        write_json(out_dir / FACTS, facts)


def affordable(model: EdgekitForSequenceClassification, rows: Sequence[np.ndarray], wanted: int) -> int:
    """Returns how many of the first rows hold as many tokens as so many short ones; an eighth of the wanted at least.

    For a model that is larger than usual they hold fewer, by the root of how many times: it takes that much longer.

    Args:
        model: that is to read them.
        rows: token ids.
        wanted: rows of `SHORT` tokens.
    """
    weights = sum(p.numel() for p in model.layers.parameters())
    tokens = wanted * SHORT * min(1.0, (USUAL_WEIGHTS / weights) ** 0.5)
    within = int(np.searchsorted(np.cumsum([len(row) for row in rows]), tokens, side="right"))
    return max(within, -(-min(wanted, len(rows)) // 8))


def fisher(
    model: EdgekitForSequenceClassification,
    rows: Sequence[np.ndarray],
    recorded: np.ndarray,
    pad_id: int,
    ctx: Context,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores heads and FFN channels by the diagonal Fisher information of gates on them.

    Args:
        model: in the IR; put into evaluation mode, otherwise as it was afterwards.
        rows: token ids.
        recorded: the teacher's logits on them, (rows, classes), that labels are drawn from.
        pad_id: fills shorter rows.
        ctx: of the stage: seed and progress.

    Returns:
        For each layer the scores of its heads, (heads,), and of its channels, (channels,): means over rows, at least 0.
    """
    import torch
    from torch.nn import functional as F  # noqa: N812

    class Gate(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.open = x.new_ones(x.shape[0], 1, x.shape[2]).requires_grad_()
            return x * self.open

    layers: list[Layer] = list(model.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
    products = [product for layer in layers for product in (layer.output, layer.down)]
    before = [product.gate for product in products]
    gates = [Gate() for _ in products]
    counts = [count for layer in layers for count in (layer.heads, layer.down.in_features)]
    scores = [np.zeros(count) for count in counts]
    random = np.random.Generator(np.random.PCG64([ctx.seed, len(rows)]))
    likely = torch.softmax(torch.from_numpy(np.array(recorded, dtype=np.float32)), dim=-1).numpy()
    drawn = torch.from_numpy((likely.cumsum(1) < random.random((len(rows), 1))).sum(1).clip(max=likely.shape[1] - 1))
    model.eval()
    try:
        for product, gate in zip(products, gates, strict=True):
            product.gate = gate
        done = 0
        for group in batches(rows, TOKENS_PER_BATCH):
            ids, mask = pad([rows[i] for i in group], pad_id)
            logits = model(torch.from_numpy(ids), torch.from_numpy(mask)).logits
            # Summed, not averaged: a gate of one row then has the gradient of that row's loss.
            loss = F.cross_entropy(logits, drawn[group], reduction="sum")
            for index, gradient in enumerate(torch.autograd.grad(loss, [gate.open for gate in gates])):
                by_unit = gradient.reshape(len(group), counts[index], -1).sum(-1)  # a head closes with all its columns
                scores[index] += by_unit.square().sum(0).numpy()
            done += len(group)
            ctx.progress(done, len(rows), "rows")
    finally:
        for product, identity in zip(products, before, strict=True):
            product.gate = identity
    return [s / len(rows) for s in scores[::2]], [s / len(rows) for s in scores[1::2]]


def closing_loss(scores: np.ndarray) -> tuple[float, ...]:
    """Returns what the loss grows by, to second order, when all but the k best units are closed; k = 0 … all.

    Args:
        scores: of the units, (units,).
    """
    ordered = np.sort(scores)[::-1]
    return tuple(float(value) for value in (ordered.sum() - np.concatenate([[0.0], ordered.cumsum()])).clip(min=0) / 2)


def layers_by_depth(
    model: EdgekitForSequenceClassification,
    rows: Sequence[np.ndarray],
    recorded: np.ndarray,
    pad_id: int,
    ctx: Context,
) -> dict[int, tuple[tuple[int, ...], float]]:
    """Finds, for each depth, the layers whose answers diverge least from the teacher's.

    Args:
        model: the teacher in the IR.
        rows: token ids.
        recorded: the teacher's logits on them, (rows, classes).
        pad_id: fills shorter rows.
        ctx: of the stage.

    Returns:
        depth → the layers, increasing, and their divergence in nats.
    """
    from edgekit.ir.surgery import keep_layers

    total = len(model.config.heads)

    def distance(layers: tuple[int, ...]) -> float:
        return divergence(recorded, run_rows(keep_layers(model, layers), rows, pad_id, lambda *_: None))

    beam = [tuple(range(total))]
    found = {total: (beam[0], distance(beam[0]))}
    for depth in range(total - 1, 0, -1):
        shorter = sorted({tuple(i for i in layers if i != gone) for layers in beam for gone in layers})
        ranked = sorted((distance(layers), layers) for layers in shorter)
        beam = [layers for _, layers in ranked[:BEAM]]
        found[depth] = (ranked[0][1], ranked[0][0])
        ctx.progress(total - depth, total - 1, "depths")
    return found


def write_outline(path: Path, outline: Outline) -> None:
    """Writes an outline as JSON."""
    write_json(path, asdict(outline) | {"depths": {str(depth): list(kept) for depth, kept in outline.depths.items()}})


def read_outline(path: Path) -> Outline:
    """Reads an outline that the stage wrote."""
    values: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
    tables = {name: tuple(tuple(row) for row in values[name]) for name in ("head_loss", "channel_loss")}  # type: ignore[attr-defined]
    depths = {int(depth): tuple(kept) for depth, kept in values["depths"].items()}  # type: ignore[attr-defined]
    return Outline(**{**values, **tables, "depths": depths})  # type: ignore[arg-type]
