"""Lengths of .tflite inputs: open ones against torch at every length, fixed ones, and where positions lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from litert_graphs import (
    FEW,
    FORMS,
    LENGTH,
    MAX_LENGTH,
    PAD,
    expected_of,
    ranges_for,
    rows,
)
from test_onnxruntime import student

from edgekit.artifact import file_digest
from edgekit.backends import Precision, litert
from edgekit.backends import _litert_file as file
from edgekit.backends._litert_lengths import open_length
from edgekit.backends._litert_positions import position_axes
from edgekit.devices import ModelFile, TokenRows, connect
from edgekit.errors import StageContractError

pytestmark = pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "bert.tflite"
    litert.export_student(student("bert"), "buckets", MAX_LENGTH, path)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_any_length_are_run_as_long_as_they_are(name: str, tmp_path: Path) -> None:
    """In floats, and in both integer forms as where rows are filled up."""
    kind, changed = FORMS[name]
    model, paths = changed(student(kind)).eval(), {}
    for length in ("dynamic", "buckets"):
        paths[length] = tmp_path / f"{length}.tflite"
        litert.export_student(model, length, MAX_LENGTH, paths[length])
    graph = paths["dynamic"]
    assert [one.shape for one in litert.describe(graph).inputs] == [(1, "sequence")] * 3
    expected = expected_of(model)
    np.testing.assert_allclose(litert.logits(graph, rows(), PAD), expected, rtol=0, atol=1e-4)
    longer = tiny.token_rows(100, (LENGTH + 20,), seed=4)[0]
    cut = np.concatenate([longer[: LENGTH - 1], longer[-1:]])  # as a tokenizer cuts, the closing token last
    np.testing.assert_array_equal(litert.logits(graph, [longer], PAD), litert.logits(graph, [cut], PAD))
    ranges = ranges_for(litert, graph, FEW)
    for key, found in ranges_for(litert, paths["buckets"], FEW).items():
        np.testing.assert_allclose([ranges[key].low, ranges[key].high], [found.low, found.high], rtol=1e-3, atol=1e-5)
    assert litert.products(graph, "all") == litert.products(paths["buckets"], "all")
    for scheme in litert.SCHEMES:
        for length, path in paths.items():
            litert.quantize(path, ranges, FEW, scheme, Precision(), tmp_path / f"{length}-integers.tflite")
        opened, filled_up = (tmp_path / f"{length}-integers.tflite" for length in paths)
        found = litert.logits(opened, rows(), PAD)
        np.testing.assert_allclose(found, litert.logits(filled_up, rows(), PAD), rtol=0, atol=0.05 * expected.std())
        given = ModelFile(opened, file_digest(opened), PAD)
        np.testing.assert_allclose(connect("local").logits(given, TokenRows(rows()), 1, None), found, rtol=0, atol=1e-5)


def test_a_constant_that_depends_on_the_length_otherwise_is_named(bert: Path) -> None:
    model = file.read(bert)
    (add,) = [
        one for op, one in file.operators(model) if "embeddings.add" in file.name_of(file.outputs_of(model, one)[0])
    ]
    add.opcodeIndex = next(one.opcodeIndex for op, one in file.operators(model) if op == "MUL")
    with pytest.raises(StageContractError, match=r"MUL embeddings\.add has a constant as long as the input"):
        open_length(model, LENGTH)


def test_a_length_that_is_asked_for_is_taken_and_longer_rows_are_refused(tmp_path: Path) -> None:
    litert.export_student(student("bert"), 24, MAX_LENGTH, tmp_path / "m.tflite")
    assert litert.describe(tmp_path / "m.tflite").inputs[0].shape == (1, 24)
    with pytest.raises(StageContractError, match="a row has 29 tokens, but the model's input takes 24"):
        litert.logits(tmp_path / "m.tflite", rows(), PAD)
    with pytest.raises(ValueError, match="the model has 64 positions"):
        litert.export_student(student("bert"), "buckets", 65, tmp_path / "x.tflite")
    assert not (tmp_path / "x.tflite").exists()


def test_the_longest_row_is_rounded_up_to_no_more_than_there_are_positions(tmp_path: Path) -> None:
    from edgekit.backends._litert_export import input_length

    assert [input_length("buckets", longest, 60) for longest in (8, 9, 57, 60)] == [8, 16, 60, 60]
    assert input_length(23, 9, 60) == 23


def test_positions_are_found_where_other_sizes_are_the_same(tmp_path: Path) -> None:
    """Here 32 is the input's length, the hidden width, and heads times their width."""
    litert.export_student(student("bert"), 32, 32, tmp_path / "m.tflite")
    axes = position_axes(file.read(tmp_path / "m.tflite"), 32)
    assert set(axes["embeddings.norm.add"]) == {-2}
    assert set(axes["layers.0.softmax"]) == {-1, -2}
    assert set(axes["layers.0.reshape"]) == {-3}
    assert set(axes["layers.3.softmax"]) == {-1}
    assert "layers.3.ffn_norm.add" not in axes
