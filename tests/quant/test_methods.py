"""Range methods against references that are written another way, and against onnxruntime's own calibrators."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.quant_utils import compute_scale_zp, quantize_nparray

from edgekit.quant.histogram import classes_of, histogram_of
from edgekit.quant.methods import METHODS, fake_quantized

LEVELS = 256


def samples(kind: str, count: int = 100_000) -> np.ndarray:
    """Returns values as activations have them: float32, two-sided, one-sided or with outliers."""
    random = np.random.default_rng(7)
    normal = random.normal(size=count)
    values = {
        "gauss": normal * 3,
        "laplace": random.laplace(size=count),
        "gelu": np.maximum(normal, -0.17),
        "outliers": np.concatenate([normal, [-97, 71]]),
        "relu": np.maximum(normal, 0),
        "shifted": random.normal(size=count) * 0.1 + 5,
    }
    return values[kind].astype(np.float32)


KINDS = ("gauss", "laplace", "gelu", "outliers", "relu", "shifted")


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    return float(np.mean((fake_quantized(values.astype(np.float64), low, high, LEVELS) - values) ** 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_range_holds_zero_and_lies_within_the_extremes(name: str, kind: str) -> None:
    values = samples(kind)
    low, high = METHODS[name](histogram_of(values), LEVELS)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.999, 0.9999, 0.99999])
def test_percentiles_are_numpys_quantiles(kind: str, share: float) -> None:
    values = samples(kind)
    histogram = histogram_of(values)
    low, high = METHODS[f"percentile-{100 * share:g}"](histogram, LEVELS)
    cut = (1 - share) / 2 * len(values)
    # A range may end anywhere between the last value that is kept and the first that is not.
    kept = np.sort(values)[[int(np.floor(cut)), -1 - int(np.floor(cut))]]
    clipped = np.sort(values)[[max(int(np.ceil(cut)) - 1, 0), -max(int(np.ceil(cut)), 1)]]
    assert min(clipped[0], 0) - histogram.width <= low <= min(kept[0], 0) + histogram.width
    assert max(kept[1], 0) - histogram.width <= high <= max(clipped[1], 0) + histogram.width


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_as_good_as_a_search_over_the_values_themselves(kind: str) -> None:
    values = samples(kind, 20_000)
    found = squared_error(values, *METHODS["mse"](histogram_of(values), LEVELS))
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    tried = [
        squared_error(values, lowest * a, highest * b)
        for a in (np.linspace(0.4, 1, 16) if lowest else [1.0])
        for b in np.linspace(0.4, 1, 16)
    ]
    assert found <= 1.03 * min(tried)
    assert found <= squared_error(values, lowest, highest)


def test_weighted_mse_is_as_good_as_a_search_over_the_products_own_error() -> None:
    """One channel is large and hardly read: its clipping costs the product little, the others' finer steps gain."""
    random = np.random.default_rng(3)
    values = (random.normal(size=(4000, 16)) * np.where(np.arange(16) == 5, 20, 1)).astype(np.float32)
    weights = random.normal(size=(8, 16)) * np.where(np.arange(16) == 5, 0.01, 1)

    def product_error(low: float, high: float) -> float:
        change = fake_quantized(values.astype(np.float64), low, high, LEVELS) - values
        return float(np.mean((change @ weights.T) ** 2))

    histogram = histogram_of(values, classes_of((weights**2).sum(axis=0)))
    found = product_error(*METHODS["mse-weighted"](histogram, LEVELS))
    lowest, highest = float(values.min()), float(values.max())
    tried = [product_error(lowest * a, highest * a) for a in np.geomspace(0.02, 1, 60)]
    assert found <= 1.05 * min(tried)
    assert found < 0.2 * product_error(*METHODS["mse"](histogram, LEVELS))
    alike = histogram_of(values)
    assert METHODS["mse-weighted"](alike, LEVELS) == METHODS["mse"](alike, LEVELS)


