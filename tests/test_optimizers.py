"""The students' optimizer: Muon by blocks against NumPy's singular values, rows that no batch reads, and resumption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trainings import model

from edgekit.optimizers import (
    COEFFICIENTS,
    LARGEST_BLOCK,
    MOMENTUM,
    OPTIMIZERS,
    RATE,
    RMS,
    STEPS,
    BlockMuon,
    CombinedOptimizer,
    block_of,
    muon,
    newton_schulz,
)
from edgekit.stages import distill
from edgekit.training import Schedule

SCHEDULE = Schedule(epochs=1, batch_size=8, learning_rate=1e-2, embedding_rate=0.5)


def turned(block: np.ndarray) -> np.ndarray:
    """Returns a matrix with the iteration's polynomial applied to its singular values, (rows, width), in float64."""
    left, values, right = np.linalg.svd(block.astype(np.float64), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(STEPS):
        values = sum(c * values ** (2 * power + 1) for power, c in enumerate(COEFFICIENTS))
    return np.asarray((left * values) @ right)


@pytest.mark.parametrize(
    ("shape", "axis", "parts", "block"),
    [
        ((3 * 96, 40), 0, 3, 48),  # query, key and value: a block is never of two of them
        ((40, 128), 1, 1, 64),
        ((61, 40), 0, 1, 61),
        ((24, 8), 0, 1, 24),  # more rows than it is wide
    ],
)
def test_a_step_is_that_of_singular_values_block_by_block(
    shape: tuple[int, int], axis: int, parts: int, block: int
) -> None:
    random = np.random.default_rng(0)
    start = random.normal(size=shape).astype(np.float32)
    gradients = [random.normal(size=shape).astype(np.float32) for _ in range(3)]
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = BlockMuon([(weight, axis, parts)], lr=0.01, weight_decay=0.1)
    expected, momentum = start.astype(np.float64), np.zeros(shape)
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        rows = ahead if axis == 0 else ahead.T
        step = np.concatenate([turned(rows[i : i + block]) for i in range(0, len(rows), block)])
        # Liu et al., equation 4: the root of the larger side of what is orthogonal, a block.
        size = 0.01 * RMS * max(block, rows.shape[1]) ** 0.5
        expected = expected * (1 - 0.01 * 0.1) - size * (step if axis == 0 else step.T)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=2e-5)


def test_steps_are_of_the_size_of_adamws_whatever_the_gradients() -> None:
    for size in (1e-6, 1.0, 1e6):
        weight = torch.nn.Parameter(torch.zeros(128, 96))
        weight.grad = size * torch.randn(128, 96, generator=torch.Generator().manual_seed(0))
        BlockMuon([(weight, 0, 1)], lr=1.0, weight_decay=0.0).step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(RMS, rel=0.25)


def test_singular_values_come_nearer_one_and_nothing_stays_nothing() -> None:
    blocks = torch.randn(4, 200, 32, generator=torch.Generator().manual_seed(0))
    blocks[3] = 0
    found = torch.linalg.svdvals(blocks @ newton_schulz(blocks.mT @ blocks))
    assert found[:3].min() > 0.65
    assert found[:3].max() < 1.25
    assert not found[3].any()


@pytest.mark.parametrize("count", [1, 31, 32, 61, 64, 67, 96, 192, 320, 384, 1536])
def test_a_block_is_the_largest_that_divides(count: int) -> None:
    block = block_of(count)
    assert count % block == 0
    assert block <= LARGEST_BLOCK
    assert not any(count % size == 0 for size in range(block + 1, min(count, LARGEST_BLOCK) + 1))


@pytest.mark.parametrize("rank", [0, 6])
def test_every_parameter_has_one_optimizer_and_words_that_no_batch_reads_stay(rank: int) -> None:
    student = model(0.0, word_rank=rank)
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    optimizer = muon(student, SCHEDULE)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in student.parameters())
    ids = torch.tensor([[5, 6, 7], [5, 8, 0]])
    student(ids, (ids > 0).long()).logits.square().sum().backward()
    optimizer.step()
    moved = {name: (value.detach() - before[name]).abs() for name, value in student.named_parameters()}
    table = moved.pop("embeddings.word.weight")
    read = torch.zeros(len(table), dtype=torch.bool)
    read[[5, 6, 7, 8]] = True
    assert not table[~read].any(), "padding has the last position of a row, which no head reads"
    assert table[read].max() == pytest.approx(SCHEDULE.learning_rate * SCHEDULE.embedding_rate, rel=0.02)
    products = [name for name in moved if name.startswith("layers.") and moved[name].ndim == 2]
    assert len(products) == 8
    for name in products:
        size = float(moved[name].square().mean().sqrt())  # less where few tokens leave gradients of low rank
        assert 0 < size < 1.25 * RATE * RMS * SCHEDULE.learning_rate


def test_a_frozen_word_table_has_no_optimizer() -> None:
    student = model()
    optimizer = muon(student, Schedule(1, 8, 1e-2, 0.0))
    table = student.embeddings.word
    assert not table.weight.requires_grad
    assert not table.sparse
    assert all(p is not table.weight for group in optimizer.param_groups for p in group["params"])


def test_stages_know_the_optimizers_that_there_are() -> None:
    assert tuple(OPTIMIZERS) == distill.OPTIMIZERS


def test_a_closure_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    muons = BlockMuon([(weight, 0, 1)], lr=1.0, weight_decay=0.0)
    for optimizer in (muons, CombinedOptimizer([muons])):
        with pytest.raises(NotImplementedError, match="closure"):
            optimizer.step(lambda: 0.0)


def test_a_schedule_sets_the_rates_of_all_also_after_a_checkpoint() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]

    def both() -> CombinedOptimizer:
        return CombinedOptimizer(
            [torch.optim.SGD([one], lr=rate) for one, rate in zip(weights, (1.0, 2.0), strict=True)]
        )

    first = both()
    saved = first.state_dict()
    second = both()
    second.load_state_dict(saved)
    for optimizer in (first, second):
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
        assert schedule.get_last_lr() == [0.5, 1.0]
        for one in weights:
            one.data.zero_()
            one.grad = torch.ones(2)
        optimizer.step()
        assert [float(one.detach()[0]) for one in weights] == [-0.5, -1.0]
