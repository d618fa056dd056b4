"""Runs the teacher once over train and dev and keeps what distillation needs, memory-mapped.

The teacher reads each row in its own tokenisation. Kept are its logits and the first token's state after each layer:
the one token that the head reads, and the one whose meaning does not change when the student's vocabulary cuts a word
differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgekit import data, frontends
from edgekit.artifact import FACTS, LabelledData, Teacher, TeacherOutputs, write_json
from edgekit.checkpoint import inspect, position_limit, read_labels
from edgekit.inference import run_rows
from edgekit.stage import Context, Inputs, Pass
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification


@dataclass(frozen=True)
class Teach(Pass):
    """Records the teacher's outputs on the splits that students learn from and are chosen on; never on test."""

    NAME: ClassVar[str] = "teach"
    VERSION: ClassVar[int] = 1
    IN: ClassVar = (Teacher, LabelledData)
    OUT: ClassVar = TeacherOutputs
    TOOLS: ClassVar = ("torch", "transformers", "tokenizers")

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Refuses an architecture that no frontend serves."""
        frontends.check(inspect(inputs[Teacher].path, ctx.task).model_type)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes `<split>.logits.npy` (float32) and `<split>.states.npy` (float16)."""
        teacher = inputs[Teacher].path
        dataset = data.read(inputs[LabelledData].path)
        classes = load_task(ctx.task).align(read_labels(teacher), dataset.labels)
        model, pad_id = load_teacher(teacher)
        facts = {}
        for split, rows in (("train", dataset.train), ("dev", dataset.dev)):
            encoded = encode_for_teacher(teacher, [text for text, _ in rows])
            shape = (len(rows), len(model.config.heads) + 1, model.config.hidden_size)
            states = np.lib.format.open_memmap(out_dir / f"{split}.states.npy", "w+", np.float16, shape)
            logits = run_rows(model, encoded, pad_id, ctx.progress, states)
            states.flush()
            np.save(out_dir / f"{split}.logits.npy", logits)
            expected = np.array([classes[label] for _, label in rows])
            facts[f"accuracy_{split}"] = load_task(ctx.task).metric(logits, expected)
        write_json(out_dir / FACTS, facts)


def load_teacher(path: Path) -> tuple[EdgekitForSequenceClassification, int]:
    """Loads a fine-tuned checkpoint into the IR; returns it with its padding id."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True, use_safetensors=True)
    return frontends.build(model), model.config.pad_token_id or 0


def encode_for_teacher(path: Path, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the texts' ids in the teacher's own tokenisation, cut at its longest input."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    longest = min(tokenizer.model_max_length, position_limit(path))
    encoded = tokenizer(list(texts), truncation=True, max_length=longest, padding=False)["input_ids"]
    return [np.array(ids, dtype=np.int64) for ids in encoded]
