"""What a teacher's parts are worth: gates one row at a time, closed gates, and every set of layers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from builds import TinyBuild, made
from torch.nn import functional as F  # noqa: N812

from edgekit.artifact import Teacher, TeacherOutline, TeacherOutputs
from edgekit.inference import run_rows
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import keep_layers, keep_widths
from edgekit.search.estimate import divergence
from edgekit.stages import outline
from edgekit.stages.outline import Outlining, closing_loss, fisher, layers_by_depth, read_outline
from edgekit.stages.teach import load_teacher


@pytest.fixture(scope="module")
def teacher(tiny_build: TinyBuild) -> EdgekitForSequenceClassification:
    """Returns the tiny teacher in the IR."""
    return load_teacher(made(tiny_build, Teacher).path)[0]


@pytest.fixture(scope="module")
def rows(teacher: EdgekitForSequenceClassification) -> list[np.ndarray]:
    """Returns random rows of unequal length."""
    random = np.random.default_rng(0)
    return [random.integers(5, teacher.config.vocab_size, size=length) for length in (3, 9, 5, 5, 12, 7)]


def confident(answers: np.ndarray, classes: int) -> np.ndarray:
    """Returns logits so sure of the answers that a label drawn from them is the answer."""
    return np.where(np.eye(classes)[answers] > 0, 100.0, 0.0).astype(np.float32)


def test_scores_are_squared_derivatives_of_single_rows(
    teacher: EdgekitForSequenceClassification, rows: list[np.ndarray], tmp_path: Path
) -> None:
    classes = teacher.config.num_labels
    labels = np.arange(len(rows)) % classes
    heads, channels = fisher(teacher, rows, confident(labels, classes), 0, tiny.context(tmp_path, Outlining))
    layers = list(teacher.layers)
    for i, layer in enumerate(layers):
        expected_heads, expected_channels = np.zeros(layer.heads), np.zeros(teacher.config.ffn[i])
        for row, label in zip(rows, labels, strict=True):
            teacher.zero_grad()
            logits = teacher(torch.from_numpy(row)[None]).logits
            F.cross_entropy(logits, torch.tensor([label])).backward()
            # The derivative by a gate on a column is the sum of weight times gradient over that column.
            by_column = (layer.output.weight * layer.output.weight.grad).sum(0).detach()
            expected_heads += by_column.reshape(layer.heads, -1).sum(1).square().numpy()
            expected_channels += (layer.down.weight * layer.down.weight.grad).sum(0).detach().square().numpy()
        np.testing.assert_allclose(heads[i], expected_heads / len(rows), rtol=1e-3, atol=1e-12)
        np.testing.assert_allclose(channels[i], expected_channels / len(rows), rtol=1e-3, atol=1e-12)
    teacher.zero_grad()


def test_the_model_is_left_as_it_was(
    teacher: EdgekitForSequenceClassification, rows: list[np.ndarray], tmp_path: Path
) -> None:
    before = run_rows(teacher, rows, 0, lambda *_: None)
    fisher(teacher, rows, before, 0, tiny.context(tmp_path, Outlining))
    np.testing.assert_array_equal(run_rows(teacher, rows, 0, lambda *_: None), before)
    assert all(isinstance(layer.output.gate, torch.nn.Identity) for layer in teacher.layers)


def test_half_the_scores_foretell_what_a_closed_gate_costs(
    teacher: EdgekitForSequenceClassification, tmp_path: Path
) -> None:
    """To second order the divergence of a model without a head from the whole one is half the head's score."""
    random = np.random.default_rng(1)
    many = [random.integers(5, teacher.config.vocab_size, size=8) for _ in range(600)]
    recorded = run_rows(teacher, many, 0, lambda *_: None)
    heads, _ = fisher(teacher, many, recorded, 0, tiny.context(tmp_path, Outlining))
    foretold, found = [], []
    whole = [list(range(count)) for count in teacher.config.heads]
    channels = [list(range(count)) for count in teacher.config.ffn]
    for layer, head in itertools.product(range(len(whole)), range(whole[0][-1] + 1)):
        kept = [[h for h in every if (i, h) != (layer, head)] for i, every in enumerate(whole)]
        cut = keep_widths(teacher, kept, channels)
        foretold.append(heads[layer][head] / 2)
        found.append(divergence(recorded, run_rows(cut, many, 0, lambda *_: None)))
    assert np.corrcoef(np.log(np.array(foretold) + 1e-9), np.log(np.array(found) + 1e-9))[0, 1] > 0.5


