"""Which form of the word table a search counts on, which rows texts need of it, and when it is cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tiny
from builds import write_target
from searches import GIVEN, search
from tokenizers import Tokenizer

from edgekit import data
from edgekit.artifact import LabelledData, TeacherOutline, TeacherOutputs, Vocabulary
from edgekit.search.limits import SMALLER, Forecast, Limits
from edgekit.search.structure import Structure
from edgekit.stages.outline import read_outline
from edgekit.stages.search import Search
from edgekit.stages.teach import Teach


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


def test_the_word_table_is_cut_only_where_a_file_would_be_too_large(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, _ = search(artifacts, tmp_path / "free", trainings=1, sweep=True)
    sizes = [point["foretold"]["file_bytes"] for point in free.facts["points"]]
    assert max(sizes) > min(sizes)

    def words(forecast: Forecast, limits: Limits, structure: Structure) -> Structure:
        large = forecast.file_bytes(structure) == max(sizes)
        return dataclasses.replace(structure, word_rows=40, word_rank=8) if large else structure

    monkeypatch.setattr("edgekit.stages.search.with_words", words)
    plan, _ = search(artifacts, tmp_path / "cut", trainings=1, sweep=True)
    made = [point["options"]["prune"] for point in plan.facts["points"]]
    assert [one["word_rank"] for one in made] == [8 if size == max(sizes) else 0 for size in sizes]
    assert [one["word_rows"] for one in made] == [40 if size == max(sizes) else 0 for size in sizes]


@pytest.mark.parametrize("coverage", [0.0, 1.0])
def test_rows_that_texts_need_are_those_of_all_that_students_learn_from_and_of_dev_as_far_as_it_is_covered(
    artifacts: dict[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coverage: float
) -> None:
    seen: list[Forecast] = []

    def words(forecast: Forecast, limits: Limits, structure: Structure) -> Structure:
        seen.append(forecast)
        return structure

    monkeypatch.setattr("edgekit.stages.search.with_words", words)
    (tmp_path / "more.jsonl").write_text('{"text": "zebra harbour pyramid"}\n')
    teach = Teach(views=2, unlabelled=str(tmp_path / "more.jsonl"))
    given = [artifacts[kind] for kind in teach.IN]
    artifacts = {**artifacts, TeacherOutputs: tiny.run_stage(teach, given, tmp_path / "outputs")}
    search(artifacts, tmp_path, given_options={**GIVEN, "trim": {"coverage": coverage}}, trainings=1)
    vocabulary, outputs = artifacts[Vocabulary], artifacts[TeacherOutputs]
    tokenizer = Tokenizer.from_file(str(vocabulary.tokenizer / "tokenizer.json"))
    dataset = data.read(artifacts[LabelledData].path)
    kept = [dataset.train[i][0] for i in outputs.rows]

    def read(*texts: str) -> set[int]:
        return {vocabulary.row_owners[token] for one in tokenizer.encode_batch(texts) for token in one.ids}

    special = {vocabulary.row_owners[token] for token in tokenizer.get_added_tokens_decoder()}
    needed = special | read(*kept, *outputs.unlabelled, *outputs.views)
    assert special | read(*kept) < special | read(*kept, *outputs.unlabelled) <= needed
    assert outputs.views
    if coverage:
        needed |= read(*(text for text, _ in dataset.dev))
    assert {forecast.needed_rows for forecast in seen} == {len(needed)}
    assert len(needed) < seen[0].rows
