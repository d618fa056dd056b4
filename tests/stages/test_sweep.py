"""Which students a sweep trains: all rungs, small steps among the cheap ones, down to the narrowest, within limits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgekit.search.estimate import Estimate
from edgekit.search.structure import FACTOR, Outline, Structure, ladder, narrowest
from edgekit.stages._sweep import GAP, swept
from edgekit.stages._trainer import START, Trained

MULTIPLES = (1, 32)


class Untrained:
    """Stands for the search's trainer where nothing depends on what is learned: the shallowest is the nearest."""

    def best(self, rungs: Sequence[Sequence[Structure]], place: int) -> Structure:
        return rungs[place][0]

    def nearest(self, structures: Sequence[Structure]) -> Structure:
        return structures[0]

    def whole(self, structure: Structure) -> Trained:
        return Trained(structure, 1, {}, Estimate(0.0, 1.0, 0.0), 0.0, 0.0)


def outline() -> Outline:
    """Six layers of MiniLM's sizes, whose units matter less and less."""
    heads, channels = (tuple(float(x) for x in 0.9 ** np.arange(n + 1)) for n in (12, 1536))
    return Outline(
        hidden=384,
        embedding=384,
        head_dim=32,
        labels=20,
        tokens=11,
        head_loss=(heads,) * 6,
        channel_loss=(channels,) * 6,
        depths={depth: tuple(range(6 - depth, 6)) for depth in range(1, 7)},
    )


def swept_works(
    fitted: Callable[[Structure], Structure | None] = lambda one: one,
) -> tuple[list[Structure], list[float]]:
    """Returns what is trained where the search trained the fourth rung, and its work as a share of the teacher's."""
    of = outline()
    within = ladder(of, *MULTIPLES, lambda one: fitted(one) is not None)
    rungs = [[one for one in map(fitted, rung) if one is not None] for rung in within]
    trainer: Any = Untrained()
    found = swept(trainer, of, rungs, {3: trainer.whole(rungs[3][0])}, MULTIPLES, fitted)
    assert rungs[3][0] in [one.structure for one in found]
    return [one.structure for one in found], [of.share(one.structure) for one in found]


def test_steps_are_small_where_students_are_cheap_and_end_with_the_narrowest() -> None:
    structures, shares = swept_works()
    assert len(set(structures)) == len(structures)
    assert shares == sorted(shares, reverse=True)
    assert structures[-1] == narrowest(outline(), (5,), *MULTIPLES)
    cheap = [share for share in shares if share <= FACTOR * START]
    assert max(dearer / cheaper for dearer, cheaper in itertools.pairwise(cheap)) < FACTOR
    assert np.median([dearer / cheaper for dearer, cheaper in itertools.pairwise(cheap)]) < GAP
    assert structures[0] == ladder(outline(), *MULTIPLES)[0][0], "the dearest rung"
    dear = [one for one, share in zip(structures, shares, strict=True) if share > FACTOR * START]
    assert set(dear) <= {rung[0] for rung in ladder(outline(), *MULTIPLES)}, "which take long"


def test_what_does_not_fit_is_not_trained() -> None:
    def fitted(one: Structure) -> Structure | None:
        return dataclasses.replace(one, word_rows=7) if sum(one.ffn) > 300 else None

    structures, _ = swept_works(fitted)
    assert all(sum(one.ffn) > 300 for one in structures)
    assert all(one.word_rows == 7 for one in structures)
