"""Training on transformers' Trainer: one loop for fine-tuning, distillation and recovery after pruning.

The Trainer brings checkpoints, resumption, data parallelism under torchrun and learning-rate schedules. This module
adds what edgekit promises: the same batches whatever interrupts a run, checkpoints that are only resumed when they are
whole, and the best epoch by the task's own metric on dev.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from edgekit.errors import RecipeError
from edgekit.inference import run_rows
from edgekit.optimizers import adamw
from edgekit.stage import Context
from edgekit.tokenization import pad

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

LABELS = "labels"
METRIC, MERIT = "dev", "merit"  # what the Trainer logs of each epoch, behind "eval_"
COMPLETE = "complete"  # marks a checkpoint folder whose files are all there
MOST_EPOCHS = 50  # of a small data set that takes twice as many passes or more, an epoch is several
LARGEST_NORM = 1.0  # that the gradients of a step have together
MEGA_BATCHES = 50  # batches that are sorted by length together: more pads less and shuffles less

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]
"""Takes the model's output and the batch (labels and the arrays of `Rows`); returns a scalar."""


@dataclass(frozen=True)
class Rows:
    """Rows to train on.

    Attributes:
        ids: token ids of each row: the texts, then the views of the first text, those of the second, and so on.
        expected: class of each row, (rows,).
        arrays: further values by name, first axis rows; memory-mapped where they are large.
        views: further rows made of a text, the same number for each. A pass takes each text once, as it
            is or as one of its views.
    """

    ids: Sequence[np.ndarray]
    expected: np.ndarray
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    views: int = 0

    @property
    def texts(self) -> int:
        """How many texts there are, views not counted: the rows of a pass."""
        return len(self.ids) // (1 + self.views)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: passes over the texts, unless that makes fewer steps than `min_steps` or more than `max_steps`. Dev is
            run and a checkpoint written after each, or after several where that is at least twice `MOST_EPOCHS`.
        min_steps: steps to take at least, in whole passes: a small data set needs more of them.
        max_steps: steps to take at most, at least one: a large data set needs fewer passes; 0 is no bound. The steps
            are then divided into epochs of as many texts each, drawn anew each time.
        batch_size: rows a step, over all processes together.
        learning_rate: peak of a linear warm-up and decay.
        embedding_rate: factor on the learning rate of the word table; 0 freezes it.
        warmup: share of the steps that warms up.
        weight_decay: of the optimizer, on matrices.
        patience: epochs without a better dev metric after which training stops; 0 never stops early.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    embedding_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    patience: int = 0
    min_steps: int = 0
    max_steps: int = 0

    def epochs_on(self, texts: int) -> int:
        """Returns the epochs to train on that many texts."""
        return -(-self._steps(texts) // self._batches(texts * self._passes_an_epoch(texts)))

    def steps_on(self, texts: int) -> int:
        """Returns the steps of a training on that many texts."""
        return self.epochs_on(texts) * self._batches(self.texts_an_epoch(texts))

    def texts_an_epoch(self, texts: int) -> int:
        """Returns the texts that an epoch takes of so many: each once or several times, or some of them."""
        whole = texts * self._passes_an_epoch(texts)
        if not self.max_steps or self._steps(texts) < self.max_steps:
            return whole
        # As many in each epoch as all steps together allow: one that took all texts would take up to twice the steps,
        # or leave half of them, of a training of few passes.
        return min(whole, max(1, self.max_steps // max(1, self.epochs_on(texts))) * self.batch_size)

    def _steps(self, texts: int) -> int:
        """Returns the steps that are wanted."""
        steps = self._batches(texts)
        wanted = max(self.epochs, -(-self.min_steps // steps)) * steps
        return min(wanted, self.max_steps) if self.max_steps else wanted

    def _passes_an_epoch(self, texts: int) -> int:
        return max(1, self._steps(texts) * self.batch_size // (MOST_EPOCHS * texts))

    def _batches(self, texts: int) -> int:
        return max(1, -(-texts // self.batch_size))


def train(
    model: PreTrainedModel,
    rows: Rows,
    dev: Rows,
    metric: Callable[[np.ndarray, np.ndarray], float],
    loss: Loss,
    schedule: Schedule,
    pad_id: int,
    ctx: Context,
    merit: Callable[[np.ndarray], float] | None = None,
    optimizer: Callable[[Any, Schedule], torch.optim.Optimizer] = adamw,
) -> dict[str, Any]:
    """Trains the model in place and leaves it at its best epoch on dev.

    A run that was killed goes on from its last whole checkpoint in `ctx.resume_dir` and ends with the same weights.

    Args:
        model: to train.
        rows: to train on.
        dev: to choose the epoch by.
        metric: the task's, of logits and expected classes: reported of each epoch.
        loss: to minimise.
        schedule: how long and how fast.
        pad_id: fills shorter rows.
        ctx: of the stage.
        merit: of logits on dev, larger is better: chooses the epoch in the metric's place. Of a student that is taught
            by another model the divergence from it tells epochs apart that have the same right answers.
        optimizer: makes the optimizer of the model's parameters.

    Returns:
        Facts: the metric on dev after each epoch, that of the epoch kept, its merit, and the steps taken.
    """
    last = _last_checkpoint(ctx)
    done = _dev_by_epoch(last)
    stopped = _out_of_patience(done, schedule.patience)  # before it was killed, so that nothing is left to do
    if schedule.batch_size % ctx.processes:
        raise RecipeError(
            f"batch_size is {schedule.batch_size}; it must be a multiple of the {ctx.processes} processes"
        )
    arguments = TrainingArguments(
        output_dir=str(ctx.resume_dir),
        num_train_epochs=len(done) if stopped else schedule.epochs_on(rows.texts),
        per_device_train_batch_size=schedule.batch_size // ctx.processes,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=schedule.warmup,
        max_grad_norm=LARGEST_NORM,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=MERIT,
        greater_is_better=True,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,  # what trains elsewhere would have other bytes under the same key
        seed=ctx.seed,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
    )
    callbacks: list[TrainerCallback] = [_Marks(), _Reports(ctx), _Stops(schedule.patience)]
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=_Indices(schedule.texts_an_epoch(rows.texts)),
        eval_dataset=_Indices(len(dev.ids)),
        data_collator=lambda indices: collate(rows, indices, pad_id),
        callbacks=callbacks,
        optimizers=(optimizer(model, schedule), None),
    )
    trainer.remove_callback(PrinterCallback)  # it would print the Trainer's own logs to stdout
    sampler = _LengthGrouped([len(r) for r in rows.ids], schedule, ctx.seed, rows.views)
    trainer.prepare(loss, dev, metric, merit, pad_id, sampler)
    trainer.train(resume_from_checkpoint=last)
    if ctx.processes > 1:  # rank 0 deletes the checkpoints, once all have read the best of them
        torch.distributed.barrier()
    model.eval()
    history, merits = (_evaluations(trainer.state.log_history, name) for name in (METRIC, MERIT))
    best = merits.index(max(merits))
    return {
        "dev_by_epoch": history,
        "dev_best": history[best],
        "merit": merits[best],
        "steps": trainer.state.global_step,
    }


class _Indices(Dataset[int]):
    """A dataset of row numbers: the collator fetches the rows, so that mapped arrays are read a batch at a time."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> int:
        return index


class _LengthGrouped(Sampler[int]):
    """Shuffles rows by epoch and sorts them by length within groups of batches, so that little is padded.

    Where texts have views, each epoch draws for each text whether it is taken as it is or as one of them. The order
    depends on the seed and the epoch alone, never on a global generator: a resumed run sees the same batches.
    """

    def __init__(self, lengths: Sequence[int], schedule: Schedule, seed: int, views: int = 0) -> None:
        self._lengths, self._batch_size, self._seed, self._views = np.array(lengths), schedule.batch_size, seed, views
        self._texts = len(lengths) // (1 + views)
        self._an_epoch = schedule.texts_an_epoch(self._texts)
        self._epoch = 0

    def __len__(self) -> int:
        return self._an_epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's order; the Trainer calls it."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.Generator(np.random.PCG64([self._seed, self._epoch]))
        passes = -(-self._an_epoch // self._texts)
        order = np.concatenate([random.permutation(self._texts) for _ in range(passes)])[: self._an_epoch]
        if self._views:
            drawn = random.integers(0, self._views + 1, len(order))
            order = np.where(drawn == 0, order, self._texts + order * self._views + drawn - 1)
        groups: list[np.ndarray] = []
        for start in range(0, len(order), self._batch_size * MEGA_BATCHES):
            mega = order[start : start + self._batch_size * MEGA_BATCHES]
            mega = mega[np.argsort(-self._lengths[mega], kind="stable")]
            groups += [mega[i : i + self._batch_size] for i in range(0, len(mega), self._batch_size)]
        # Batches in random order, except that an incomplete one stays last.
        whole = [g for g in groups if len(g) == self._batch_size]
        rest = [g for g in groups if len(g) < self._batch_size]
        shuffled = [whole[i] for i in random.permutation(len(whole))]
        return iter(int(i) for group in (*shuffled, *rest) for i in group)


class _Trainer(Trainer):
    """A Trainer with the given loss, length-grouped batches, and evaluation by the task's metric."""

    def prepare(
        self,
        loss: Loss,
        dev: Rows,
        metric: Callable[[np.ndarray, np.ndarray], float],
        merit: Callable[[np.ndarray], float] | None,
        pad_id: int,
        sampler: _LengthGrouped,
    ) -> None:
        """Sets what the Trainer's own constructor has no place for."""
        self._loss, self._dev, self._metric, self._merit, self._pad_id = loss, dev, metric, merit, pad_id
        self._sampler = sampler

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Computes the loss that was given; the Trainer's own signature."""
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = self._loss(output, inputs)
        return (loss, output) if return_outputs else loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Tensor:
        """Brings all gradients down to the largest norm; sparse ones too, which the Trainer itself cannot."""
        values: list[Tensor] = []
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                values.append(parameter.grad.values())
            elif parameter.grad is not None:
                values.append(parameter.grad)
        norm: Tensor = torch.nn.utils.get_total_norm(values)
        torch._foreach_mul_(values, float((self.args.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)))
        return norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._sampler

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Computes metric and merit on dev, in every process alike, and tells the Trainer."""
        training = self.model.training
        logits = run_rows(self.model, self._dev.ids, self._pad_id, lambda *_: None)
        self.model.train(training)
        score = self._metric(logits, self._dev.expected)
        merit = score if self._merit is None else self._merit(logits)
        metrics = {f"{metric_key_prefix}_{METRIC}": score, f"{metric_key_prefix}_{MERIT}": merit}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Marks(TrainerCallback):
    """Marks a checkpoint once all of it is written: a kill in the middle leaves one without the mark."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            (folder / COMPLETE).touch()


class _Stops(TrainerCallback):
    """Stops early, judging by the whole history: transformers' own callback forgets what was before a kill."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if _out_of_patience(_evaluations(state.log_history), self._patience):
            control.should_training_stop = True


def _evaluations(log: Sequence[Mapping[str, float]], name: str = METRIC) -> list[float]:
    return [entry[f"eval_{name}"] for entry in log if f"eval_{name}" in entry]


def _dev_by_epoch(checkpoint: str | None) -> list[float]:
    if checkpoint is None:
        return []
    state = json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return _evaluations(state["log_history"])


def _out_of_patience(history: Sequence[float], patience: int) -> bool:
    """Says whether the best epoch lies `patience` epochs back; 0 is endless patience."""
    return bool(patience and history) and len(history) - 1 - history.index(max(history)) >= patience


class _Reports(TrainerCallback):
    """Passes progress on."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ctx.progress(state.global_step, state.max_steps, "steps")


def collate(rows: Rows, indices: Sequence[int], pad_id: int) -> dict[str, Tensor]:
    """Makes a padded batch of the given rows: input_ids, attention_mask, labels and the rows' arrays."""
    ids, mask = pad([rows.ids[i] for i in indices], pad_id)
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    batch[LABELS] = torch.from_numpy(rows.expected[list(indices)])
    for name, array in rows.arrays.items():
        batch[name] = torch.from_numpy(np.asarray(array[list(indices)], dtype=np.float32))
    return batch


def _last_checkpoint(ctx: Context) -> str | None:
    """Returns the last whole checkpoint; deletes those that a kill cut off."""
    if ctx.rank == 0:
        for folder in ctx.resume_dir.glob("checkpoint-*"):
            if not (folder / COMPLETE).exists():
                shutil.rmtree(folder)
    if ctx.processes > 1:
        torch.distributed.barrier()
    last: str | None = get_last_checkpoint(str(ctx.resume_dir))
    return last
