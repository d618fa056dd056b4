"""Which students a sweep trains beside those of the search: the rungs of a ladder, and what lies between them.

Rungs are as far apart as a search may step; of students that near, chance on test beats half (docs/log.md). The cheap
ones, of which many are trained in the time of a dear one and whose drops differ, are taken closer together. The dearest
rung is trained too, though that takes minutes: a front that begins below it lacks the students that lose nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgekit.search.structure import FACTOR, Outline, Structure, between, narrowest
from edgekit.stages._trainer import START, Trained, Trainer

GAP = 1.25
"""Between the works of two students from which on one between them is trained, no dearer than a rung above `START`."""


def swept(
    trainer: Trainer,
    outline: Outline,
    rungs: Sequence[Sequence[Structure]],
    whole: Mapping[int, Trained],
    multiples: tuple[int, int],
    fitted: Callable[[Structure], Structure | None],
) -> list[Trained]:
    """Trains students whole.

    Args:
        trainer: of the search.
        outline: of the teacher.
        rungs: structures of falling work.
        whole: what the search trained, by its rung.
        multiples: of heads and FFN channels.
        fitted: gives a structure the word table that fits the limits; None where none does.

    Returns:
        All that there are now, by falling work, those of the search among them.
    """
    others = (trainer.whole(trainer.best(rungs, at)) for at in range(len(rungs)) if at not in whole)
    known = {one.structure: one for one in (*whole.values(), *others)}

    def add(candidates: Sequence[Structure]) -> Trained | None:
        """Trains the one of them that short trainings bring nearest; None where there is none that is new."""
        new = [one for one in map(fitted, candidates) if one is not None and one not in known]
        if not new:
            return None
        structure = trainer.nearest(new)
        known[structure] = trainer.whole(structure)
        return known[structure]

    def fill(dearer: Trained, cheaper: Trained) -> None:
        share = outline.share(dearer.structure)
        if share > FACTOR * START or share < GAP * outline.share(cheaper.structure):
            return
        middle = add(between(outline, dearer.structure, cheaper.structure, *multiples))
        if middle is not None:
            fill(dearer, middle)
            fill(middle, cheaper)

    cheapest = min(known, key=outline.work)
    add([narrowest(outline, cheapest.layers, *multiples)])
    ordered = _falling(outline, known.values())
    for dearer, cheaper in itertools.pairwise(ordered):
        fill(dearer, cheaper)
    return _falling(outline, known.values())


def _falling(outline: Outline, trained: Iterable[Trained]) -> list[Trained]:
    return sorted(trained, key=lambda one: outline.work(one.structure), reverse=True)
