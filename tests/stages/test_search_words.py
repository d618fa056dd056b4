"""Which form of the word table a search counts on, and that a table which the recipe cuts stays as it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builds import write_target
from searches import GIVEN, search

from edgekit.artifact import TeacherOutline, Vocabulary
from edgekit.search.limits import SMALLER
from edgekit.stages.outline import read_outline
from edgekit.stages.search import Search


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (1.0, ("int8", "int4-blocks"))),
        ({"embedding": "int8"}, (1.0, ("int8",))),
        ({"embedding": "int8-rows"}, (1.0, ("int8-rows",))),
        ({"embedding": "int4-blocks"}, (1.0, ("int4-blocks",))),
        ({"scheme": "weight-only-int4"}, (0.625, ("int8-rows", "int4-blocks"))),
        ({"scheme": "weight-only", "embedding": "int4-blocks"}, (1.125, ("int4-blocks",))),
        ({"scheme": "dynamic-int8"}, (1.0, ("int8", "int4-blocks"))),
    ],
)
def test_sizes_are_those_of_the_form_that_the_recipe_names(
    options: dict[str, str], sizes: tuple[float, tuple[str, ...]]
) -> None:
    found = Search().knowing({"quantize": options})
    assert (found.weight_bytes, found.word_forms) == sizes


def test_a_word_table_takes_fewer_bits_where_the_file_would_be_too_large(
    artifacts: dict[Any, Any], tmp_path: Path
) -> None:
    roomy = str(write_target(tmp_path / "roomy.toml"))
    plan, _ = search(artifacts, tmp_path / "roomy", roomy, trainings=1)
    assert "quantize" not in plan.options
    (whole,) = (one["foretold"]["file_bytes"] for one in plan.facts["points"])
    tight = str(write_target(tmp_path / "tight.toml", ("file_bytes = 33554432", f"file_bytes = {int(whole)}")))
    plan, _ = search(artifacts, tmp_path / "tight", tight, trainings=1)
    assert plan.options["quantize"] == {"embedding": SMALLER}


def test_a_word_table_that_is_not_quantized_takes_four_bytes_an_entry(
    artifacts: dict[Any, Any], tmp_path: Path
) -> None:
    products = str(write_target(tmp_path / "products.toml", ('ops = ["Gemm", "Gather"]', 'ops = ["Gemm"]')))
    (every, _), (some, _) = (
        search(artifacts, tmp_path / name, target, trainings=1)
        for name, target in (("all", "x86-64"), ("some", products))
    )
    (least,), (most,) = ([one["foretold"]["file_bytes"] for one in plan.facts["points"]] for plan in (every, some))
    words = artifacts[Vocabulary].row_owners
    columns = read_outline(artifacts[TeacherOutline].file).embedding
    assert most - least == pytest.approx(3 * len(set(words)) * columns, rel=0.02)


def test_a_word_table_that_is_given_is_that_of_every_structure(artifacts: dict[Any, Any], tmp_path: Path) -> None:
    plan, _ = search(
        artifacts, tmp_path, given_options={**GIVEN, "prune": {**GIVEN["prune"], "word_rank": "8"}}, trainings=1
    )
    assert plan.facts["structure"].endswith("word table of 8 columns")
    rows = {**GIVEN, "prune": {**GIVEN["prune"], "word_rows": "40"}}
    plan, _ = search(artifacts, tmp_path / "rows", given_options=rows, trainings=1)
    assert plan.facts["structure"].endswith("word table of 40 rows")
