"""Which heads and channels go: the choice against NumPy; and the loss that students are trained with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from builds import TinyBuild, made
from torch.nn import functional as F  # noqa: N812

from edgekit import data
from edgekit.artifact import LabelledData, Vocabulary
from edgekit.errors import RecipeError
from edgekit.inference import run_rows
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.stages.distill import distillation_loss, evenly_spaced
from edgekit.stages.prune import DEV_LOGITS, Prune, select
from edgekit.tokenization import encode, load_tokenizer


def scores(seed: int, widths: tuple[int, ...], scale: float = 1.0) -> list[np.ndarray]:
    """Returns random scores, those of each next layer `scale` times larger."""
    random = np.random.default_rng(seed)
    return [random.random(width) * scale**i for i, width in enumerate(widths)]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_counts_are_multiples_and_every_layer_keeps_some(share: float, multiple: int) -> None:
    for seed in range(20):
        kept = select(scores(seed, (12, 8, 31, 64)), share, multiple)
        for indices, width in zip(kept, (12, 8, 31, 64), strict=True):
            assert len(indices) >= multiple
            assert len(indices) % multiple == 0
            assert indices == sorted(set(indices))
            assert 0 <= indices[0] <= indices[-1] < width


def test_a_share_of_one_keeps_all_even_beside_the_multiple() -> None:
    assert select(scores(0, (12, 7, 33)), 1, 4) == [list(range(12)), list(range(7)), list(range(33))]


def test_the_kept_are_the_best_by_normalised_score_over_all_layers() -> None:
    layers = scores(3, (10, 20, 30), scale=1000)
    kept = select(layers, 0.4, 1)
    ranked = sorted(
        ((score / np.sqrt(np.sum(layer**2)), i, j) for i, layer in enumerate(layers) for j, score in enumerate(layer)),
        reverse=True,
    )
    best = {(i, j) for _, i, j in ranked[:24]}
    assert {(i, j) for i, indices in enumerate(kept) for j in indices} == best


def test_rounding_keeps_the_best_of_each_layer() -> None:
    layers = scores(5, (16, 16))
    for indices, layer in zip(select(layers, 0.4, 4), layers, strict=True):
        assert set(indices) == set(np.argsort(-layer)[: len(indices)])


def test_a_layer_whose_scores_are_all_zero_keeps_one_multiple() -> None:
    assert [len(indices) for indices in select([np.zeros(8), np.ones(8)], 0.5, 2)] == [2, 8]


def test_equal_scores_are_chosen_alike_every_time() -> None:
    assert select([np.ones(8), np.ones(8)], 0.5, 2) == select([np.ones(8), np.ones(8)], 0.5, 2)


def test_units_that_all_score_zero_are_not_kept_beyond_the_share() -> None:
    layers = [np.array([0.0, 1, 0, 0, 1, 0, 0, 0]), np.array([1.0, 0, 0, 0, 0, 0, 0, 1])]
    kept = select(layers, 0.5, 2)
    assert sum(map(len, kept)) == 8
    assert {1, 4} <= set(kept[0])
    assert {0, 7} <= set(kept[1])


def test_a_multiple_larger_than_a_layer_is_refused() -> None:
    with pytest.raises(RecipeError, match="multiples of 8, but a layer has 4"):
        select(scores(0, (16, 4)), 0.5, 8)


@pytest.mark.parametrize(
    "given",
    [{"heads": 0.0}, {"ffn": 1.5}, {"epochs": -1}, {"batch_size": 0}, {"temperature": 0.0}, {"optimizer": "sgd"}],
)
def test_impossible_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|positive|known: adamw, muon"):
        Prune(**given)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Computes it in float64."""
    shifted = x - x.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.7, 2.0, 0.1)])
def test_distillation_loss_equals_numpy(temperature: float, weights: tuple[float, float, float]) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(6, 4)) * 3, random.normal(size=(6, 4)) * 3
    states, wanted = random.normal(size=(6, 5, 8)), random.normal(size=(6, 5, 8))
    labels = random.integers(0, 4, size=6)
    p, q = log_softmax(theirs / temperature), log_softmax(ours / temperature)
    kl = temperature**2 * np.mean(np.sum(np.exp(p) * (p - q), axis=-1))
    mse = np.mean((states - wanted) ** 2)
    entropy = -np.mean(log_softmax(ours)[np.arange(6), labels])
    expected = weights[0] * kl + weights[1] * mse + weights[2] * entropy

    output = SimpleNamespace(logits=torch.tensor(ours), hidden_states=tuple(torch.tensor(states).unbind(1)))
    batch = {
        "teacher_logits": torch.tensor(theirs),
        "teacher_states": torch.tensor(wanted),
        "labels": torch.tensor(labels),
    }
    assert float(distillation_loss(temperature, *weights)(output, batch)) == pytest.approx(expected, abs=1e-9)


