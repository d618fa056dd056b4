"""Figures foretold of structures, and the rungs that limits leave."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny
from cost_tables import table
from test_structure import outline

from edgekit.backends import Precision, Request, litert, load_backend
from edgekit.ir.config import EdgekitConfig
from edgekit.search.limits import (
    ROOM,
    ROW_BYTES,
    SMALLER,
    TAIL,
    Forecast,
    Limits,
    with_form,
    with_words,
)
from edgekit.search.shapes import UNITS, units
from edgekit.search.structure import Outline, Structure, alternatives, ladder, rungs
from edgekit.stages._students import extremes, random_student
from edgekit.stages._word_rows import words_bytes
from edgekit.target import load_target


def forecast(of: Outline | None = None, judged: bool = True, unit: str = "ms") -> Forecast:
    """Returns a forecast by a table of known prices."""
    of = of or wide()
    known = dataclasses.replace(table(), unit=unit)
    return Forecast(known, of, [5, 8, 8, 20], tokens=100, rows=100, needed_rows=100, positions=32, judged=judged)


def wide() -> Outline:
    """Returns an outline of the table's width."""
    setting = table().setting
    made = outline(layers=4, heads=4, ffn=64)
    return dataclasses.replace(made, hidden=setting.hidden, head_dim=setting.head_dim)


def test_costs_are_the_tables() -> None:
    made, structure = forecast(), Structure((1, 3), (2, 1), (16, 32))
    shape = made.shape(structure)
    assert made.cost(structure) == made.table.cost(shape, [5, 8, 8, 20])
    assert made.foretold(structure)["latency_p95_ms"] == TAIL * made.table.cost(shape, [19])


def test_the_95th_percentile_is_of_the_form_that_ships_for_typical_rows() -> None:
    """Of a table whose dynamic form is cheaper on short rows and dearer on long ones."""
    made, structure = forecast(), Structure((1, 3), (2, 1), (16, 32))
    shape = made.shape(structure)
    short, long = (units(shape, [length], None)[0][UNITS.index("products")] for length in (5, 32))
    prices = {"static": ("call", (short + long) / 2), "dynamic": ("products", 1.0)}
    fits = {
        family: dataclasses.replace(made.table.fits[family], coefficients=dict.fromkeys(UNITS, 0.0) | {unit: price})
        for family, (unit, price) in prices.items()
    }
    lengths = [5] * 18 + [32] * 2
    made = dataclasses.replace(made, table=dataclasses.replace(made.table, fits=fits), lengths=lengths)
    assert made.table.shipped(shape, lengths) == "dynamic"
    assert made.table.shipped(shape, [32]) == "static"
    assert made.foretold(structure)["latency_p95_ms"] == pytest.approx(TAIL * long)


def test_instructions_are_a_mean_and_estimates_are_not_foretold() -> None:
    structure = Structure((3,), (2,), (16,))
    counted = forecast(unit="instructions")
    assert counted.foretold(structure)["instructions"] == counted.cost(structure)
    assert set(forecast(judged=False).foretold(structure)) == {"file_bytes"}


def test_bytes_grow_by_what_a_layer_holds() -> None:
    made = forecast()
    one, two = Structure((3,), (2,), (16,)), Structure((1, 3), (2, 2), (16, 16))
    inner = 2 * made.outline.head_dim
    added = made.file_bytes(two) - made.file_bytes(one)
    weights = made.outline.hidden * (4 * inner + 2 * 16)
    assert weights < added < weights + 17 * (3 * inner + 16 + 2 * 32) + 20 * 32 + 7000


def test_a_limit_is_missed_before_it_is_reached() -> None:
    made, structure = forecast(), Structure((3,), (2,), (16,))
    size = made.file_bytes(structure)
    assert made.misses(structure, Limits(file_bytes=int(0.99 * size / ROOM))) == ["file_bytes"]
    assert made.misses(structure, Limits(file_bytes=int(1.01 * size / ROOM))) == []
    assert made.misses(structure, Limits()) == []


