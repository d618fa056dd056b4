"""Calibration policies: the shipped files, what a wrong one says, and the draw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekit.calibration import Policy, draw, entropy_of, load_policy, shipped_policies
from edgekit.errors import RecipeError

GOOD = {"name": '"own"', "summary": '"s"', "rows": "10", "length_strata": "2", "class_balance": "true",
        "method": '"minmax"', "seed": "0"}  # fmt: skip


def write(folder: Path, **changes: str | None) -> str:
    """Writes a policy with some keys changed or (None) left out; returns its path."""
    values = GOOD | changes
    path = folder / "own.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in values.items() if value is not None))
    return str(path)


def policy(rows: int, strata: int = 4, balance: bool = True, seed: int = 0) -> Policy:
    return Policy("p", "", rows, strata, balance, "minmax", seed)


@pytest.mark.parametrize("name", sorted(shipped_policies()))
def test_a_shipped_policy_is_valid(name: str) -> None:
    assert load_policy(name).name == name


def test_the_default_and_moving_average_are_shipped() -> None:
    assert {"default", "minmax", "moving-average"} <= set(shipped_policies())


def test_a_policy_of_the_users_own_is_read_by_its_path(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path)) == Policy("own", "s", 10, 2, True, "minmax", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": "3"}, "unknown key 'row'; did you mean 'rows'"),
        ({"rows": None}, "key 'rows' is missing"),
        ({"rows": "1.5"}, "'rows' is 1.5; expected an integer"),
        ({"rows": "true"}, "'rows' is True; expected an integer"),
        ({"rows": "0"}, "'rows' is 0; it must be at least 1"),
        ({"length_strata": "-1"}, "'length_strata' is -1; it must be at least 1"),
        ({"name": '"default"'}, "'name' is 'default'; it must be the file's name, 'own'"),
        ({"class_balance": "1"}, "'class_balance' is 1; expected true or false"),
        ({"method": '"minmx"'}, "unknown method 'minmx'; did you mean 'minmax'"),
        ({"weight_method": '"mx"'}, "unknown weight_method 'mx'; did you mean 'max'"),
        ({"hard_share": "1.5"}, r"'hard_share' is 1.5; it must lie in \[0, 1\]"),
        ({"seed": '"0"'}, "'seed' is '0'; expected an integer"),
        ({"seed": "-1"}, "'seed'"),
        ({"seed": "}"}, "own.toml"),
    ],
)
def test_a_wrong_policy_says_what_is_wrong_and_where(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_policy(write(tmp_path, **changes))
    assert "own.toml" in str(caught.value)


def test_an_unknown_policy_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'defualt'; did you mean 'default'"):
        load_policy("defualt")
    with pytest.raises(RecipeError, match=r"nowhere\.toml"):
        load_policy(str(tmp_path / "nowhere.toml"))


def test_hard_rows_come_first_and_the_rest_is_even() -> None:
    lengths, classes = rows()
    hardness = np.random.default_rng(1).random(1000).tolist()
    mixed = Policy("p", "", 100, 4, True, "minmax", 0, 0.3)
    chosen = draw(lengths, classes, mixed, hardness)
    hardest = set(np.argsort(hardness)[-30:].tolist())
    assert len(chosen) == len(set(chosen)) == 100
    assert hardest <= set(chosen)
    rest = [lengths[i] for i in chosen if i not in hardest]
    quartiles = np.quantile(lengths, [0.25, 0.5, 0.75])
    assert np.bincount(np.searchsorted(quartiles, rest), minlength=4).min() >= 12
    with pytest.raises(ValueError, match="say how hard each is"):
        draw(lengths, classes, mixed)
    assert draw(lengths, classes, Policy("p", "", 20, 4, True, "minmax", 0, 1.0), hardness) == sorted(
        np.argsort(hardness)[-20:].tolist()
    )


def test_entropy_is_that_of_the_softmax() -> None:
    assert entropy_of(np.zeros((1, 4)))[0] == pytest.approx(np.log(4))
    assert entropy_of(np.array([[1000.0, 0.0]]))[0] == pytest.approx(0)


def rows(count: int = 1000, classes: int = 7) -> tuple[list[int], list[int]]:
    """Returns skewed lengths and skewed classes."""
    random = np.random.default_rng(0)
    lengths = random.geometric(0.1, size=count) + 2
    return lengths.tolist(), np.minimum(random.geometric(0.5, size=count) - 1, classes - 1).tolist()


@pytest.mark.parametrize("wanted", [1, 3, 7, 100, 999])
@pytest.mark.parametrize("strata", [1, 4, 13])
@pytest.mark.parametrize("balance", [True, False])
def test_as_many_rows_as_asked_are_drawn_once_each(wanted: int, strata: int, balance: bool) -> None:
    chosen = draw(*rows(), policy(wanted, strata, balance))
    assert len(chosen) == wanted
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < 1000


@pytest.mark.parametrize("count", [0, 1, 49, 50])
def test_all_rows_are_taken_where_there_are_no_more(count: int) -> None:
    lengths, classes = rows(count)
    assert draw(lengths, classes, policy(50)) == list(range(count))


@pytest.mark.parametrize("balance", [True, False])
def test_every_quantile_of_length_gives_as_many_rows(balance: bool) -> None:
    lengths = list(np.random.default_rng(1).permutation(1000))  # different ones, so that the quantiles are certain
    classes = [0] * 1000
    chosen = draw(lengths, classes, policy(100, 4, balance))
    assert Counter(lengths[i] // 250 for i in chosen) == {0: 25, 1: 25, 2: 25, 3: 25}


def test_classes_take_turns_so_that_rare_ones_are_seen() -> None:
    lengths = [5] * 1000
    classes = [0] * 970 + [1] * 20 + [2] * 10
    drawn = Counter(classes[i] for i in draw(lengths, classes, policy(60, 1)))
    assert drawn == {0: 30, 1: 20, 2: 10}
    assert Counter(classes[i] for i in draw(lengths, classes, policy(9, 1))) == {0: 3, 1: 3, 2: 3}
    unbalanced = Counter(classes[i] for i in draw(lengths, classes, policy(60, 1, balance=False)))
    assert unbalanced[0] > 50


def test_the_draw_depends_on_the_seed_alone() -> None:
    given = rows()
    assert draw(*given, policy(100)) == draw(*given, policy(100))
    assert draw(*given, policy(100)) != draw(*given, policy(100, seed=1))
    np.random.seed(3)
    assert draw(*given, policy(100)) == draw(*given, policy(100))
