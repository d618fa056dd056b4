"""Widths within a bound of work: against every combination there is, and what rungs promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgekit.search.structure import (
    FACTOR,
    Outline,
    Structure,
    alternatives,
    best_widths,
    between,
    choices,
    ladder,
    narrowest,
    rungs,
)


def outline(seed: int = 0, layers: int = 3, heads: int = 4, ffn: int = 16) -> Outline:
    """Returns random losses that fall as more stays."""
    random = np.random.default_rng(seed)

    def falling(units: int) -> tuple[float, ...]:
        scores = np.sort(random.random(units) ** 3)
        return tuple(float(x) for x in [*scores.cumsum()[::-1], 0.0])

    return Outline(
        hidden=32,
        embedding=32,
        head_dim=8,
        labels=5,
        tokens=10,
        head_loss=tuple(falling(heads) for _ in range(layers)),
        channel_loss=tuple(falling(ffn) for _ in range(layers)),
        depths={depth: tuple(range(layers - depth, layers)) for depth in range(1, layers + 1)},
    )


def loss(of: Outline, structure: Structure) -> float:
    """Sums what the structure's widths lose."""
    parts = zip(structure.layers, structure.heads, structure.ffn, strict=True)
    return sum(of.head_loss[layer][heads] + of.channel_loss[layer][ffn] for layer, heads, ffn in parts)


@pytest.mark.parametrize("seed", range(5))
def test_widths_lose_hardly_more_than_the_best_of_all_combinations(seed: int) -> None:
    given = outline(seed)
    layers = (0, 2)
    pairs = [(h, f) for h in (1, 2, 3, 4) for f in (4, 8, 12, 16)]
    every = [
        Structure(layers, (a[0], b[0]), (a[1], b[1])) for a, b in itertools.product(pairs, pairs)
    ]  # every structure that the multiples allow
    smallest, largest = (f(given.work(one) for one in every) for f in (min, max))
    for share in (0.05, 0.3, 0.6, 0.9):
        bound = smallest + share * (largest - smallest)
        found = best_widths(given, layers, bound, 1, 4)
        assert found is not None
        assert given.work(found) <= bound
        fits = [loss(given, one) for one in every if given.work(one) <= bound]
        # Costs are rounded up to bins of a four-hundredth: what fits to the last percent may be passed over.
        nearly = [loss(given, one) for one in every if given.work(one) <= smallest + 0.97 * (bound - smallest)]
        assert min(fits) <= loss(given, found) <= min(nearly) + 1e-9


def test_a_bound_below_the_narrowest_structure_has_none() -> None:
    given = outline()
    least = Structure((1,), (2,), (8,))
    assert narrowest(given, (1,), 2, 8) == least
    assert best_widths(given, (1,), 0.99 * given.work(least), 2, 8) is None
    assert best_widths(given, (1,), 1.0001 * given.work(least), 2, 8) == least


def test_between_two_structures_lie_those_of_either_ones_layers() -> None:
    given = outline(layers=4, heads=12, ffn=64)
    dearer, cheaper = Structure((1, 2, 3), (12, 12, 12), (64, 64, 64)), Structure((2, 3), (6, 6), (32, 32))
    found = between(given, dearer, cheaper, 2, 8)
    assert [one.layers for one in found] == [cheaper.layers, dearer.layers]
    middle = (given.work(dearer) * given.work(cheaper)) ** 0.5
    assert all(given.work(cheaper) < given.work(one) <= middle for one in found)
    least = narrowest(given, (3,), 2, 8)
    assert between(given, least, least, 2, 8) == []
    assert given.share(given.whole(range(4))) == 1.0
    assert given.share(least) == pytest.approx(given.work(least) / given.work(given.whole(range(4))))


def test_the_last_layer_is_charged_for_one_row() -> None:
    given = outline()
    one = given.work(Structure((1,), (2,), (8,)))
    assert given.work(Structure((0, 1), (2, 2), (8, 8))) - one > given.layer_work(2, 8, last=True)


@pytest.mark.parametrize(("whole", "multiple"), [(12, 2), (1536, 32), (3072, 128), (7, 2), (1, 2), (12, 1)])
def test_choices_are_multiples_and_end_in_all(whole: int, multiple: int) -> None:
    found = choices(whole, multiple)
    assert found
    assert all(1 <= one <= whole for one in found)
    assert found == sorted(set(found))
    assert len(found) <= 17
    if whole % multiple == 0:
        assert found[-1] == whole
        assert all(one % multiple == 0 for one in found)


def test_rungs_fall_by_a_factor_and_each_has_a_structure_that_uses_it() -> None:
    given = outline(layers=4, heads=12, ffn=64)
    works = rungs(given, 2, 8)
    assert works[0] == given.work(given.whole(range(4)))
    for before, work in itertools.pairwise(works):
        assert before / work == pytest.approx(FACTOR)
    for work in works:
        for structure in alternatives(given, work, 2, 8):
            assert work / FACTOR < given.work(structure) <= work
            assert structure.layers == given.depths[len(structure.layers)]
    assert not alternatives(given, works[-1] / FACTOR, 2, 8)


def test_where_no_rung_fits_the_narrowest_structures_do() -> None:
    """One head and four channels in each layer: of so narrow a teacher a rung's work leaves more than that."""
    given = outline()
    small = {depth: narrowest(given, layers, 1, 4) for depth, layers in given.depths.items()}
    assert not any(one in rung for rung in ladder(given, 1, 4) for one in small.values())
    assert ladder(given, 1, 4, lambda one: sum(one.heads) + sum(one.ffn) <= 2 * (1 + 4)) == [[small[1], small[2]]]
    assert ladder(given, 1, 4, lambda _: False) == []


def test_a_structure_says_what_it_is() -> None:
    assert str(Structure((1, 5), (6, 4), (384, 128))) == "layers 1/5, heads 6/4, FFN 384/128"
    assert str(Structure((5,), (6,), (384,))) == "layer 5, heads 6, FFN 384"
