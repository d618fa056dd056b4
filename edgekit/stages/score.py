"""Scores what the loss would lose with each attention head and FFN channel of the wide student.

The importance of a head (or channel) is the first-order change of the loss when a gate on its output closes:
|dL/dgate| = |sum of weight * gradient| over its columns in the matrix that reads it, averaged over training batches.

A stage of its own, since students of other widths that copy the same layers have the same scores: a search prunes
several times.

Ref: Michel et al. 2019 (1905.10650), equation 2; Molchanov et al. 2019 (1906.10771), equation 8 (here the absolute
value of the first-order term, not its square).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit.artifact import FACTS, LabelledData, Scores, Teacher, TeacherOutputs, Vocabulary, WideStudent, write_json
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.distill import TEACHER_LAYERS, loss_of, student_rows
from edgekit.stages.outline import affordable
from edgekit.tokenization import batches

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit.ir.encoder import EdgekitForSequenceClassification, Layer
    from edgekit.training import Rows

TOKENS_PER_BATCH = 512
"""Of the rows of a gradient, which are of like length: little of them is padding, which took twice as long."""


@dataclass(frozen=True)
class Score(Pass):
    """Scores heads and channels on training rows.

    Attributes:
        rows: training rows, drawn by the seed; fewer of long texts and of wide students, an eighth at least.
        temperature: of the softened logits.
        logits, states, labels: weights of the three losses.
    """

    rows: int = 1024
    temperature: float = 2.0
    logits: float = 1.0
    states: float = 1.0
    labels: float = 0.1

    NAME: ClassVar[str] = "score"
    VERSION: ClassVar[int] = 2
    IN: ClassVar = (Teacher, WideStudent, LabelledData, Vocabulary, TeacherOutputs)
    OUT: ClassVar = Scores
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "numpy")

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")
        if self.temperature <= 0 or min(self.logits, self.states, self.labels) < 0:
            raise ValueError("temperature must be positive, the weights of losses not negative")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes scores.npz."""
        from edgekit.ir.encoder import EdgekitForSequenceClassification

        wide = inputs[WideStudent].path
        layers = json.loads((wide / TEACHER_LAYERS).read_text(encoding="utf-8"))
        model = EdgekitForSequenceClassification.from_pretrained(wide, local_files_only=True)
        rows, _ = student_rows(inputs, ctx, layers)
        random = np.random.Generator(np.random.PCG64([ctx.seed, len(rows.ids)]))
        drawn = [int(i) for i in random.permutation(len(rows.ids))[: self.rows]]
        chosen = drawn[: affordable(model, [rows.ids[i] for i in drawn], self.rows)]
        pad_id = inputs[Vocabulary].facts["pad_token_id"]
        groups = [[chosen[i] for i in group] for group in batches([rows.ids[i] for i in chosen], TOKENS_PER_BATCH)]
        heads, channels = importance(model, rows, loss_of(self), groups, pad_id)
        parts: dict[str, Any] = {f"heads.{i}": one for i, one in enumerate(heads)}
        parts |= {f"ffn.{i}": one for i, one in enumerate(channels)}
        np.savez(Scores(out_dir, "").file, **parts)
        write_json(out_dir / FACTS, {"rows": len(chosen), "layers": len(heads)})


def read_scores(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns what the stage wrote: for each layer the scores of its heads, and of its FFN channels."""
    with np.load(path, allow_pickle=False) as parts:
        layers = range(len(parts.files) // 2)
        return [parts[f"heads.{i}"] for i in layers], [parts[f"ffn.{i}"] for i in layers]


def importance(
    model: EdgekitForSequenceClassification,
    rows: Rows,
    loss: Callable[[Any, Mapping[str, Tensor]], Tensor],
    groups: Sequence[Sequence[int]],
    pad_id: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores heads and FFN channels on training rows.

    Args:
        model: the student; its weights are not changed.
        rows: the training rows.
        loss: the distillation loss.
        groups: indices of the rows of each gradient.
        pad_id: fills shorter rows.

    Returns:
        For each layer the scores of its heads, (heads,), and of its FFN channels, (channels,); not negative.
    """
    import torch

    from edgekit.training import collate

    heads = [np.zeros(count) for count in model.config.heads]
    channels = [np.zeros(count) for count in model.config.ffn]
    layers: list[Layer] = list(model.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
    weights = [weight for layer in layers for weight in (layer.output.weight, layer.down.weight)]
    model.eval()
    for group in groups:
        batch = collate(rows, group, pad_id)
        value = loss(model(batch["input_ids"], batch["attention_mask"]), batch)
        # Of a gate on a column's input, the loss's derivative is the sum of weight * gradient. Gradients of these
        # weights alone, since those of all others, the word table's among them, take as long again.
        gates = [
            (weight.detach() * gradient).sum(0)
            for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True)
        ]
        for i in range(len(layers)):
            heads[i] += gates[2 * i].reshape(-1, model.config.head_dim).sum(1).abs().numpy()
            channels[i] += gates[2 * i + 1].abs().numpy()
    return heads, channels
