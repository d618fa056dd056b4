"""Optimizers: AdamW; and Muon, with a sparse Adam for the word table, for students that are cut far.

A student takes thousands of steps of a few hundred tokens each. Dense gradients of its word table, most of whose rows a
batch does not read, take a quarter of such a step. And orthogonal steps bring the layers nearer the teacher than half
as many again of AdamW's (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgekit.ir.encoder import EdgekitForSequenceClassification, Layer
    from edgekit.training import Schedule

LARGEST_BLOCK = 64
"""Rows that are orthogonalised together at most: two heads of MiniLM. Whole matrices bring no more, and take longer."""

MOMENTUM = 0.95

RATE = 2.0
"""Times AdamW's learning rate that is right for the layers' matrices."""

RMS = 0.2
"""Root of the mean square that AdamW's steps have, as a share of the learning rate."""

STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
"""Of the iteration that brings singular values near 1. Three do as well in 2,500 steps of a student, not in 6,000."""

TINY = 1e-30
"""Added to squares: gradients may all be nothing."""


class BlockMuon(Optimizer):
    """Momentum whose steps are orthogonal, block by block of a matrix's heads or channels.

    A block's momentum is replaced by the nearest matrix whose singular values are all alike, of the size that a step of
    AdamW has: no direction waits until its gradients have become the large ones. By blocks that costs a part of what it
    does for the whole matrix, and a head's step depends on that of few others.

    Ref: Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon); the size of the steps by Liu et al. 2025
    (2502.16982), equation 4.

    Args:
        matrices: each with the axis that its heads or channels lie along, and how many parts it packs along it.
        lr: peak learning rate, in AdamW's terms.
        weight_decay: decoupled, as AdamW's.
    """

    def __init__(self, matrices: Iterable[tuple[Tensor, int, int]], lr: float, weight_decay: float) -> None:
        alike: dict[tuple[int, int, int], list[Tensor]] = {}
        for matrix, axis, parts in matrices:
            key = axis, block_of(matrix.shape[axis] // parts), matrix.shape[1 - axis]
            alike.setdefault(key, []).append(matrix)
        groups = [{"params": params, "axis": key[0], "block": key[1]} for key, params in alike.items()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes a step by the gradients that there are, which it overwrites.

        Raises:
            NotImplementedError: a closure is given; gradients are taken before.
        """
        _refuse(closure)
        for group in self.param_groups:
            moving = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not moving:
                continue
            blocks = [_blocks(self._ahead(matrix), group) for matrix in moving]
            across = group["axis"] == 0
            grams = [one @ one.mT if across else one.mT @ one for one in blocks]
            turns = newton_schulz(torch.cat(grams)).split([len(one) for one in blocks])
            size = math.sqrt(max(group["block"], moving[0].shape[1 - group["axis"]]))
            sizes = {"beta": 1 - group["lr"] * group["weight_decay"], "alpha": -group["lr"] * RMS * size}
            for matrix, block, turn in zip(moving, blocks, turns, strict=True):
                left, right = (turn, block) if across else (block, turn)
                _blocks(matrix, group).baddbmm_(left, right, **sizes)

    def _ahead(self, matrix: Tensor) -> Tensor:
        """Updates a matrix's momentum; returns it looked ahead, after Nesterov, in the gradient's place."""
        gradient = matrix.grad
        assert gradient is not None
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp_(momentum, MOMENTUM)


def _refuse(closure: object) -> None:
    if closure is not None:
        raise NotImplementedError("steps are taken by gradients that there are, not by a closure")


def block_of(count: int) -> int:
    """Returns the rows of a block: the most, up to `LARGEST_BLOCK`, that divide so many."""
    return max(size for size in range(1, min(count, LARGEST_BLOCK) + 1) if count % size == 0)


def _blocks(matrix: Tensor, group: dict[str, Any]) -> Tensor:
    """Returns a view of a matrix's blocks, (blocks, rows, width), or (blocks, width, rows) for those along axis 1."""
    if group["axis"] == 0:
        return matrix.view(-1, group["block"], matrix.shape[1])
    return matrix.view(matrix.shape[0], -1, group["block"]).transpose(0, 1)


def newton_schulz(grams: Tensor) -> Tensor:
    """Returns what matrices are multiplied by for singular values near 1, their singular vectors left as they are.

    Newton and Schulz's iteration, X <- (a + b X X^T + c (X X^T)^2) X from X over its norm, on the small matrices X X^T.

    Args:
        grams: X X^T of each X, (blocks, rows, rows); all zeros where X is.
    """
    first, second, third = COEFFICIENTS
    squares = grams.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + TINY
    gram = grams / squares
    total: Tensor | None = None
    for step in range(STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        factor.diagonal(dim1=-2, dim2=-1).add_(first)
        total = factor if total is None else total @ factor
        if step + 1 < STEPS:
            gram = factor @ gram @ factor
    assert total is not None
    return total / squares.sqrt()


class CombinedOptimizer(Optimizer):
    """Optimizers of different parameters as one, whose schedule and checkpoints are theirs.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share_groups()

    def _share_groups(self) -> None:
        """Makes the groups the parts' own: what a schedule sets is what they go by."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes a step with each.

        Raises:
            NotImplementedError: a closure is given; gradients are taken before.
        """
        _refuse(closure)
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of all."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the states of all."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def adamw(model: PreTrainedModel, schedule: Schedule) -> Optimizer:
    """Returns AdamW on all parameters, without decay on what is no matrix and on the word table."""
    table = model.get_input_embeddings().weight
    table.requires_grad_(schedule.embedding_rate > 0)
    groups = _decayed((p for p in model.parameters() if p.requires_grad and p is not table), schedule)
    if schedule.embedding_rate > 0:
        rate = schedule.learning_rate * schedule.embedding_rate
        groups.append({"params": [table], "weight_decay": 0.0, "lr": rate})
    # Fused: a step over a word table of 6,000 rows takes 6 ms, and 28 ms parameter by parameter.
    return AdamW(groups, lr=schedule.learning_rate, fused=True)


def muon(model: EdgekitForSequenceClassification, schedule: Schedule) -> Optimizer:
    """Returns Muon for the layers' matrices, Adam for the word table, and AdamW for all else.

    The word table's gradients become sparse, and rows that a batch does not read stay as they are.
    """
    table = model.embeddings.word
    table.weight.requires_grad_(schedule.embedding_rate > 0)
    matrices = list(_matrices(model))
    apart = {table.weight, *(matrix for matrix, _, _ in matrices)}  # tensors are hashed by identity
    rest = (p for p in model.parameters() if p.requires_grad and p not in apart)
    parts: list[Optimizer] = [
        BlockMuon(matrices, RATE * schedule.learning_rate, schedule.weight_decay),
        AdamW(_decayed(rest, schedule), lr=schedule.learning_rate, fused=True),
    ]
    if schedule.embedding_rate > 0:
        table.sparse = True
        parts.append(SparseAdam([table.weight], lr=schedule.learning_rate * schedule.embedding_rate))
    return CombinedOptimizer(parts)


OPTIMIZERS = {"adamw": adamw, "muon": muon}
"""By name."""


def _decayed(parameters: Iterable[nn.Parameter], schedule: Schedule) -> list[dict[str, Any]]:
    """Returns groups of parameters: matrices, which decay, and all else."""
    listed = list(parameters)
    return [
        {"params": [p for p in listed if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in listed if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _matrices(model: EdgekitForSequenceClassification) -> Iterable[tuple[Tensor, int, int]]:
    """Yields the products of the layers and the head's dense one: weights (outputs, inputs), the axis of their heads or
    channels, and how many of the same are packed."""
    layers: list[Layer] = list(model.layers)  # type: ignore[arg-type]  # a ModuleList forgets what it holds
    for layer in layers:
        yield layer.qkv.weight, 0, 3
        yield layer.output.weight, 1, 1
        yield layer.up.weight, 0, 1
        yield layer.down.weight, 1, 1
    yield model.head.dense.weight, 0, 1
