"""What a search tells its user beside the structure that it chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.quant.findings import Finding
from edgekit.search.estimate import Estimate, error_on_test, least_drop, rows_within
from edgekit.search.limits import Forecast, Limits
from edgekit.search.structure import Structure


def out_of_reach(forecast: Forecast, limits: Limits, cheapest: Structure) -> Finding:
    """Says how near the cheapest structure comes to the limits that it misses."""
    told, missed = forecast.foretold(cheapest), forecast.misses(cheapest, limits)
    said = ", ".join(f"{name} {told[name]:,.4g} against {getattr(limits, name):,.4g}" for name in missed)
    return Finding(
        "limits-out-of-reach",
        "structure",
        f"the cheapest structure there is ({cheapest}) is foretold to be beyond: {said}",
        "the gate will fail; this structure is built all the same, as the nearest",
        "a wider limit, or for the file's size fewer rows of the word table (trim.min_tokens, trim.coverage)",
    )


def too_far_behind(structure: Structure, behind: Estimate, limit: float, rows: int, judged: int) -> Finding:
    """Says how near the structure that was trained came to the allowed drop.

    Args:
        structure: the one that was chosen: the nearest to the teacher's answers, or cheaper and about as near.
        behind: its drop, as estimated.
        limit: the drop allowed, in points.
        rows: of dev.
        judged: rows of test that the gate goes by.
    """
    beyond, on_test = behind.drop > limit, error_on_test(behind.flipped, judged)
    few = "test" if on_test > behind.error else "dev"
    return Finding(
        "no-structure-within-drop",
        "structure",
        f"none that was trained is surely within it; the cheapest of the nearest ({structure}) is foretold "
        f"{behind.drop:.2f} points behind, with an error of {behind.error:.2f} on {rows:,} rows of dev and of "
        f"{on_test:.2f} on {judged:,} of test, against {limit:g} points allowed",
        f"the gate {'will probably' if beyond else 'may'} fail, or {few} has too few rows to tell; it is built anyway",
        f"more rows of {few}, a wider --max-drop, wider other limits, more text with --unlabelled",
    )


def few_rows(rows: int, limit: float, margin: float) -> Finding:
    """Says that dev is too small to show a drop as small as is allowed.

    Args:
        rows: of dev.
        limit: the drop allowed, in points.
        margin: standard errors that are kept from it otherwise.
    """
    needed = f"at least {rows_within(limit, margin):,} rows of dev" if limit > 0 else "a limit above 0 (--max-drop)"
    return Finding(
        "dev-too-small",
        "dev",
        f"{rows:,} rows cannot show a drop within {limit:g} points: a student that gives the teacher's answer to each "
        f"may be {least_drop(rows, margin):.2f} behind",
        "only such a student passes, and it may fail the gate all the same",
        needed,
    )


def knows_dev(facts: Mapping[str, Any], rows: int) -> bool:
    """Says whether a teacher answers dev as well as the rows that it was trained on.

    Of one that came with a train split that dev was then held out of, this says that it was trained on dev too.

    Args:
        facts: of the teacher's outputs: its accuracy on train and on dev, in percent.
        rows: of dev.
    """
    expected = rows * (1 - facts["accuracy_train"] / 100)
    return bool(rows * (1 - facts["accuracy_dev"] / 100) <= expected + 2 * expected**0.5)


def dev_known(facts: Mapping[str, Any], large: Structure) -> Finding:
    """Says that students are held against a large one, and why.

    Args:
        facts: of the teacher's outputs.
        large: the one that takes the teacher's place.
    """
    train, dev = facts["accuracy_train"], facts["accuracy_dev"]
    return Finding(
        "dev-known",
        "dev",
        f"the teacher answers {dev:.2f} % of it and {train:.2f} % of train: it was trained on these rows",
        f"students seem further behind than they are; they are held against a large one ({large})",
        "a dev split that the teacher was not trained on",
    )
