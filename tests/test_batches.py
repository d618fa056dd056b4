"""Which rows a step takes, and how many steps a schedule makes of a data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekit.training import MEGA_BATCHES, MOST_EPOCHS, Rows, Schedule, _LengthGrouped, collate

BY_EIGHT = Schedule(1, 8, 1e-3, 0.0)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 8 * MEGA_BATCHES, 8 * MEGA_BATCHES + 1, 1003])
def test_every_row_is_seen_once_an_epoch(count: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=count)
    sampler = _LengthGrouped(lengths, BY_EIGHT, 5)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(count))
    assert len(sampler) == count
    assert count < 100 or orders[0] != orders[1] != orders[2]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = list(range(100))

    def order(seed: int, epoch: int) -> list[int]:
        np.random.seed(len(orders))
        torch.manual_seed(len(orders))
        sampler = _LengthGrouped(lengths, BY_EIGHT, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders: list[list[int]] = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        orders.append(order(seed, epoch))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_rows_of_a_batch_are_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=400)
    order = list(_LengthGrouped(lengths, BY_EIGHT, 0))
    spreads = [np.ptp(lengths[order[i : i + 8]]) for i in range(0, 400, 8)]
    assert max(spreads) <= 6


def test_a_batch_is_padded_and_brings_its_rows_arrays() -> None:
    given = Rows(
        [np.array([5, 6, 7]), np.array([8]), np.array([9, 10])],
        np.array([2, 0, 1]),
        {"teacher_logits": np.array([[1.0], [2.0], [3.0]], dtype=np.float16)},
    )
    batch = collate(given, [2, 0], pad_id=4)
    assert batch["input_ids"].tolist() == [[9, 10, 4], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [1, 2]
    assert batch["teacher_logits"].tolist() == [[3.0], [1.0]]
    assert batch["teacher_logits"].dtype == torch.float32


def test_a_pass_takes_each_text_once_as_it_is_or_as_a_view() -> None:
    texts, views = 40, 3
    sampler = _LengthGrouped([5] * texts * (1 + views), BY_EIGHT, 0, views)
    seen: set[int] = set()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == texts
        # Behind the texts stand the views of the first, those of the second, and so on.
        assert sorted(row if row < texts else (row - texts) // views for row in order) == list(range(texts))
        assert order == list(sampler), "the same whenever an epoch is begun"
        seen |= set(order)
    assert len(seen) > 0.9 * texts * (1 + views)


def test_a_pass_over_rows_with_views_is_as_long_as_one_without() -> None:
    many = Rows([np.zeros(3, dtype=np.int64)] * 30, np.zeros(30), views=2)
    assert many.texts == 10
    assert Schedule(1, 4, 1e-3, 0).texts_an_epoch(many.texts) == 10


@pytest.mark.parametrize(
    ("epochs", "least", "most", "made"),
    [
        (4, 0, 0, (4, 40)),
        (4, 60, 0, (6, 60)),
        (4, 55, 0, (6, 60)),
        (4, 0, 40, (4, 40)),
        (4, 0, 25, (3, 24)),
        (4, 60, 25, (3, 24)),
        (4, 0, 11, (2, 10)),
        (4, 0, 3, (1, 3)),
        (4, 0, 1, (1, 1)),
    ],
)
def test_steps_are_bounded_and_divided_evenly(epochs: int, least: int, most: int, made: tuple[int, int]) -> None:
    schedule = Schedule(epochs, 8, 1e-3, 0, min_steps=least, max_steps=most)
    assert (schedule.epochs_on(80), schedule.steps_on(80)) == made


@pytest.mark.parametrize("texts", [3, 80, 83, 1000, 9003])
@pytest.mark.parametrize("most", [10, 99, 100, 564, 846, 5714])
def test_a_bound_is_nearly_reached_whatever_a_pass_takes(texts: int, most: int) -> None:
    """Students that are compared after short trainings have had as many steps."""
    schedule = Schedule(10**6, 8, 1e-3, 0, max_steps=most)
    assert most - schedule.epochs_on(texts) < schedule.steps_on(texts) <= most
    assert schedule.epochs_on(texts) <= 2 * MOST_EPOCHS


@pytest.mark.parametrize(("texts", "steps"), [(20, 3000), (270, 3000), (30, 151), (1, 100), (3, 3000), (8, 3000)])
def test_an_epoch_of_few_texts_is_several_passes(texts: int, steps: int) -> None:
    schedule = Schedule(4, 10, 1e-3, 0.0, min_steps=steps)
    epochs, together = schedule.epochs_on(texts), schedule.texts_an_epoch(texts)
    assert MOST_EPOCHS <= epochs < 2 * MOST_EPOCHS
    assert together % texts == 0
    made = epochs * -(-together // 10)
    assert steps <= made <= 1.1 * steps + together / 10
    sampler = _LengthGrouped([5] * texts, schedule, 0)
    counts = np.bincount(list(sampler), minlength=texts)
    assert counts.tolist() == [together // texts] * texts, "each text as often as any other"


def test_an_epoch_is_as_many_texts_as_there_are_steps_for() -> None:
    texts, views = 1000, 2
    schedule = Schedule(5, 8, 1e-3, 0.0, max_steps=10)
    assert (schedule.epochs_on(texts), schedule.epochs_on(40)) == (1, 2)
    sampler = _LengthGrouped([5] * texts * (1 + views), schedule, 0, views)
    seen = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        seen.append({row if row < texts else (row - texts) // views for row in order})
        assert len(order) == len(sampler) == len(seen[-1]) == 80
    assert len(seen[0] & seen[1]) < 40, "others each time"