def large() -> Outline:
    """Returns an outline of a width at which products, not nodes, are most of the work."""
    return dataclasses.replace(outline(layers=4, heads=12, ffn=64), hidden=384, embedding=384, head_dim=32)


def test_without_limits_the_ladder_is_every_rung() -> None:
    of = large()
    assert ladder(of, 1, 8, lambda _: True) == [alternatives(of, work, 1, 8) for work in rungs(of, 1, 8)]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_limits_cut_the_ladder_off_as_dear_as_they_allow(share: float) -> None:
    of = large()
    bound = share * of.work(of.whole(range(4)))
    found = ladder(of, 1, 8, lambda one: of.work(one) <= bound)
    assert found
    assert all(of.work(one) <= bound for rung in found for one in rung)
    assert max(of.work(one) for one in found[0]) > 0.9 * bound
    works = [max(of.work(one) for one in rung) for rung in found]
    assert works == sorted(works, reverse=True)


def test_a_word_table_of_another_width_is_counted_as_it_is() -> None:
    """ELECTRA's tables are narrower than its layers: a product follows them."""
    of = dataclasses.replace(large(), hidden=256, embedding=128)
    setting = dataclasses.replace(table().setting, hidden=256, head_dim=32)
    made = dataclasses.replace(
        forecast(of), table=dataclasses.replace(table(), setting=setting), tokens=6000, rows=6000
    )
    structure = Structure((3,), (2,), (16,))
    even = dataclasses.replace(made, outline=dataclasses.replace(of, embedding=256))
    saved = even.file_bytes(structure) - made.file_bytes(structure)
    assert saved == 6000 * 128 - 128 * 256 + 4 * (32 + 2) * 128 - 17 * 256
    assert made.cost(structure) > even.cost(structure), "the product"
    assert with_words(made, Limits(file_bytes=1000), structure).word_rank == 32
    assert max(with_words(made, Limits(file_bytes=n), structure).word_rank for n in range(10_000, 10**6, 10_000)) <= 64


def test_multiples_that_leave_one_width_leave_a_rung_for_each_depth() -> None:
    found = ladder(outline(layers=2, heads=12, ffn=1536), 8, 1024)
    assert [one for rung in found for one in rung] == [
        Structure((0, 1), (8, 8), (1024, 1024)),
        Structure((1,), (8,), (1024,)),
    ]


def test_limits_that_nothing_meets_leave_no_rung() -> None:
    assert ladder(large(), 1, 8, lambda _: False) == []


def words(rows: int) -> tuple[Forecast, Structure]:
    """A student of one narrow layer whose tokenizer knows 20,000 tokens, so that its word table is nearly all of it."""
    setting = dataclasses.replace(table().setting, hidden=384, head_dim=32)
    known = dataclasses.replace(table(), setting=setting)
    made = dataclasses.replace(forecast(large()), table=known, tokens=20_000, rows=rows, needed_rows=rows)
    return made, Structure((3,), (2,), (16,))


def test_a_word_table_is_factorised_as_little_as_the_file_needs() -> None:
    made, structure = words(rows=20_000)  # each token has its own
    size = made.file_bytes(structure)
    assert with_words(made, Limits(file_bytes=2 * size), structure) == structure
    assert with_words(made, Limits(), structure) == structure
    for share in (0.5, 0.4):
        limits = Limits(file_bytes=int(share * size))
        found = with_words(made, limits, structure)
        assert 96 <= found.word_rank <= 192
        assert not made.misses(found, limits)
        wider = dataclasses.replace(found, word_rank=found.word_rank + 32)
        assert found.word_rank == 192 or made.misses(wider, limits)
    assert with_words(made, Limits(file_bytes=1000), structure).word_rank == 96, "the narrowest, where none is enough"


