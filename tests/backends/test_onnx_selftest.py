"""The model of extreme products: exact where nothing saturates, and off where something does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgekit.backends import _onnx_selftest
from edgekit.backends import onnxruntime as backend
from edgekit.measure import KERNELS_TOLERANCE


def error(folder: Path, pairs: np.ndarray) -> np.ndarray:
    """Returns each logit's largest error over the rows, as a share of the largest logit."""
    rows, expected = _onnx_selftest.write(folder / "extremes.onnx", pairs)
    found = backend.logits(folder / "extremes.onnx", rows, 0)
    assert found.shape == expected.shape
    worst: np.ndarray = (np.abs(found - expected) / np.abs(expected).max()).max(axis=0)
    return worst


def test_bounded_and_unsigned_weights_are_exact_in_every_form(tmp_path: Path) -> None:
    assert error(tmp_path, _onnx_selftest.PAIRS).max() < KERNELS_TOLERANCE


def test_the_extremes_are_reached(tmp_path: Path) -> None:
    """Else exact sums would prove nothing: pairs of activations at 255, of weights at the bound."""
    _, expected = _onnx_selftest.write(tmp_path / "extremes.onnx")
    largest = 155 * 128 * (_onnx_selftest.WIDTH // 2) * 0.05 * 0.01
    assert expected.max() >= largest * 0.999
    assert np.abs(_onnx_selftest.PAIRS.sum(axis=1)).max() == 128


def test_unbounded_signed_weights_saturate_where_the_cpu_does(tmp_path: Path) -> None:
    flags = subprocess.run(["cat", "/proc/cpuinfo"], capture_output=True, text=True, check=False).stdout
    if "avx2" not in flags or "vnni" in flags:
        pytest.skip("this CPU is no x86 with AVX2 and without VNNI, so its sums do not saturate")
    worst = error(tmp_path, _onnx_selftest.WIDE_PAIRS)
    several, one = _onnx_selftest.TOKENS * _onnx_selftest.OUTPUTS, _onnx_selftest.OUTPUTS
    forms = np.split(worst, np.cumsum([several] * 3 + [one] * 2))
    off = [bool(form.max() > 100 * KERNELS_TOLERANCE) for form in forms]
    assert off == [True, False, True] * 2, "signed static, unsigned static, dynamic; of several tokens, then of one"
