"""The ladder on a model of its own: errors that are known, so that the smallest set is known too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from edgekit.search.fallback import climb, order
from edgekit.search.trials import Trial, listed, needed, spoken

ERRORS = {"a": 1.0, "b": 16.0, "c": 4.0, "d": 0.25}
WEIGHTS = {"a": 10, "b": 100, "c": 10, "d": 1}


def trial(keep_float: Sequence[str], score: float = 0.0) -> Trial:
    """A trial whose squared error is the sum over the products in integers."""
    error = sum(value for name, value in ERRORS.items() if name not in keep_float)
    return Trial("t", "static", "s", "minmax", False, tuple(keep_float), "f", error**0.5, 0.0, score, 1, "1.17")


def test_products_are_ordered_by_error_per_weight() -> None:
    alone = {name: trial([name]) for name in ERRORS}
    assert order(trial([]), alone, WEIGHTS) == ["c", "d", "b", "a"]  # 0.4, 0.25, 0.16, 0.1 a weight


def test_products_whose_reversion_does_harm_come_last() -> None:
    alone = {"a": trial(["a"]), "b": trial([])}
    assert order(trial([]), alone, {"a": 1, "b": 1}) == ["a", "b"]


def test_the_ladder_ends_where_the_score_is_enough() -> None:
    tried = []

    def attempt(keep_float: Sequence[str]) -> Trial:
        tried.append(tuple(keep_float))
        return trial(keep_float, 90 + 2 * len(keep_float))

    assert climb(attempt, ["c", "d", "b", "a"], 94).keep_float == ("c", "d")
    assert tried == [("c",), ("c", "d"), ("d",), ("c",)], "and each is tried without"


def test_what_turned_out_not_to_be_needed_goes_back_to_integers() -> None:
    def attempt(keep_float: Sequence[str]) -> Trial:
        return trial(keep_float, 95.0 if "b" in keep_float else 90.0)

    assert climb(attempt, ["c", "d", "b", "a"], 94).keep_float == ("b",)


def test_errors_that_cancel_each_other_are_got_over() -> None:
    """b and d are wrong in opposite directions: either alone in float is worse than none, both together are right."""

    def attempt(keep_float: Sequence[str]) -> Trial:
        error = abs(("b" not in keep_float) * 3.0 - ("d" not in keep_float) * 3.0) + ("a" not in keep_float) * 1.0
        spoilt = 1.0 + error - (0.5 if {"b", "d"} <= set(keep_float) else 0.0)
        return dataclasses.replace(trial(keep_float, 100 - spoilt), logit_rmse=spoilt)

    alone = {name: attempt([name]) for name in ERRORS}
    ordered = order(attempt([]), alone, WEIGHTS)
    assert ordered[0] == "a"
    assert set(ordered[-2:]) == {"b", "d"}
    assert set(climb(attempt, ordered, 99.5).keep_float) == {"a", "b", "d"}


def test_a_ladder_that_never_gets_there_gives_its_best_rung() -> None:
    assert climb(lambda keep: trial(keep, 50.0), ["c", "d"], 94).keep_float == ("c",)
    assert climb(lambda keep: trial(keep, 50.0 + len(keep)), ["c", "d"], 94).keep_float == ("c", "d")


@pytest.mark.parametrize(
    ("product", "words"),
    [
        ("layers.3.up", "layer 3 FFN up"),
        ("layers.0.qkv", "layer 0 query, key and value"),
        ("head.dense", "head dense"),
        ("embeddings.projection", "embeddings projection"),
    ],
)
def test_products_are_named_in_words(product: str, words: str) -> None:
    assert spoken(product) == words
    assert listed([product] * 5) == f"{words}, {words}, {words} and 2 more"


def test_the_score_that_is_needed() -> None:
    assert needed(teacher=93.0, floats=92.0, max_drop=1.5, max_loss=0.5) == 91.5
    assert needed(teacher=93.0, floats=91.0, max_drop=1.5, max_loss=0.5) == 90.5, "no precision meets the limit"
