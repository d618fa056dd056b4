"""Makes the student: evenly spaced layers of the teacher, trained to answer as the teacher does.

Copied layers stand in for pre-training. The loss matches the teacher's logits at a temperature, its first-token states
after the layers that the student's were copied from, and, on rows that have them, the labels.

Ref: Hinton et al. 2015 (1503.02531), equation 1; Sanh et al. 2019 (1910.01108), initialisation from the teacher's
layers; Sun et al. 2019 (1908.09355), first-token states of intermediate layers (here not normalised).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, Teacher, TeacherOutputs, Vocabulary, WideStudent, write_json
from edgekit.checkpoint import read_labels
from edgekit.errors import RecipeError
from edgekit.search.estimate import divergence
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.teach import answered, load_teacher, with_vocabulary
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.training import Rows, Schedule

DEFAULT_LAYERS = 4  # three lose a point more on two thousand rows (docs/log.md)
TEACHER_LAYERS = "teacher_layers.json"
OPTIMIZERS = ("adamw", "muon")  # of `edgekit.optimizers`, which imports torch
UNLABELLED = -100  # the class of a view: only the teacher says what it means


@dataclass(frozen=True)
class Distill(Pass):
    """Distils the teacher into a student of fewer layers.

    Attributes:
        layers: layers of the student, evenly spaced over the teacher's, its last always among them; 0 takes four, or
            all of a teacher that has fewer.
        keep: the teacher's layers that the student copies, counted from 0 and increasing, in place of a number.
        epochs: passes over the training texts, each as it is or as one of its views; 0 takes the copied layers as they
            are.
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

    layers: int = 0
    keep: tuple[int, ...] = ()
    epochs: int = 3
    min_steps: int = 800
    max_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-4
    embedding_rate: float = 0.1
    optimizer: str = "adamw"
    temperature: float = 2.0
    logits: float = 1.0
    states: float = 1.0
    labels: float = 0.1

    NAME: ClassVar[str] = "distill"
    VERSION: ClassVar[int] = 10
    IN: ClassVar = (Teacher, LabelledData, Vocabulary, TeacherOutputs)
    OUT: ClassVar = WideStudent
    TOOLS: ClassVar = ("torch", "transformers", "tokenizers", "accelerate", "optimum", "numpy")
    PARALLEL: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("min_steps", "max_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.layers < 0 or self.epochs < 0 or self.batch_size < 1:
            raise ValueError("layers and epochs must not be negative, batch_size at least 1")
        if self.layers and self.keep:
            raise ValueError("layers and keep are both given; keep already says how many")
        if list(self.keep) != sorted(set(self.keep)) or min(self.keep, default=0) < 0:
            raise ValueError(f"keep is {list(self.keep)}; expected layers counted from 0, each once, increasing")
        if self.temperature <= 0 or self.learning_rate <= 0:
            raise ValueError("temperature and learning_rate must be positive")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")

    def check_model(self, config: Mapping[str, Any]) -> None:
        """Refuses more layers than the teacher has.

        Raises:
            RecipeError: names the option.
        """
        total = config.get("num_hidden_layers", config.get("n_layers"))
        if isinstance(total, int) and total > 0:
            self.copied(total)

    def copied(self, total: int) -> list[int]:
        """Returns which of the teacher's `total` layers the student copies, counted from 0.

        Raises:
            RecipeError: there are not as many.
        """
        layers = list(self.keep) or evenly_spaced(total, self.layers or min(DEFAULT_LAYERS, total))
        if layers[-1] >= total:
            raise RecipeError(f"distill.keep names layer {layers[-1]}; the teacher has {total}, counted from 0")
        return layers

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes a checkpoint of the IR with its tokenizer."""
        from edgekit.ir.surgery import keep_layers

        vocabulary = inputs[Vocabulary]
        teacher, _ = load_teacher(inputs[Teacher].path)
        total = len(teacher.config.heads)
        layers = self.copied(total)
        pad_id = vocabulary.facts["pad_token_id"]
        student = with_vocabulary(keep_layers(teacher, layers), vocabulary)
        set_dropout(student, 0.0)
        facts: dict[str, Any] = {}
        if self.epochs:
            rows, dev = student_rows(inputs, ctx, layers)
            facts = taught(student, rows, dev, self, pad_id, ctx)
        facts |= {"teacher_layers": layers, "parameters": sum(p.numel() for p in student.parameters())}
        save_student(student, vocabulary, layers, facts, out_dir)


def evenly_spaced(total: int, kept: int) -> list[int]:
    """Returns which of `total` layers a student of `kept` layers copies, counted from 0.

    Raises:
        RecipeError: the teacher has fewer layers than that.
    """
    if kept > total:
        raise RecipeError(f"distill.layers is {kept}, but the teacher has {total} layers")
    return [(i + 1) * total // kept - 1 for i in range(kept)]


def student_rows(inputs: Inputs, ctx: Context, layers: Sequence[int]) -> tuple[Rows, Rows]:
    """Returns train with its views, and dev, in the student's tokens, with the teacher's outputs for these layers."""
    from edgekit.training import Rows

    vocabulary, outputs = inputs[Vocabulary], inputs[TeacherOutputs]
    dataset = answered(data.read(inputs[LabelledData].path), outputs)
    tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
    classes = load_task(ctx.task).align(read_labels(inputs[Teacher].path), dataset.labels)

    def rows(split: str, pairs: Sequence[tuple[str, str]], unlabelled: Sequence[str], views: Sequence[str]) -> Rows:
        texts = [*(text for text, _ in pairs), *unlabelled]
        ids = encode(tokenizer, [*texts, *views])
        expected = np.array([classes[label] for _, label in pairs] + [UNLABELLED] * (len(ids) - len(pairs)))
        logits = np.load(outputs.array(split, "logits"), mmap_mode="r")
        states = np.load(outputs.array(split, "states"), mmap_mode="r")
        arrays = {"teacher_logits": logits, "teacher_states": _Columns(states, [0, *(layer + 1 for layer in layers)])}
        return Rows(ids, expected, arrays, len(views) // len(texts))

    return rows("train", dataset.train, outputs.unlabelled, outputs.views), rows("dev", dataset.dev, (), ())


@dataclass(frozen=True)
class _Columns:
    """A view of some columns of a memory-mapped array: only the rows of a batch are ever read."""

    array: np.ndarray
    columns: Sequence[int]

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        picked: np.ndarray = self.array[rows][:, list(self.columns)]
        return picked


def distillation_loss(
    temperature: float, logits: float, states: float, labels: float
) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """Returns the loss `logits * T^2 KL(teacher, student) + states * MSE + labels * cross-entropy`."""
    from torch.nn import functional as F  # noqa: N812

    def loss(output: Any, batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        soft = F.log_softmax(output.logits / temperature, dim=-1)
        target = F.log_softmax(batch["teacher_logits"] / temperature, dim=-1)
        total = logits * temperature**2 * F.kl_div(soft, target, reduction="batchmean", log_target=True)
        if states:
            total = total + states * F.mse_loss(torch.stack(output.hidden_states, dim=1), batch["teacher_states"])
        if labels:
            known = batch["labels"] != UNLABELLED
            if known.any():
                total = total + labels * F.cross_entropy(output.logits[known], batch["labels"][known])
        return total

    return loss


class Losses(Protocol):
    """The options of a stage that say what a student's loss is."""

    @property
    def temperature(self) -> float: ...
    @property
    def logits(self) -> float: ...
    @property
    def states(self) -> float: ...
    @property
    def labels(self) -> float: ...


class Teaching(Losses, Protocol):
    """The options of a stage that trains a student, as `Distill` has them."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def embedding_rate(self) -> float: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def min_steps(self) -> int: ...
    @property
    def max_steps(self) -> int: ...


def loss_of(options: Losses) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """Returns the loss that a stage's options name."""
    return distillation_loss(options.temperature, options.logits, options.states, options.labels)


def schedule_of(options: Teaching) -> Schedule:
    """Returns how long and how fast a stage's options say to train."""
    from edgekit.training import Schedule

    return Schedule(
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.embedding_rate,
        min_steps=options.min_steps,
        max_steps=options.max_steps,
    )


def taught(
    student: EdgekitForSequenceClassification, rows: Rows, dev: Rows, options: Teaching, pad_id: int, ctx: Context
) -> dict[str, Any]:
    """Trains a student in place on the teacher's outputs; returns the facts of `training.train`.

    Rows of the word table that no text reads are left out meanwhile: they would stay as they are, and of a small data
    set's steps by AdamW they take the half, of checkpoints their part.
    """
    from edgekit import optimizers
    from edgekit.ir.surgery import read_rows, with_rows
    from edgekit.training import train

    part, kept = read_rows(student, np.unique(np.concatenate([[pad_id], *rows.ids, *dev.ids])))
    set_dropout(part, student.config.dropout)
    metric, merit = load_task(ctx.task).metric, nearness(dev)
    optimizer = optimizers.OPTIMIZERS[options.optimizer]
    facts = train(part, rows, dev, metric, loss_of(options), schedule_of(options), pad_id, ctx, merit, optimizer)
    with_rows(student, part, kept)
    return facts


def nearness(dev: Rows) -> Callable[[np.ndarray], float]:
    """Returns how near logits on dev are to the teacher's: minus their divergence, in nats.

    A dev split of a thousand rows moves by half a point of accuracy from epoch to epoch; the divergence does not.
    """
    teacher = np.asarray(dev.arrays["teacher_logits"])
    return lambda logits: -divergence(teacher, logits)


def set_dropout(model: EdgekitForSequenceClassification, probability: float) -> None:
    """Sets every dropout: a student that matches recorded outputs learns them better without."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    model.config.dropout = probability


def save_student(
    model: EdgekitForSequenceClassification,
    vocabulary: Vocabulary,
    layers: Sequence[int],
    facts: Mapping[str, Any],
    out_dir: Path,
) -> None:
    """Writes a student: checkpoint, tokenizer, which teacher layers it came from, and facts."""
    model.save_pretrained(out_dir)
    for file in vocabulary.tokenizer.iterdir():
        (out_dir / file.name).write_bytes(file.read_bytes())
    (out_dir / TEACHER_LAYERS).write_text(json.dumps(list(layers)), encoding="utf-8")
    write_json(out_dir / FACTS, facts)