def test_the_soft_part_is_zero_where_the_student_answers_as_the_teacher() -> None:
    logits = torch.randn(3, 4)
    output = SimpleNamespace(logits=logits, hidden_states=())
    value = distillation_loss(2.0, 1.0, 0.0, 0.0)(output, {"teacher_logits": logits})
    assert float(value) == pytest.approx(0, abs=1e-7)
    assert float(F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64))) > 0


@pytest.mark.parametrize("total", range(1, 25))
def test_evenly_spaced_layers_end_with_the_last_and_differ_by_one_step_at_most(total: int) -> None:
    for kept in range(1, total + 1):
        layers = evenly_spaced(total, kept)
        assert len(layers) == kept
        assert layers[-1] == total - 1
        steps = np.diff([-1, *layers])
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


def test_evenly_spaced_layers_of_usual_sizes() -> None:
    assert evenly_spaced(12, 3) == [3, 7, 11]
    assert evenly_spaced(6, 3) == [1, 3, 5]
    assert evenly_spaced(6, 6) == [0, 1, 2, 3, 4, 5]


def test_a_student_deeper_than_its_teacher_is_refused() -> None:
    with pytest.raises(RecipeError, match="the teacher has 2 layers"):
        evenly_spaced(2, 3)


def test_a_student_is_trained_by_the_optimizer_that_is_named(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """Muon's steps are orthogonal: what they come to has no direction that is much larger than the others."""
    given = [made(tiny_build, kind) for kind in Prune.IN]

    def up(name: str, **options: Any) -> torch.Tensor:
        student = tiny.run_stage(Prune(heads=0.5, ffn=0.5, min_steps=0, **options), given, tmp_path / name)
        model = EdgekitForSequenceClassification.from_pretrained(student.path)
        return dict(model.named_parameters())["layers.0.up.weight"].detach()

    start = up("start", epochs=0)
    peaks = {}
    for optimizer in ("adamw", "muon"):
        moved = torch.linalg.svdvals(up(optimizer, epochs=1, optimizer=optimizer) - start)
        peaks[optimizer] = float(moved.max() / moved.square().mean().sqrt())
    assert peaks["muon"] < 0.8 * peaks["adamw"]


def test_widths_that_are_given_by_layer_are_what_is_left(tiny_build: TinyBuild, tmp_path: Path) -> None:
    given = [made(tiny_build, kind) for kind in Prune.IN]
    stage = Prune(layer_heads=(1, 3), layer_ffn=(40, 8), word_rows=50, word_rank=12, epochs=0)
    student = tiny.run_stage(stage, given, tmp_path)
    assert (student.facts["heads"], student.facts["ffn"], student.facts["word_rank"]) == ([1, 3], [40, 8], 12)
    found = EdgekitForSequenceClassification.from_pretrained(student.path)
    assert (found.config.heads, found.config.ffn, found.config.word_rank) == ([1, 3], [40, 8], 12)
    assert found.config.word_rows == student.facts["word_rows"] == 50 == len(found.embeddings.word.weight)
    dev = np.load(student.path / DEV_LOGITS)
    dataset = data.read(made(tiny_build, LabelledData).path)
    tokenizer = load_tokenizer(student.path, made(tiny_build, Vocabulary).max_length)
    rows = encode(tokenizer, [text for text, _ in dataset.dev])
    np.testing.assert_allclose(dev, run_rows(found, rows, found.config.pad_token_id, lambda *_: None), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer_heads": (1,), "layer_ffn": (8,)}, "is for 1 layers, the student has 2"),
        ({"layer_heads": (1, 9), "layer_ffn": (8, 8)}, "keeps 9 units of a layer that has 4"),
        ({"layer_heads": (1, 1), "layer_ffn": (8, 8), "word_rank": 32}, "the word table has 32 columns"),
    ],
)
def test_widths_that_do_not_fit_are_refused(
    tiny_build: TinyBuild, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    given = [made(tiny_build, kind) for kind in Prune.IN]
    with pytest.raises(RecipeError, match=said):
        tiny.run_stage(Prune(epochs=0, **options), given, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"layer_heads": (1, 0), "layer_ffn": (8, 8)},
        {"layer_heads": (1,), "layer_ffn": ()},
        {"layer_heads": (1,), "layer_ffn": (8,), "heads": 0.5},
        {"word_rank": -1},
        {"word_rows": -1},
        {"max_steps": -1},
    ],
)
def test_widths_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|keeps at least|give both|leave one out"):
        Prune(**options)
