"""Removes attention heads and FFN channels that the loss hardly needs, then trains what is left against the teacher.

How many go is an option: a share over all layers, or the widths of each layer, which `search` decides. Which go is said
by the scores of stage `score`: normalised within each layer, so that layers of larger gradients do not keep everything,
and ranked over all layers together; each layer's count is then rounded to the multiple that the target's kernels like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit.artifact import LabelledData, Scores, Student, Teacher, TeacherOutputs, Vocabulary, WideStudent
from edgekit.errors import RecipeError
from edgekit.inference import run_rows
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages._word_rows import special_tokens
from edgekit.stages.distill import OPTIMIZERS, TEACHER_LAYERS, save_student, set_dropout, student_rows, taught
from edgekit.stages.score import read_scores
from edgekit.tasks import load_task

DEV_LOGITS = "dev.logits.npy"
"""The student's answers on dev, which the search compares students by."""


@dataclass(frozen=True)
class Prune(Pass):
    """Prunes the student's widths and recovers its accuracy.

    Attributes:
        heads: share of attention heads kept over all layers, in (0, 1].
        ffn: share of FFN channels kept over all layers, in (0, 1].
        layer_heads: attention heads that each layer keeps, in place of a share.
        layer_ffn: FFN channels that each layer keeps, in place of a share.
        word_rows: rows of the word table that are left at most (`surgery.fewer_rows`); 0 leaves all.
        word_rank: columns that the word table is factorised to (`surgery.factorise_words`); 0 leaves it whole.
        epochs: of recovery; 0 for none.
        min_steps: steps at least, in whole epochs, for data sets so small that the epochs make fewer.
        max_steps: steps at most, in whole epochs, for data sets so large that the epochs make more; 0 is no bound.
        batch_size: rows a step.
        learning_rate: peak, for all but the word table.
        embedding_rate: factor on the learning rate of the word table; 0 freezes it.
        optimizer: "adamw", or "muon" (`edgekit.optimizers`; rates stay in AdamW's terms) for students that are cut so
            far that they have much to learn anew: a search sets it.
        temperature: of the softened logits.
        logits, states, labels: weights of the three losses.
    """

    heads: float = 0.75
    ffn: float = 0.5
    layer_heads: tuple[int, ...] = ()
    layer_ffn: tuple[int, ...] = ()
    word_rows: int = 0
    word_rank: int = 0
    epochs: int = 5
    min_steps: int = 1200
    max_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-4
    embedding_rate: float = 0.1
    optimizer: str = "adamw"
    temperature: float = 2.0
    logits: float = 1.0
    states: float = 1.0
    labels: float = 0.1

    NAME: ClassVar[str] = "prune"
    VERSION: ClassVar[int] = 11
    IN: ClassVar = (Teacher, WideStudent, Scores, LabelledData, Vocabulary, TeacherOutputs)
    OUT: ClassVar = Student
    READS: ClassVar[tuple[str, ...]] = ("shape.head_multiple", "shape.ffn_multiple")
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "accelerate", "optimum", "numpy")
    PARALLEL: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("heads", "ffn"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in (0, 1]")
        for name in ("layer_heads", "layer_ffn"):
            if min(getattr(self, name), default=1) < 1:
                raise ValueError(f"{name} is {list(getattr(self, name))}; every layer keeps at least 1")
        if len(self.layer_heads) != len(self.layer_ffn):
            raise ValueError("layer_heads and layer_ffn name different numbers of layers; give both")
        if self.layer_heads and (self.heads, self.ffn) != (Prune.heads, Prune.ffn):
            raise ValueError("heads or ffn is given as a share and by layer; leave one out")
        for name in ("min_steps", "max_steps", "word_rows", "word_rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.epochs < 0 or self.batch_size < 1:
            raise ValueError("epochs must not be negative, batch_size at least 1")
        if self.temperature <= 0 or self.learning_rate <= 0:
            raise ValueError("temperature and learning_rate must be positive")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes a checkpoint of the IR with its tokenizer, and its logits on dev."""
        from edgekit.ir.encoder import EdgekitForSequenceClassification
        from edgekit.ir.surgery import factorise_words, fewer_rows, keep_widths

        wide, vocabulary = inputs[WideStudent], inputs[Vocabulary]
        layers = json.loads((wide.path / TEACHER_LAYERS).read_text(encoding="utf-8"))
        model = EdgekitForSequenceClassification.from_pretrained(wide.path, local_files_only=True)
        rows, dev = student_rows(inputs, ctx, layers)
        pad_id = vocabulary.facts["pad_token_id"]
        head_scores, channel_scores = read_scores(inputs[Scores].file)
        if self.layer_heads:
            kept_heads = best(head_scores, self.layer_heads, "layer_heads")
            kept_channels = best(channel_scores, self.layer_ffn, "layer_ffn")
        else:
            kept_heads = select(head_scores, self.heads, ctx.target["shape.head_multiple"])
            kept_channels = select(channel_scores, self.ffn, ctx.target["shape.ffn_multiple"])
        pruned = keep_widths(model, kept_heads, kept_channels)
        used = np.bincount(np.concatenate(rows.ids), minlength=pruned.config.vocab_size)
        if self.word_rows:
            pruned = fewer_rows(pruned, self.word_rows, used, special_tokens(vocabulary.tokenizer))
        if self.word_rank:
            if self.word_rank >= pruned.config.embedding_size:
                raise RecipeError(
                    f"prune.word_rank is {self.word_rank}; the word table has {pruned.config.embedding_size} columns"
                )
            pruned = factorise_words(pruned, self.word_rank, used)
        set_dropout(pruned, 0.0)
        facts: dict[str, Any] = {
            "heads_before": list(model.config.heads),
            "heads": list(pruned.config.heads),
            "ffn_before": list(model.config.ffn),
            "ffn": list(pruned.config.ffn),
            "word_rows": pruned.config.word_rows or pruned.config.vocab_size,
            "word_rank": pruned.config.word_rank,
            "parameters": sum(p.numel() for p in pruned.parameters()),
        }
        if self.epochs:
            facts |= taught(pruned, rows, dev, self, pad_id, ctx)
        logits = run_rows(pruned, dev.ids, pad_id, lambda *_: None)
        np.save(out_dir / DEV_LOGITS, logits)
        facts["dev"] = load_task(ctx.task).metric(logits, dev.expected)
        save_student(pruned, vocabulary, layers, facts, out_dir)


def best(scores: Sequence[np.ndarray], counts: Sequence[int], option: str) -> list[list[int]]:
    """Chooses what stays where each layer's count is given.

    Args:
        scores: for each layer the scores of its units.
        counts: units that each keeps.
        option: the counts' name, for messages.

    Returns:
        For each layer the kept indices, increasing.

    Raises:
        RecipeError: there are other layers, or fewer units in one.
    """
    if len(counts) != len(scores):
        raise RecipeError(f"prune.{option} is for {len(counts)} layers, the student has {len(scores)}")
    for layer, count in zip(scores, counts, strict=True):
        if count > len(layer):
            raise RecipeError(f"prune.{option} keeps {count} units of a layer that has {len(layer)}")
    return [
        sorted(int(i) for i in np.argsort(-layer, kind="stable")[:count])
        for layer, count in zip(scores, counts, strict=True)
    ]


def select(scores: Sequence[np.ndarray], share: float, multiple: int) -> list[list[int]]:
    """Chooses what stays: the best `share` over all layers, each layer's count rounded to `multiple`.

    Args:
        scores: for each layer the scores of its units.
        share: of all units that stays.
        multiple: every count is one of it, at least one, unless the layer has fewer units or all of them stay.

    Returns:
        For each layer the kept indices, increasing.

    Raises:
        RecipeError: `multiple` is larger than a layer.
    """
    for layer in scores:
        if multiple > len(layer):
            raise RecipeError(f"the target rounds widths to multiples of {multiple}, but a layer has {len(layer)}")
    normalised = [layer / (np.linalg.norm(layer) or 1.0) for layer in scores]
    owners = np.repeat(np.arange(len(scores)), [len(layer) for layer in scores])
    # Counted, not compared with a threshold: where many units score 0, all of them would reach a threshold of 0.
    ranked = owners[np.argsort(-np.concatenate(normalised), kind="stable")]
    counts = np.bincount(ranked[: max(1, round(share * len(ranked)))], minlength=len(scores))
    kept = []
    for layer, count in zip(normalised, counts, strict=True):
        rounded = len(layer) if share == 1 else max(1, round(count / multiple)) * multiple
        rounded = min(rounded, len(layer) // multiple * multiple if share < 1 else len(layer))
        best = np.argsort(-layer, kind="stable")[:rounded]
        kept.append(sorted(int(i) for i in best))
    return kept
