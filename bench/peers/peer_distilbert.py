"""A student by DistilBERT's recipe: every second layer of the teacher, whole widths and vocabulary, in dynamic int8.

Plain logit distillation: T² times the divergence at temperature 2, and a tenth of cross-entropy with the labels; ten
epochs, the best on dev. Two learning rates are tried, since the one of DistilBERT's cards suits wide models and a
narrow one needs more. The float student is exported by transformers' own code and quantized by onnxruntime's
`quantize_dynamic`, in whichever way does best on dev.

Ref: Sanh et al. 2019, arXiv 1910.01108, section 3; without the cosine loss, which is one of their pre-training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from peer import SEED, Built, Job, Split, main, read_split

VENV, TAKES, RUNTIME, FROM_GRAPH = "transformers", "tokens", "onnxruntime", False
WAYS = {"int8": "half the layers distilled (DistilBERT), dynamic int8"}
EPOCHS, BATCH, WARMUP, TEMPERATURE, LABELS = 10, 32, 0.1, 2.0, 0.1
RATES = (5e-5, 3e-4)
CLIP = 1.0


@dataclass(frozen=True)
class Trained:
    """The best student of one run: accuracy on dev in percent, epoch (from 1), weights."""

    accuracy: float
    epoch: int
    rate: float
    weights: dict[str, Any]


def build(job: Job) -> Built:
    """Trains at each rate, exports the best student and quantizes it."""
    import torch
    from graphs import choose, export, positions
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from peer_onnxruntime import dynamic_ways
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(SEED)
    teacher = AutoModelForSequenceClassification.from_pretrained(job.teacher, local_files_only=True).eval()
    train, dev = (read_split(job.rows, name) for name in ("train", "dev"))
    wanted = logits(teacher, train)
    epochs = min(EPOCHS, job.epochs or EPOCHS)
    runs = [train_student(half(teacher), train, wanted, dev, epochs, rate) for rate in RATES]
    best = max(runs, key=lambda run: run.accuracy)
    student = half(teacher)
    student.load_state_dict(best.weights)
    graph, prepared = job.out / "float.onnx", job.out / "prepared.onnx"
    export(student.eval(), positions(student.config), graph)
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    chosen, tried = choose(dynamic_ways(prepared), dev, job.out / "model.onnx")
    for path in (graph, prepared):
        path.unlink()
    facts = {
        "layers": student.config.num_hidden_layers,
        "epochs": epochs,
        "dev_accuracy": {f"{run.rate:g}": run.accuracy for run in runs},
        "tried": tried,
    }
    return Built(["model.onnx"], f"rate {best.rate:g}, epoch {best.epoch} of {epochs}; {chosen}", facts)


def half(teacher: Any) -> Any:
    """Returns a copy of the teacher with its first, third, fifth … layer."""
    student = copy.deepcopy(teacher)
    name, layers = find_layers(student)
    kept = layers[::2]
    parent = student.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], type(layers)(list(kept)))
    # DistilBERT's configuration has the field under a name of its own, which this attribute maps to.
    student.config.num_hidden_layers = len(kept)
    return student


def find_layers(model: Any) -> tuple[str, Any]:
    """Returns the name and the list of a model's layers.

    Raises:
        ValueError: no list of modules has as many entries as the configuration has layers.
    """
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return name, module
    raise ValueError(f"no list of {model.config.num_hidden_layers} layers in {type(model).__name__}")


def batch(rows: list[Any], pad_id: int) -> tuple[Any, Any]:
    """Pads rows on the right; returns ids and mask, each int64 of shape (rows, longest row)."""
    import torch

    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.from_numpy(row), 1
    return ids, mask


def logits(model: Any, split: Split) -> Any:
    """Returns a model's logits on a split, float32, shape (rows, classes), without dropout."""
    import torch

    model.eval()
    order = sorted(range(len(split.ids)), key=lambda i: len(split.ids[i]))
    found = torch.zeros(len(order), model.config.num_labels)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            ids, mask = batch([split.ids[i] for i in chosen], model.config.pad_token_id or 0)
            found[chosen] = model(input_ids=ids, attention_mask=mask).logits
    return found


def train_student(student: Any, train: Split, wanted: Any, dev: Split, epochs: int, rate: float) -> Trained:
    """Trains a student against the teacher's logits and keeps the epoch that does best on dev.

    Args:
        student: model to train; it is changed.
        train: rows to learn from.
        wanted: the teacher's logits on them.
        dev: rows to choose the epoch on.
        epochs: passes over train.
        rate: highest learning rate, reached after a tenth of the steps and brought to zero linearly.
    """
    import torch
    from torch.nn import functional
    from transformers import get_linear_schedule_with_warmup

    random = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * -(-len(train.ids) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    expected, best = torch.from_numpy(train.expected), Trained(-1.0, 0, rate, {})
    for epoch in range(1, epochs + 1):
        student.train()
        order = torch.randperm(len(train.ids), generator=random).tolist()
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            ids, mask = batch([train.ids[i] for i in rows], student.config.pad_token_id or 0)
            found = student(input_ids=ids, attention_mask=mask).logits
            soft = functional.kl_div(
                functional.log_softmax(found / TEMPERATURE, -1),
                functional.softmax(wanted[rows] / TEMPERATURE, -1),
                reduction="batchmean",
            )
            loss = TEMPERATURE**2 * soft + LABELS * functional.cross_entropy(found, expected[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        accuracy = float((logits(student, dev).argmax(-1).numpy() == dev.expected).mean() * 100)
        print(f"rate {rate:g}, epoch {epoch} of {epochs}: {accuracy:.2f} % on dev", flush=True)
        if accuracy > best.accuracy:
            best = Trained(accuracy, epoch, rate, copy.deepcopy(student.state_dict()))
    return best


if __name__ == "__main__":
    main(build)
