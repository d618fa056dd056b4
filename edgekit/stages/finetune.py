"""Fine-tunes a base model on the task, where the model given has no trained head: what comes out is the teacher.

AdamW with linear warm-up and decay; dev decides which epoch is kept and when to stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit import data, frontends
from edgekit.artifact import FACTS, LabelledData, Model, Teacher, write_json
from edgekit.checkpoint import inspect, load_classifier, position_limit
from edgekit.inference import run_rows
from edgekit.stage import Context, Inputs, Pass
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Finetune(Pass):
    """Trains all weights but, by default, the word table.

    Attributes:
        epochs: at most.
        batch_size: rows a step.
        learning_rate: peak.
        embedding_rate: factor on the learning rate of the word table; 0 freezes it.
        patience: epochs without a better dev metric after which training stops; 0 never stops early.
        max_length: longest row in tokens; longer ones are cut in training.
    """

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 2e-4
    embedding_rate: float = 0.0
    patience: int = 2
    max_length: int = 128

    NAME: ClassVar[str] = "finetune"
    VERSION: ClassVar[int] = 4
    IN: ClassVar = (Model, LabelledData)
    OUT: ClassVar = Teacher
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "accelerate", "optimum", "numpy")
    PARALLEL: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.max_length < 8 or self.patience < 0:
            raise ValueError("epochs and batch_size must be at least 1, max_length at least 8, patience at least 0")
        if self.learning_rate <= 0:
            raise ValueError("learning_rate must be positive")

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Refuses an architecture that no frontend serves."""
        frontends.check(inspect(inputs[Model].path, ctx.task).model_type)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes a Hugging Face checkpoint with its tokenizer and the scores on dev."""
        from transformers import AutoTokenizer, set_seed

        from edgekit.training import Rows, Schedule, train

        source = inputs[Model].path
        dataset, task = data.read(inputs[LabelledData].path), load_task(ctx.task)
        set_seed(ctx.seed)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        model = load_classifier(source, dataset.labels)
        longest = min(self.max_length, tokenizer.model_max_length, position_limit(source))

        def rows(pairs: list[tuple[str, str]]) -> Rows:
            encoded = tokenizer([text for text, _ in pairs], truncation=True, max_length=longest)["input_ids"]
            ids = [np.array(row, dtype=np.int64) for row in encoded]
            return Rows(ids, np.array([dataset.labels.index(label) for _, label in pairs]))

        dev = rows(list(dataset.dev))
        pad_id = model.config.pad_token_id or 0

        def cross_entropy(output: Any, batch: Mapping[str, Tensor]) -> Tensor:
            from torch.nn import functional as F  # noqa: N812

            return F.cross_entropy(output.logits, batch["labels"])

        schedule = Schedule(
            self.epochs, self.batch_size, self.learning_rate, self.embedding_rate, patience=self.patience
        )
        facts = train(model, rows(list(dataset.train)), dev, task.metric, cross_entropy, schedule, pad_id, ctx)
        facts["dev"] = task.scores(run_rows(model, dev.ids, pad_id, lambda *_: None), dev.expected)
        facts["parameters"] = sum(p.numel() for p in model.parameters())
        model.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
        write_json(out_dir / FACTS, facts)
