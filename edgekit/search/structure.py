"""Structures that a student may have, and the widths that lose least at a given cost.

A structure names the teacher's layers that the student copies and how many heads and FFN channels each keeps. Within a
set of layers the widths are a knapsack: every layer chooses one pair, losses and costs add up, and a dynamic program
over binned costs finds the least loss for every cost at once. Between sets of layers losses do not compare (a removed
layer is no removed channel), so a structure of each depth is kept, and short trainings tell them apart.

What a structure costs is here the work that it takes on any processor, in multiply-adds: the same structures then serve
every target, so that what is trained for one is found by the next. A target's own costs (`search.costs`) decide which
of them it takes.

Ref: Frantar and Alistarh 2022, SPDY (2201.13096), section 3.2 (the dynamic program); Shen et al. 2022, HALP
(2210.06659).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NODES = 600
"""Multiply-adds that the nodes of a layer beside its products are worth, for each token and dimension of the residual
stream: so many they are in instructions on Arm and in time on x86-64 alike (docs/log.md). The last layer's are fewer,
but the call, the embeddings and the head make up for that: they and it come to 500 to 800."""

ONE_ROW = 3.0
"""What a multiply-add of a product of one row takes beside one of many: its weights are read for that row alone."""

FACTOR = 1.4
"""Between the works of two rungs."""

HALVINGS = 8
"""Of the space between two rungs, to find the dearest one within limits."""

BINS = 400
"""Of the dynamic program's cost axis."""


@dataclass(frozen=True)
class Structure:
    """A student's structure.

    Attributes:
        layers: the teacher's layers that are copied, counted from 0, increasing.
        heads: attention heads that each keeps, at least 1.
        ffn: FFN channels that each keeps, at least 1.
        word_rows: rows that the word table is cut to; 0 for all.
        word_rank: columns that it is factorised to; 0 for all.
        word_form: that it is stored in (`edgekit.search.limits.ROW_BYTES`), where it is not that of the recipe.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    word_rows: int = 0
    word_rank: int = 0
    word_form: str = ""

    def __str__(self) -> str:
        layers = f"layer {self.layers[0]}" if len(self.layers) == 1 else f"layers {_listed(self.layers)}"
        sizes = [f"{self.word_rows} rows"] if self.word_rows else []
        sizes += [f"{self.word_rank} columns"] if self.word_rank else []
        words = f", word table{' of ' if sizes else ''}{' and '.join(sizes)}" if sizes or self.word_form else ""
        words += f" in {self.word_form}" if self.word_form else ""
        return f"{layers}, heads {_listed(self.heads)}, FFN {_listed(self.ffn)}{words}"


@dataclass(frozen=True)
class Outline:
    """What is known of a teacher before a student is trained (stage `outline`).

    Attributes:
        hidden: width of the residual stream.
        embedding: width of the word, position and type tables; where it is another, a product follows them.
        head_dim: of an attention head.
        labels: classes.
        tokens: of a typical row, its median length.
        head_loss: for each layer the loss when its k best heads stay, k = 0 … all; not increasing, ends in 0.
        channel_loss: the same of its FFN channels.
        depths: the layers that a student of that many copies.
        relative: whether each layer adds a bias by distance to its attention scores (MPNet).
    """

    hidden: int
    embedding: int
    head_dim: int
    labels: int
    tokens: int
    head_loss: tuple[tuple[float, ...], ...]
    channel_loss: tuple[tuple[float, ...], ...]
    depths: Mapping[int, tuple[int, ...]]
    relative: bool = False

    def whole(self, layers: Sequence[int]) -> Structure:
        """Returns the structure that keeps all of the given layers."""
        heads = tuple(len(self.head_loss[i]) - 1 for i in layers)
        return Structure(tuple(layers), heads, tuple(len(self.channel_loss[i]) - 1 for i in layers))

    def work(self, structure: Structure) -> float:
        """Returns the multiply-adds of one inference of a typical row, with what other nodes are worth.

        Of the last layer query, output projection and FFN run for the first token alone.
        """
        layers = [
            self.layer_work(heads, ffn, last=place == len(structure.layers) - 1)
            for place, (heads, ffn) in enumerate(zip(structure.heads, structure.ffn, strict=True))
        ]
        words = self.tokens * self.embedding * structure.word_rank + self.tokens * self.hidden * self.projected
        return sum(layers) + words + ONE_ROW * self.hidden * (self.hidden + self.labels)

    def share(self, structure: Structure) -> float:
        """Returns the work of a structure as a share of the whole teacher's."""
        return self.work(structure) / self.work(self.whole(range(len(self.head_loss))))

    @property
    def projected(self) -> int:
        """Inputs of the product that follows the tables; 0 where there is none."""
        return 0 if self.embedding == self.hidden else self.embedding

    def layer_work(self, heads: int, ffn: int, last: bool) -> float:
        """Returns the part of `work` that one layer adds."""
        width, rows = heads * self.head_dim, ONE_ROW if last else self.tokens
        products = self.hidden * (2 * width * self.tokens + (2 * width + 2 * ffn) * rows)
        return products + 2 * width * self.tokens * rows + NODES * self.hidden * self.tokens


