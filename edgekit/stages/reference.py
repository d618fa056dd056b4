"""Runs the teacher and the float student over the test rows: what every artifact is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, Reference, Student, Teacher, Vocabulary, write_json
from edgekit.checkpoint import read_labels
from edgekit.inference import run_rows
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.teach import encode_for_teacher, load_teacher
from edgekit.tasks import load_task
from edgekit.tokenization import count_longer, encode, load_tokenizer


@dataclass(frozen=True)
class Compare(Pass):
    """Records both float models' logits on test, in float32 on this machine."""

    NAME: ClassVar[str] = "reference"
    VERSION: ClassVar[int] = 2
    IN: ClassVar = (Teacher, Student, Vocabulary, LabelledData)
    OUT: ClassVar = Reference
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "optimum", "numpy")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes teacher.npy and student.npy, each (rows, classes), and expected.npy, (rows,)."""
        from edgekit.ir.encoder import EdgekitForSequenceClassification

        dataset, vocabulary, task = data.read(inputs[LabelledData].path), inputs[Vocabulary], load_task(ctx.task)
        texts = [text for text, _ in dataset.test]
        classes = task.align(read_labels(inputs[Teacher].path), dataset.labels)
        expected = np.array([classes[label] for _, label in dataset.test])
        teacher, pad_id = load_teacher(inputs[Teacher].path)
        theirs = encode_for_teacher(inputs[Teacher].path, texts)
        student = EdgekitForSequenceClassification.from_pretrained(inputs[Student].path, local_files_only=True)
        ours = encode(load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), texts)
        facts: dict[str, object] = {
            "rows": len(texts),
            "rows_cut": count_longer(vocabulary.tokenizer, texts, vocabulary.max_length),
        }
        for name, model, rows, pad in (
            ("teacher", teacher, theirs, pad_id),
            ("student", student, ours, vocabulary.facts["pad_token_id"]),
        ):
            logits = run_rows(model, rows, pad, ctx.progress)
            np.save(out_dir / f"{name}.npy", logits)
            facts[name] = task.scores(logits, expected)
        np.save(out_dir / "expected.npy", expected)
        write_json(out_dir / FACTS, facts)
