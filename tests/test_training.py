"""One training loop: against a loop written by hand, and the same weights whatever interrupts it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F  # noqa: N812
from trainings import model

from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.optimizers import adamw, muon
from edgekit.stages.distill import Distill
from edgekit.tasks import text_classification
from edgekit.training import (
    COMPLETE,
    LARGEST_NORM,
    Rows,
    Schedule,
    _LengthGrouped,
    collate,
    train,
)

SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=3e-3, embedding_rate=0.5)
BATCHES = 8


class KilledError(Exception):
    """Stands for a kill of the process."""


def rows(count: int = BATCHES * 8 - 3, seed: int = 0) -> Rows:
    """Returns sentences of different lengths with their classes."""
    tokenizer = tiny.wordpiece()
    pairs = tiny.sentences(count, seed)
    ids = [np.array(tokenizer.encode(text).ids, dtype=np.int64) for text, _ in pairs]
    return Rows(ids, np.array([tiny.LABELS.index(label) for _, label in pairs]))


def cross_entropy(output: Any, batch: Any) -> torch.Tensor:
    """The loss on the labels."""
    return F.cross_entropy(output.logits, batch["labels"])


def weights(trained: EdgekitForSequenceClassification) -> dict[str, np.ndarray]:
    """Copies the weights."""
    return {name: value.detach().numpy().copy() for name, value in trained.state_dict().items()}


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Compares bit by bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def run(
    folder: Path,
    kill_after: int = 0,
    schedule: Schedule = SCHEDULE,
    metric: Callable[[Any, Any], float] = text_classification.metric,
    seed: int = 0,
    trained: EdgekitForSequenceClassification | None = None,
    dropout: float = 0.1,
    optimizer: Callable[[Any, Schedule], torch.optim.Optimizer] = adamw,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Trains; raises `KilledError` after that many steps of this run, where given."""
    steps = 0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_after:
            raise KilledError

    trained = trained or model(dropout)
    ctx = tiny.context(folder, Distill, seed=seed, progress=progress)
    held = rows(40, seed=1)
    facts = train(trained, rows(), held, metric, cross_entropy, schedule, 0, ctx, optimizer=optimizer)
    return weights(trained), facts


def scripted(values: Sequence[float], trained: EdgekitForSequenceClassification | None = None) -> Any:
    """Returns a metric that answers the given values in turn, and the weights it saw."""
    seen: list[dict[str, np.ndarray]] = []
    left = iter(values)

    def metric(logits: np.ndarray, expected: np.ndarray) -> float:
        if trained is not None:
            seen.append(weights(trained))
        return next(left)

    return metric, seen


def test_weights_are_those_of_a_loop_written_by_hand(tmp_path: Path) -> None:
    found, facts = run(tmp_path, metric=scripted([1, 2, 3, 4])[0], dropout=0.0)

    reference, data = model(0.0).train(), rows()
    table = reference.embeddings.word.weight
    others = [p for p in reference.parameters() if p is not table]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.01, "peak": 3e-3},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "peak": 3e-3},
        {"params": [table], "weight_decay": 0.0, "peak": 1.5e-3},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    total, step = 4 * BATCHES, 0
    warmup = int(np.ceil(0.1 * total))
    sampler = _LengthGrouped([len(row) for row in data.ids], Schedule(4, 8, 3e-3, 0.5), 0)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        order = list(sampler)
        for start in range(0, len(order), 8):
            for group in optimizer.param_groups:
                factor = step / warmup if step < warmup else (total - step) / (total - warmup)
                group["lr"] = group["peak"] * factor
            batch = collate(data, order[start : start + 8], 0)
            cross_entropy(reference(batch["input_ids"], batch["attention_mask"]), batch).backward()
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    assert facts["steps"] == step
    expected = weights(reference)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=2e-5, err_msg=name)