def rungs(outline: Outline, head_multiple: int, ffn_multiple: int) -> list[float]:
    """Returns the works that structures are sought at, from that of the whole teacher down to the least there can be.

    Each is less by the same factor: what the next one saves is then worth as much everywhere. Between the widths that
    multiples leave there may be works without a structure (`alternatives`).
    """
    works = [outline.work(outline.whole(range(len(outline.head_loss))))]
    while any(
        best_widths(outline, layers, works[-1] / FACTOR, head_multiple, ffn_multiple)
        for layers in outline.depths.values()
    ):
        works.append(works[-1] / FACTOR)
    return works


def alternatives(outline: Outline, work: float, head_multiple: int, ffn_multiple: int) -> list[Structure]:
    """Returns the best structure of each depth on a rung, shallow ones first; of depths that can use the work."""
    found = (
        best_widths(outline, outline.depths[depth], work, head_multiple, ffn_multiple)
        for depth in sorted(outline.depths)
    )
    return [one for one in found if one is not None and outline.work(one) * FACTOR > work]


def ladder(
    outline: Outline,
    head_multiple: int,
    ffn_multiple: int,
    fits: Callable[[Structure], bool] = lambda _: True,
) -> list[list[Structure]]:
    """Returns the rungs of falling work, with those of their structures that fit.

    Where limits cut the ladder off, its first rung has of each depth what is as dear as they allow; where they leave
    nothing of it, the narrowest structures may still fit, whose work is not always a rung's.

    Returns:
        The structures of each rung, shallow ones first, at least one a rung; no rung where none fits.
    """
    works = rungs(outline, head_multiple, ffn_multiple)
    found = (
        _dearest(outline, outline.depths[depth], works, head_multiple, ffn_multiple, fits)
        for depth in sorted(outline.depths)
    )
    edge = [one for one in found if one is not None]
    top = max((outline.work(one) for one in edge), default=0.0)
    below = (alternatives(outline, work, head_multiple, ffn_multiple) for work in works if work < top)
    made = [[one for one in edge if outline.work(one) * FACTOR > top], *(list(filter(fits, rung)) for rung in below)]
    if not edge:
        least = (
            narrowest(outline, layers, head_multiple, ffn_multiple) for _, layers in sorted(outline.depths.items())
        )
        made = [list(filter(fits, least))]
    return [rung for place, rung in enumerate(made) if rung and rung not in made[:place]]


def between(
    outline: Outline, dearer: Structure, cheaper: Structure, head_multiple: int, ffn_multiple: int
) -> list[Structure]:
    """Returns structures whose work lies between those of two, as near the middle of the ratio as widths allow.

    One of the layers of either, the shallower first; none where multiples leave nothing in between.
    """
    least, middle = outline.work(cheaper), (outline.work(cheaper) * outline.work(dearer)) ** 0.5
    found = (
        best_widths(outline, layers, middle, head_multiple, ffn_multiple)
        for layers in sorted({dearer.layers, cheaper.layers}, key=len)
    )
    return [one for one in found if one is not None and outline.work(one) > least]