def test_closing_loss_sums_the_worst_units() -> None:
    found = closing_loss(np.array([3.0, 1.0, 2.0]))
    np.testing.assert_allclose(found, [3.0, 1.5, 0.5, 0.0])


def test_layers_are_the_best_of_every_set(
    teacher: EdgekitForSequenceClassification, rows: list[np.ndarray], tmp_path: Path
) -> None:
    recorded = run_rows(teacher, rows, 0, lambda *_: None)
    found = layers_by_depth(teacher, rows, recorded, 0, tiny.context(tmp_path, Outlining))
    total = len(teacher.config.heads)
    assert sorted(found) == list(range(1, total + 1))
    assert found[total][1] == pytest.approx(0, abs=1e-6)
    distances = {
        layers: divergence(recorded, run_rows(keep_layers(teacher, layers), rows, 0, lambda *_: None))
        for layers in itertools.combinations(range(total), total - 1)
    }
    assert found[total - 1][0] == min(distances, key=lambda layers: distances[layers])
    for depth, (layers, distance) in found.items():
        assert len(layers) == depth
        again = divergence(recorded, run_rows(keep_layers(teacher, layers), rows, 0, lambda *_: None))
        assert distance == pytest.approx(again, abs=1e-6)


def test_the_stage_writes_an_outline_that_reads_back(tiny_build: TinyBuild, tmp_path: Path) -> None:
    given = [made(tiny_build, kind) for kind in Outlining.IN]
    written: TeacherOutline = tiny.run_stage(Outlining(rows=50, layer_rows=20), given, tmp_path)
    outline = read_outline(written.file)
    assert [len(row) for row in outline.head_loss] == [5] * 4
    assert all(row[-1] == 0 and list(row) == sorted(row, reverse=True) for row in outline.head_loss)
    assert set(outline.depths) == {1, 2, 3, 4}
    assert written.facts["layers_by_depth"]["4"] == [0, 1, 2, 3]


@pytest.mark.parametrize("option", ["rows", "layer_rows"])
def test_no_rows_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Outlining(**{option: 0})


def test_of_long_texts_a_draw_is_looked_at_and_not_the_first_of_the_file(
    tiny_build: TinyBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are often sorted by class."""
    seen: list[np.ndarray] = []

    def spied(wrapped: object) -> object:
        def spy(model: object, rows: list[np.ndarray], recorded: np.ndarray, *rest: object) -> object:
            assert len(rows) == len(recorded)
            seen.append(np.array(recorded))
            return wrapped(model, rows, recorded, *rest)  # type: ignore[operator]

        return spy

    monkeypatch.setattr(outline, "SHORT", 1)
    for name in ("fisher", "layers_by_depth"):
        monkeypatch.setattr(outline, name, spied(getattr(outline, name)))
    given = [made(tiny_build, kind) for kind in Outlining.IN]
    tiny.run_stage(Outlining(rows=80, layer_rows=40), given, tmp_path)
    every = np.load(made(tiny_build, TeacherOutputs).array("train", "logits"))
    assert [len(recorded) for recorded in seen] == [len(set(map(bytes, r))) for r in seen]
    for recorded in seen:
        places = [int(np.flatnonzero((every == row).all(axis=1))[0]) for row in recorded]
        assert len(places) < 40, "fewer of longer texts"
        assert np.median(places) > 0.15 * len(every)
        assert places != sorted(places)