def test_a_smaller_form_is_taken_before_rows_are_cut() -> None:
    made, structure = words(rows=20_000)
    made = dataclasses.replace(made, word_forms=("int8", "int4-blocks"))
    whole = made.file_bytes(structure)
    halved = made.file_bytes(dataclasses.replace(structure, word_form="int4-blocks"))
    columns = made.outline.embedding
    assert whole - halved == 20_000 * (columns - ROW_BYTES["int4-blocks"](columns))
    assert with_words(made, Limits(file_bytes=2 * whole), structure) == structure
    found = with_words(made, Limits(file_bytes=int(halved / ROOM) + 1), structure)
    assert found == dataclasses.replace(structure, word_form="int4-blocks")
    assert "in int4-blocks" in str(found)
    cut = with_words(made, Limits(file_bytes=int(0.9 * halved)), structure)
    assert cut.word_form == "int4-blocks"
    assert 0 < cut.word_rows < 20_000 or cut.word_rank


def test_rows_that_no_text_reads_are_cut_before_a_smaller_form_is_taken() -> None:
    made, structure = words(rows=6_000)
    made = dataclasses.replace(made, needed_rows=3_548, word_forms=("int8", "int4-blocks"))
    whole = made.file_bytes(structure)
    for rows, form in ((5_500, ""), (4_000, ""), (3_500, "int4-blocks")):
        room = made.file_bytes(dataclasses.replace(structure, word_rows=rows))
        found = with_words(made, Limits(file_bytes=int(room / ROOM) + 1), structure)
        assert (found.word_rows, found.word_form) == (0 if form else rows, form)
    every = dataclasses.replace(made, needed_rows=6_000)
    found = with_words(every, Limits(file_bytes=int(0.99 * whole)), structure)
    assert (found.word_rows, found.word_form) == (0, "int4-blocks")


def test_a_table_that_is_cut_already_only_takes_a_smaller_form() -> None:
    made, structure = words(rows=20_000)
    made = dataclasses.replace(made, word_forms=("int8", "int4-blocks"))
    cut = dataclasses.replace(structure, word_rows=8000)
    size = made.file_bytes(cut)
    assert with_form(made, Limits(), cut) == with_form(made, Limits(file_bytes=2 * size), cut) == cut
    smaller = dataclasses.replace(cut, word_form="int4-blocks")
    assert with_form(made, Limits(file_bytes=size), cut) == smaller
    assert with_form(made, Limits(file_bytes=1000), cut) == smaller, "where none is small enough"


def test_where_words_share_rows_there_are_fewer_rows_before_there_are_fewer_columns() -> None:
    made, structure = words(rows=11_000)
    size = made.file_bytes(structure)
    assert with_words(made, Limits(file_bytes=2 * size), structure) == structure
    seen = set()
    for share in (0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0):
        limits = Limits(file_bytes=int(share * size))
        found = with_words(made, limits, structure)
        assert not made.misses(found, limits)
        assert (found.word_rows % 500, found.word_rank) == (0, 0)
        more = dataclasses.replace(found, word_rows=found.word_rows + 500)
        assert found.word_rows + 500 > made.rows or made.misses(more, limits)
        assert made.file_bytes(more) - made.file_bytes(found) == 500 * 384
        seen.add(found.word_rows)
    assert len(seen) > 8
    least = with_words(made, Limits(file_bytes=1000), structure)
    assert (least.word_rows, least.word_rank) == (2000, 96), "the smallest, where none is enough"
    between = with_words(made, Limits(file_bytes=made.file_bytes(dataclasses.replace(least, word_rank=160))), structure)
    assert between.word_rows == 2000
    assert 96 <= between.word_rank < 192