def test_sparse_gradients_are_brought_down_with_the_others(tmp_path: Path) -> None:
    """With plain SGD the weights say how far."""

    def sgd(trained: Any, schedule: Schedule) -> torch.optim.Optimizer:
        trained.get_input_embeddings().sparse = True
        return torch.optim.SGD(trained.parameters(), lr=0.5)

    def loss(output: Any, batch: Any) -> torch.Tensor:
        return 1e4 * cross_entropy(output, batch)

    start = model(0.0)
    before, data = weights(start), rows(8)
    ctx = tiny.context(tmp_path, Distill)
    schedule = Schedule(1, 8, 0.5, 1.0, warmup=0.0)
    train(start, data, data, text_classification.metric, loss, schedule, 0, ctx, optimizer=sgd)
    moved = sum(float(((value - before[name]) ** 2).sum()) for name, value in weights(start).items())
    assert moved**0.5 == pytest.approx(0.5 * LARGEST_NORM, rel=1e-3)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    found, facts = run(tmp_path, schedule=Schedule(8, 8, 1e-2, 1.0), dropout=0.0)
    assert len(facts["dev_by_epoch"]) == 8
    assert facts["dev_best"] == max(facts["dev_by_epoch"])
    assert facts["dev_best"] > 40  # of four labels
    assert facts["steps"] == 8 * BATCHES
    assert not np.array_equal(found["embeddings.word.weight"], weights(model())["embeddings.word.weight"])


def test_a_run_with_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "a")
    assert_equal(first, run(tmp_path / "b")[0])
    assert not np.array_equal(first["head.dense.weight"], run(tmp_path / "c", seed=1)[0]["head.dense.weight"])


