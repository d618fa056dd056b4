"""The self-test of integer kernels: exact on bounded pairs, and able to fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit import devices
from edgekit.artifact import file_digest
from edgekit.backends import onnxruntime as backend
from edgekit.backends._onnx_selftest import PAIRS, write
from edgekit.devices import ModelFile, TokenRows
from edgekit.devices._host import isa_flags
from edgekit.quant.weights import PAIR_LIMIT


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("uri", ["local", "qemu:cortex-a76"])
def test_bounded_pairs_are_exact(uri: str, tmp_path: Path) -> None:
    device = devices.connect(uri)
    missing = device.unavailable()
    if missing is not None:
        pytest.skip(f"{uri} is not ready: {missing.reason}")
    rows, expected = write(tmp_path / "extremes.onnx")
    model = ModelFile(tmp_path / "extremes.onnx", file_digest(tmp_path / "extremes.onnx"))
    assert error(device.logits(model, TokenRows(rows), 1, None), expected) < 1e-6


def test_the_pairs_go_to_the_bound() -> None:
    sums = np.abs(PAIRS.sum(axis=1))[np.sign(PAIRS).prod(axis=1) > 0]
    assert (sums == PAIR_LIMIT).all()


@pytest.mark.skipif("avx512_vnni" in isa_flags() or "avx_vnni" in isa_flags(), reason="this CPU does not saturate")
@pytest.mark.skipif("avx2" not in isa_flags(), reason="only x86 kernels saturate")
def test_pairs_beyond_the_bound_are_seen_where_the_cpu_saturates(tmp_path: Path) -> None:
    rows, expected = write(tmp_path / "beyond.onnx", np.array([(127, 127), (-127, -127)]))
    assert error(backend.logits(tmp_path / "beyond.onnx", rows, 0), expected) > 0.01