FORMS: dict[str, dict[str, object]] = {
    "whole": {},
    "factorised": {"word_rank": 32},
    "shared rows": {"word_rows": 1500},
    "narrow tables": {"embedding_size": 64},
    "bias by distance": {"positions": "relative-bias", "max_positions": 200},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("embedding", ["int8", "int8-rows", "int4-blocks"])
def test_the_file_is_as_large_as_foretold(tmp_path: Path, form: str, embedding: str) -> None:
    heads, ffn, tokens, labels = (3, 2, 4), (96, 64, 160), 5000, 20
    config = EdgekitConfig(
        vocab_size=tokens, hidden_size=128, head_dim=32, heads=list(heads), ffn=list(ffn), num_labels=labels,
        **{"embedding_size": 128, "max_positions": 64, **FORMS[form]},  # type: ignore[arg-type]
    )  # fmt: skip
    size = written(config, embedding, tmp_path)
    of = dataclasses.replace(
        outline(layers=3, heads=4, ffn=256), hidden=128, embedding=config.embedding_size, head_dim=32, labels=labels,
        relative=config.positions == "relative-bias",
    )  # fmt: skip
    made = dataclasses.replace(
        forecast(of), tokens=tokens, rows=tokens, positions=config.max_positions, word_forms=(embedding,)
    )
    structure = Structure((0, 1, 2), heads, ffn, config.word_rows, config.word_rank)
    assert made.file_bytes(structure) == pytest.approx(size, rel=0.03)


@pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")
@pytest.mark.parametrize("form", ["whole", "factorised", "shared rows"])
def test_a_file_that_carries_the_tokenizers_words_too_is_as_large_as_foretold(tmp_path: Path, form: str) -> None:
    heads, ffn, tokens, labels = (3, 2, 4), (96, 64, 160), 5000, 4
    config = EdgekitConfig(
        vocab_size=tokens, hidden_size=128, head_dim=32, heads=list(heads), ffn=list(ffn), num_labels=labels,
        **{"embedding_size": 128, "max_positions": 64, **FORMS[form]},  # type: ignore[arg-type]
    )  # fmt: skip
    written(config, "int8", tmp_path, "android")
    tokenizer = tiny.write_tokenizer(tmp_path / "tokenizer", tiny.wordpiece())
    request = Request((), (8,), 64, 0, tiny.LABELS, tokenizer, {}, {"sequence_length": "dynamic"})
    (tmp_path / "out").mkdir()
    size = litert.compile(tmp_path / "static.tflite", request, tmp_path / "out").bytes
    of = dataclasses.replace(
        outline(layers=3, heads=4, ffn=256), hidden=128, embedding=config.embedding_size, head_dim=32, labels=labels
    )
    made = dataclasses.replace(
        forecast(of), tokens=tokens, rows=tokens, positions=config.max_positions, carried_bytes=words_bytes(tokenizer)
    )
    structure = Structure((0, 1, 2), heads, ffn, config.word_rows, config.word_rank)
    # Its graph takes some twenty kilobytes more than an ONNX file's, which counts in a small one.
    assert made.file_bytes(structure) == pytest.approx(size, abs=25_000)


def written(config: EdgekitConfig, embedding: str, folder: Path, target: str = "x86-64") -> int:
    """Writes a random student statically quantized, as `quantize` does; returns the bytes of its file."""
    profile = load_target(target)
    backend, quant = load_backend(profile.runtime.name), profile.as_dict()["quant"]
    model, graph, out = random_student(config, 0), folder / f"float{backend.SUFFIX}", folder / f"static{backend.SUFFIX}"
    backend.export_student(model, "dynamic", config.max_positions, graph)
    rows = [np.arange(length) for length in (8, 24)]
    ranges = extremes(backend.activations(graph, backend.quantized_tensors(graph, quant["ops"]), rows, 0))
    precision = Precision(weight_method="max", embedding=embedding)
    scheme = next(one for one in backend.SCHEMES if one.family == "static")
    backend.quantize(graph, ranges, quant, scheme, precision, out)
    return out.stat().st_size


@pytest.mark.parametrize(("unit", "limit"), [("ms", "latency_p95_ms"), ("instructions", "instructions")])
def test_words_in_four_bits_have_their_price(unit: str, limit: str) -> None:
    """A limit between both prices is kept by a structure in eight bits and missed by the same one in four."""
    made, structure = words(rows=20_000)
    made = dataclasses.replace(made, table=dataclasses.replace(made.table, unit=unit))  # type: ignore[arg-type]
    packed = dataclasses.replace(structure, word_form=SMALLER)
    assert made.cost(packed) > made.cost(structure)
    between = Limits(**{limit: 1.005 * made.foretold(structure)[limit] / ROOM})
    assert made.misses(structure, between) == []
    assert made.misses(packed, between) == [limit]