@pytest.mark.parametrize("optimizer", [adamw, muon])
@pytest.mark.parametrize("steps", [3, BATCHES, BATCHES + 1, 2 * BATCHES + 5, 4 * BATCHES])
def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path, steps: int, optimizer: Any) -> None:
    whole, facts = run(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", kill_after=steps, optimizer=optimizer)
    resumed, facts_resumed = run(tmp_path / "killed", optimizer=optimizer)
    assert_equal(whole, resumed)
    assert facts == facts_resumed


def test_a_run_that_was_killed_twice_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, facts = run(tmp_path / "whole")
    for steps in (BATCHES + 2, BATCHES + 3):
        with pytest.raises(KilledError):
            run(tmp_path / "killed", kill_after=steps)
    resumed, facts_resumed = run(tmp_path / "killed")
    assert_equal(whole, resumed)
    assert facts == facts_resumed


def test_a_run_that_was_killed_when_it_was_all_but_over_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, facts = run(tmp_path)
    again, facts_again = run(tmp_path)
    assert_equal(whole, again)
    assert facts == facts_again


def test_a_checkpoint_that_a_kill_cut_off_is_ignored_and_deleted(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", kill_after=2 * BATCHES + 3)
    last = tmp_path / "killed" / f"checkpoint-{2 * BATCHES}"
    (last / COMPLETE).unlink()
    (last / "model.safetensors").write_bytes(b"half")
    resumed, facts = run(tmp_path / "killed")
    assert_equal(whole, resumed)
    assert facts["steps"] == 4 * BATCHES


def test_without_a_whole_checkpoint_training_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path / "killed", kill_after=BATCHES + 1)
    for folder in (tmp_path / "killed").glob("checkpoint-*"):
        (folder / COMPLETE).unlink()
        shutil.rmtree(folder / "optimizer.pt", ignore_errors=True)
    assert_equal(run(tmp_path / "whole")[0], run(tmp_path / "killed")[0])


@pytest.mark.parametrize(
    ("values", "best"), [([10, 50, 30, 40], 1), ([9, 8, 7, 6], 0), ([1, 2, 2, 2], 1), ([1, 2, 3, 4], 3)]
)
def test_the_best_epoch_on_dev_is_kept_the_first_of_equals(tmp_path: Path, values: list[float], best: int) -> None:
    trained = model()
    metric, seen = scripted(values, trained)
    found, facts = run(tmp_path, metric=metric, trained=trained)
    assert facts["dev_by_epoch"] == values
    assert facts["dev_best"] == max(values)
    assert_equal(found, seen[best])


def test_the_best_epoch_before_a_kill_is_kept_after_it(tmp_path: Path) -> None:
    trained = model()
    metric, seen = scripted([50, 30], trained)
    with pytest.raises(KilledError):
        run(tmp_path, kill_after=2 * BATCHES + 2, metric=metric, trained=trained)
    found, facts = run(tmp_path, metric=scripted([20, 10])[0])
    assert facts["dev_by_epoch"] == [50, 30, 20, 10]
    assert_equal(found, seen[0])


def patient(patience: int) -> Schedule:
    """Returns a schedule of six epochs that stops early."""
    return Schedule(6, 8, 3e-3, 0.5, patience=patience)


@pytest.mark.parametrize(
    ("values", "patience", "epochs"),
    [([5, 4, 9, 8, 7, 6], 2, 5), ([5, 5, 5, 9, 9, 9], 2, 3), ([1, 2, 3, 4, 5, 6], 1, 6), ([3, 2, 1, 1, 1, 1], 0, 6)],
)
def test_training_stops_after_epochs_without_a_better_one(
    tmp_path: Path, values: list[float], patience: int, epochs: int
) -> None:
    _, facts = run(tmp_path, schedule=patient(patience), metric=scripted(values)[0])
    assert facts["dev_by_epoch"] == values[:epochs]
    assert facts["steps"] == epochs * BATCHES


def test_a_kill_does_not_make_training_more_patient(tmp_path: Path) -> None:
    whole, facts = run(tmp_path / "whole", schedule=patient(2), metric=scripted([5, 4, 3, 9])[0])
    assert len(facts["dev_by_epoch"]) == 3
    with pytest.raises(KilledError):
        run(tmp_path / "killed", 2 * BATCHES + 1, patient(2), scripted([5, 4])[0])
    resumed, facts_resumed = run(tmp_path / "killed", schedule=patient(2), metric=scripted([3, 9])[0])
    assert facts_resumed == facts
    assert_equal(whole, resumed)


def test_a_kill_after_training_stopped_early_does_not_start_it_again(tmp_path: Path) -> None:
    whole, facts = run(tmp_path, schedule=patient(1), metric=scripted([5, 4, 9])[0])
    again, facts_again = run(tmp_path, schedule=patient(1), metric=scripted([9, 9, 9])[0])
    assert facts_again == facts
    assert_equal(whole, again)


def test_a_word_table_of_rate_zero_is_frozen(tmp_path: Path) -> None:
    found, _ = run(tmp_path, schedule=Schedule(1, 8, 1e-2, 0.0))
    before = weights(model())
    np.testing.assert_array_equal(found["embeddings.word.weight"], before["embeddings.word.weight"])
    assert not np.array_equal(found["embeddings.position.weight"], before["embeddings.position.weight"])


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_what_widens_a_factorised_word_table_trains_at_the_full_rate(tmp_path: Path, rate: float) -> None:
    start = model(0.0, word_rank=6)
    before = weights(start)
    # The first step of Adam moves weights by the learning rate, those of small gradients by less.
    found, facts = run(tmp_path, trained=start, schedule=Schedule(1, 64, 1e-3, rate, warmup=0.0))
    assert facts["steps"] == 1
    moved = {name: float(np.abs(found[name] - before[name]).max()) for name in found}
    assert moved["embeddings.words.weight"] == pytest.approx(1e-3, rel=0.02)
    assert moved["embeddings.word.weight"] == pytest.approx(rate * 1e-3, rel=0.02)


@pytest.mark.parametrize(("steps", "epochs"), [(0, 2), (16, 2), (17, 3), (24, 3), (25, 4)])
def test_a_small_data_set_gets_more_epochs(tmp_path: Path, steps: int, epochs: int) -> None:
    schedule = Schedule(2, 8, 1e-3, 0.0, min_steps=steps)
    assert schedule.epochs_on(len(rows().ids)) == epochs
    assert run(tmp_path, schedule=schedule)[1]["steps"] == epochs * BATCHES


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, schedule=Schedule(1, 8, 1e-3, 0.0))
    assert capfd.readouterr().out == ""


def test_merit_chooses_the_epoch_where_it_is_given(tmp_path: Path) -> None:
    merits = iter([0.1, 0.9, 0.3, 0.2])
    trained = model(0.0)
    seen: list[dict[str, np.ndarray]] = []

    def merit(logits: np.ndarray) -> float:
        seen.append(weights(trained))
        return next(merits)

    ctx = tiny.context(tmp_path, Distill)
    metric = scripted([4, 3, 2, 1])[0]
    facts = train(trained, rows(), rows(40, seed=1), metric, cross_entropy, SCHEDULE, 0, ctx, merit)
    assert facts["dev_by_epoch"] == [4, 3, 2, 1]
    assert (facts["dev_best"], facts["merit"]) == (3, 0.9)
    assert_equal(weights(trained), seen[1])


def test_training_stops_within_the_steps_that_it_may_take(tmp_path: Path) -> None:
    _, facts = run(tmp_path, schedule=Schedule(3, 8, 1e-3, 0.0, max_steps=2))
    assert facts["steps"] == 2
    assert len(facts["dev_by_epoch"]) == 1