def narrowest(outline: Outline, layers: Sequence[int], head_multiple: int, ffn_multiple: int) -> Structure:
    """Returns the structure of the given layers that keeps least of each."""
    heads = (min(choices(len(outline.head_loss[layer]) - 1, head_multiple)) for layer in layers)
    ffn = (min(choices(len(outline.channel_loss[layer]) - 1, ffn_multiple)) for layer in layers)
    return Structure(tuple(layers), tuple(heads), tuple(ffn))


def _dearest(
    outline: Outline,
    layers: Sequence[int],
    works: Sequence[float],
    head_multiple: int,
    ffn_multiple: int,
    fits: Callable[[Structure], bool],
) -> Structure | None:
    """Returns the structure of these layers that takes most work of those that fit, or None where none does.

    Args:
        outline: of the teacher.
        layers: that the student copies.
        works: of the rungs, falling.
        head_multiple, ffn_multiple: as in `best_widths`.
        fits: whether a structure is within the limits; one of less work is where one of more is.
    """

    def fitting(work: float) -> Structure | None:
        one = best_widths(outline, layers, work, head_multiple, ffn_multiple)
        return one if one is not None and fits(one) else None

    place, best = next(((i, one) for i, work in enumerate(works) if (one := fitting(work))), (0, None))
    if place == 0:
        return best
    below, above = works[place], works[place - 1]
    for _ in range(HALVINGS):
        middle = (below * above) ** 0.5
        if (one := fitting(middle)) is not None:
            below, best = middle, one
        else:
            above = middle
    return best


def choices(whole: int, multiple: int) -> list[int]:
    """Returns the widths that a layer of `whole` units may keep: multiples, at most a dozen and a half, and all."""
    step = multiple * max(1, -(-whole // (multiple * 16)))
    return sorted({*range(step, whole + 1, step), *((whole,) if whole % multiple == 0 or whole < multiple else ())})


def best_widths(
    outline: Outline, layers: Sequence[int], work: float, head_multiple: int, ffn_multiple: int
) -> Structure | None:
    """Chooses the widths of the given layers that lose least within a bound of the work.

    Args:
        outline: of the teacher.
        layers: that the student copies.
        work: bound of `Outline.work`.
        head_multiple, ffn_multiple: what the target's kernels like counts to be multiples of.

    Returns:
        The structure, or None where even the narrowest one is beyond the bound.
    """
    smallest = outline.work(Structure(tuple(layers), (0,) * len(layers), (0,) * len(layers)))
    room = work - smallest
    if room <= 0:
        return None
    loss = np.zeros(BINS + 1)
    taken: list[np.ndarray] = []
    pairs: list[list[tuple[int, int]]] = []
    for place, layer in enumerate(layers):
        last = place == len(layers) - 1
        heads_of, channels_of = outline.head_loss[layer], outline.channel_loss[layer]
        options = [
            (heads, ffn)
            for heads in choices(len(heads_of) - 1, head_multiple)
            for ffn in choices(len(channels_of) - 1, ffn_multiple)
        ]
        bare = outline.layer_work(0, 0, last)
        # Rounded up, so that a structure that fits by bins fits by its work too.
        costs = np.array([np.ceil(BINS * (outline.layer_work(h, f, last) - bare) / room) for h, f in options])
        losses = np.array([heads_of[h] + channels_of[f] for h, f in options])
        total = np.full((BINS + 1, len(options)), np.inf)
        for index, cost in enumerate(costs):
            if cost <= BINS:
                total[int(cost) :, index] = loss[: BINS + 1 - int(cost)] + losses[index]
        taken.append(total.argmin(axis=1))
        pairs.append(options)
        loss = total.min(axis=1)
    if not np.isfinite(loss[BINS]):
        return None
    kept, left = list[tuple[int, int]](), BINS
    for place in reversed(range(len(layers))):
        heads, ffn = pairs[place][int(taken[place][left])]
        kept.append((heads, ffn))
        last = place == len(layers) - 1
        left -= int(np.ceil(BINS * (outline.layer_work(heads, ffn, last) - outline.layer_work(0, 0, last)) / room))
    kept.reverse()
    return Structure(tuple(layers), tuple(h for h, _ in kept), tuple(f for _, f in kept))


def _listed(values: Sequence[int]) -> str:
    return "/".join(str(value) for value in values)
