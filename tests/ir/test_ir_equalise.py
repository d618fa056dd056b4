"""Divisions of products' inputs: the float model answers the same, and outlier channels stop ruining its integers."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_encoder import uneven
from test_lean import assert_lean_equals
from test_surgery import logits_of

from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.equalise import (
    can_divide,
    divide,
    fold_outliers,
    is_free,
    migration,
    products,
    with_multipliers,
)
from edgekit.ir.simulate import integers, one_rounded, watch
from edgekit.ir.surgery import keep_layers, keep_widths

GELU = {"embedding_size": 12}
WORDS = {"word_rank": 9}
RELU = {"activation": "relu", "positions": "relative-bias", "type_vocab_size": 0}


def names(model: EdgekitForSequenceClassification, free: bool | None = None) -> list[str]:
    """Names the products whose input can be divided; only the free ones, or the others."""
    found = [name for name, _ in products(model) if can_divide(model.config, name)]
    return [name for name in found if free is None or is_free(model.config, name) is free]


def divisor_for(model: EdgekitForSequenceClassification, name: str, seed: int = 0) -> torch.Tensor:
    inputs = dict(products(model))[name].in_features
    random = torch.Generator().manual_seed(seed)
    return torch.exp(torch.randn(inputs, generator=random))


@pytest.mark.parametrize("changes", [GELU, WORDS, RELU], ids=["gelu", "words", "relu"])
def test_a_division_changes_no_answer(changes: dict[str, object]) -> None:
    model = uneven(**changes)
    expected = logits_of(model)
    for name in names(model):
        divided = with_multipliers(model, [] if is_free(model.config, name) else [name])
        divide(divided, name, divisor_for(model, name))
        np.testing.assert_allclose(logits_of(divided), expected, atol=2e-5, err_msg=name)
        changed = (divided.state_dict()[f"{name}.weight"] != model.state_dict()[f"{name}.weight"]).any()
        assert changed, name


@pytest.mark.parametrize("tables", [GELU, WORDS, {**GELU, **WORDS}], ids=["projected", "factorised", "both"])
def test_all_at_once_survive_saving_and_the_exported_form(tables: dict[str, int], tmp_path: Path) -> None:
    model = uneven(**tables)
    divided = with_multipliers(model, names(model, free=False))
    for seed, name in enumerate(names(model)):
        divide(divided, name, divisor_for(model, name, seed))
    np.testing.assert_allclose(logits_of(divided), logits_of(model), atol=1e-4)
    divided.save_pretrained(tmp_path)
    loaded = EdgekitForSequenceClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_array_equal(logits_of(loaded), logits_of(divided))
    assert_lean_equals(loaded, 24)


def test_what_is_free() -> None:
    gelu, relu = uneven(**GELU), uneven(**RELU)
    assert {name.rsplit(".", 1)[1] for name in names(gelu, free=True)} == {"projection", "output", "dense"}
    assert {name.rsplit(".", 1)[1] for name in names(relu, free=True)} == {"output", "down", "dense"}
    assert is_free(gelu.config, "embeddings.words")
    assert not can_divide(gelu.config, "head.classifier")


def test_a_multiplier_in_use_is_not_dropped_and_an_equalised_model_not_cut() -> None:
    model = with_multipliers(uneven(), ["layers.0.up"])
    assert with_multipliers(model, []).config.multiplied == []
    divide(model, "layers.0.up", divisor_for(model, "layers.0.up"))
    with pytest.raises(ValueError, match=r"the multipliers of layers\.0\.up are in use"):
        with_multipliers(model, [])
    with pytest.raises(ValueError, match="has no multiplier"):
        divide(model, "layers.0.qkv", divisor_for(model, "layers.0.qkv"))
    for cut in (lambda: keep_layers(model, [0]), lambda: keep_widths(model, [[0], [0], [0]], [[0], [0], [0]])):
        with pytest.raises(ValueError, match="cut it before"):
            cut()


def test_migration_is_the_papers_formula() -> None:
    random = np.random.default_rng(0)
    magnitudes, weight = random.random(6) * 10 + 0.1, random.normal(size=(4, 6))
    for strength in (0.0, 0.5, 0.9, 1.0):
        expected = magnitudes**strength / np.abs(weight).max(axis=0) ** (1 - strength)
        found = migration(torch.from_numpy(magnitudes), torch.from_numpy(weight), strength).numpy()
        np.testing.assert_allclose(found / expected, (found / expected)[0], rtol=1e-6)  # up to a common factor
        assert np.exp(np.log(found).mean()) == pytest.approx(1)


def test_half_strength_evens_activations_and_weights_out() -> None:
    magnitudes, weight = torch.tensor([60.0, 1.0, 1.0, 0.5]), torch.tensor([[0.1, 0.2, 1.0, 0.3]])
    divisor = migration(magnitudes, weight, 0.5)
    ratios = ((magnitudes / divisor) / (weight[0] * divisor)).numpy()
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)  # up to a common factor, each channel as large in both


def test_a_dead_channel_is_not_scaled_without_limit() -> None:
    divisor = migration(torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 1.0]]), 0.5)
    assert torch.isfinite(divisor).all()
    assert (divisor > 0).all()


def with_outliers(model: EdgekitForSequenceClassification, factor: float = 60) -> EdgekitForSequenceClassification:
    """Makes two input channels of every product huge, and the next weights small: float answers stay as they are."""
    result = with_multipliers(model, names(model, free=False))
    for name in names(model):
        divisor = torch.ones(dict(products(model))[name].in_features)
        divisor[[1, 3]] = 1 / factor
        divide(result, name, divisor)
    return result


def rounding_error(model: EdgekitForSequenceClassification, rows: list[np.ndarray]) -> float:
    played = integers(model, watch(model, rows))
    return float(np.mean((logits_of(played, rows) - logits_of(model, rows)) ** 2))


@pytest.mark.parametrize("tables", [GELU, WORDS], ids=["projected", "factorised"])
def test_one_rounded_product_is_that_of_the_divided_model(tables: dict[str, int]) -> None:
    """The search divides within the product; the model that is written, in the layer before or by a multiplier."""
    model = uneven(**tables)
    rows = tiny.token_rows(model.config.vocab_size, [3, 12, 29], seed=3)
    extremes = watch(model, rows)
    for name in names(model):
        divisor = divisor_for(model, name)
        searched = one_rounded(model, name, extremes[name], divisor, "pairs")
        written = with_multipliers(model, [] if is_free(model.config, name) else [name])
        divide(written, name, divisor)
        written = one_rounded(written, name, extremes[name].divided(divisor), None, "pairs")
        np.testing.assert_allclose(logits_of(searched, rows), logits_of(written, rows), atol=1e-4, err_msg=name)
        assert not np.allclose(logits_of(searched, rows), logits_of(model, rows), atol=1e-5), name
    np.testing.assert_array_equal(logits_of(model, rows), logits_of(uneven(**tables), rows))


def test_outliers_in_every_product_do_harm_and_a_division_undoes_it() -> None:
    plain = uneven(**GELU)
    rows = tiny.token_rows(plain.config.vocab_size, [3, 12, 29, 8, 17, 24] * 4, seed=3)
    hard = with_outliers(plain)
    np.testing.assert_allclose(logits_of(hard, rows), logits_of(plain, rows), atol=1e-3)
    assert rounding_error(hard, rows) > 20 * rounding_error(plain, rows)
    extremes, mended = watch(hard, rows), copy.deepcopy(hard)
    for name in names(hard):
        assert extremes[name].outlier_ratio > 10
        divide(mended, name, migration(extremes[name].magnitudes, dict(products(hard))[name].weight, 0.75))
    np.testing.assert_allclose(logits_of(mended, rows), logits_of(plain, rows), atol=2e-3)
    assert rounding_error(mended, rows) < 2 * rounding_error(plain, rows)


def test_outliers_of_the_last_norm_are_folded_into_what_reads_it() -> None:
    model = uneven(**GELU)
    with torch.no_grad():
        model.layers[-1].ffn_norm.weight[4] *= 60
        model.layers[-1].ffn_norm.bias[4] *= 60
        model.head.dense.weight[:, 4] /= 60
    rows = tiny.token_rows(model.config.vocab_size, [3, 12, 29], seed=3)
    before = logits_of(model, rows)
    assert watch(model, rows)["head.dense"].outlier_ratio > 30
    assert fold_outliers(model) == ["head.dense"]
    np.testing.assert_allclose(logits_of(model, rows), before, atol=1e-5)
    assert watch(model, rows)["head.dense"].outlier_ratio < 6


def test_a_norm_without_outliers_is_left_to_the_bit() -> None:
    model = uneven(**GELU)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert fold_outliers(model) == []
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