def divergence(values: np.ndarray, low: float, high: float, width: float) -> float:
    """The divergence as its paper words it, bin by bin, over a histogram of its own."""
    edges = np.arange(np.floor(low / width), np.floor(high / width) + 2) * width
    inside, _ = np.histogram(values, bins=edges)
    clipped = inside.astype(float)
    clipped[0] += (values < edges[0]).sum()
    clipped[-1] += (values > edges[-1]).sum()
    q = np.zeros(len(inside))
    for level in range(LEVELS):
        members = [i for i in range(len(inside)) if i * LEVELS // len(inside) == level]
        filled = [i for i in members if inside[i]]
        for i in filled:
            q[i] = inside[members].sum() / len(filled)
    p, q = clipped / clipped.sum(), q / q.sum()
    return float(sum(a * np.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a))


@pytest.mark.parametrize("kind", ["gauss", "gelu", "relu"])
def test_entropy_finds_no_larger_divergence_than_a_grid_of_ranges(kind: str) -> None:
    values = samples(kind, 20_000).astype(np.float64)
    histogram = histogram_of(values)
    low, high = METHODS["entropy"](histogram, LEVELS)
    found = divergence(values, low, high, histogram.width)
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    tried = [divergence(values, lowest * f, highest * f, histogram.width) for f in (1.0, 0.85, 0.7, 0.55, 0.4)]
    assert found <= min(tried) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_the_grid_is_onnxruntimes(kind: str, factor: float) -> None:
    values = samples(kind, 5_000)
    low, high = min(float(values.min()), 0.0) * factor, max(float(values.max()), 0.0) * factor
    zero, scale = compute_scale_zp(np.float32(low), np.float32(high), *np.array([0, LEVELS - 1], dtype=np.uint8))
    steps = quantize_nparray(2, values, scale, zero).astype(np.float32) - float(zero)  # 2: TensorProto.UINT8
    theirs = steps * float(scale)
    np.testing.assert_allclose(fake_quantized(values, low, high, LEVELS), theirs, atol=1e-5 * float(scale) + 1e-6)


def test_percentiles_are_onnxruntimes() -> None:
    values, share = samples("gauss"), 99.9
    collector = HistogramCollector(
        method="percentile", symmetric=False, num_bins=4096, num_quantized_bins=128, percentile=share, scenario="same"
    )
    collector.collect({"x": [values]})
    theirs = collector.compute_collection_result()["x"][:2]
    histogram = histogram_of(values)
    ours = METHODS[f"percentile-{share:g}"](histogram, LEVELS)
    step = float(np.ptp(values)) / 4096 + histogram.width
    np.testing.assert_allclose(ours, [float(end) for end in theirs], atol=step)


@pytest.mark.parametrize("kind", ["gauss", "gelu"])
def test_entropy_clips_about_where_onnxruntimes_does(kind: str) -> None:
    """Theirs searches a coarser grid, symmetric about the middle, so the ends agree within a factor only."""
    values = samples(kind, 20_000)
    collector = HistogramCollector(
        method="entropy", symmetric=False, num_bins=2049, num_quantized_bins=256, percentile=0, scenario="same"
    )
    collector.collect({"x": [values]})
    theirs = collector.compute_collection_result()["x"][:2]
    low, high = METHODS["entropy"](histogram_of(values), LEVELS)
    assert 0.6 < high / float(theirs[1]) < 1.6
    if kind != "gelu":
        assert 0.6 < low / float(theirs[0]) < 1.6


def test_a_constant_tensor_is_kept() -> None:
    for name, method in METHODS.items():
        for value in (0.0, 2.5, -2.5):
            low, high = method(histogram_of(np.full(10, value, dtype=np.float32)), LEVELS)
            restored = fake_quantized(np.array([value]), low, high, LEVELS)
            np.testing.assert_allclose(restored, [value], atol=1e-6, err_msg=name)
