"""Scales and rounding of weights: against plain NumPy, and against the kernels that would saturate."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.quant.weights import PAIR_LIMIT, Bound, bound_scales, least_error_scales, pair_sums, rounded, squared_error

BOUNDS: tuple[Bound, ...] = get_args(Bound)


def matrix(kind: str, inputs: int = 64) -> np.ndarray:
    """Returns weights of 48 channels: bell-shaped, with heavy tails, or of one sign."""
    random = np.random.default_rng(3)
    values = {
        "normal": random.normal(size=(48, inputs)),
        "heavy": random.standard_t(3, size=(48, inputs)),
        "positive": random.random(size=(48, inputs)) + 0.5,
    }
    return values[kind].astype(np.float32)


KINDS = ("normal", "heavy", "positive")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("inputs", [1, 7, 64])
def test_integers_keep_their_bound_at_any_scale(bound: Bound, kind: str, inputs: int) -> None:
    weights = matrix(kind, inputs)
    for factor in (0.3, 0.9, 1.0, 2.0):
        integers = rounded(weights, bound_scales(weights, bound) * factor, bound).astype(int)
        assert np.abs(integers).max() <= (64 if bound == "seven-bit" else 127)
        if bound != "full":
            for channel in integers:
                for first, second in zip(channel[0::2], channel[1::2], strict=False):
                    assert abs(first + second) <= PAIR_LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_at_its_bound_a_scale_clips_nothing(bound: Bound, kind: str) -> None:
    weights = matrix(kind)
    scales = bound_scales(weights, bound)
    # Half a step of rounding, and one more where a pair had to give up its excess.
    steps = np.abs(rounded(weights, scales, bound) - weights / scales[:, None])
    assert steps.max() <= (0.5 if bound != "pairs" else 1.5) + 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_scale_of_least_error_is_at_least_as_good_as_a_grid(bound: Bound, kind: str) -> None:
    weights = matrix(kind)
    scales, widest = least_error_scales(weights, bound), bound_scales(weights, bound)
    tried = [squared_error(weights, (widest * f).astype(np.float32), bound) for f in np.arange(0.5, 1.001, 0.01)]
    np.testing.assert_allclose(squared_error(weights, scales, bound), np.min(tried, axis=0), rtol=1e-3)


def test_the_pair_bound_costs_less_than_a_bit() -> None:
    """The reason for it: the error of bell-shaped weights grows by 1.7 instead of the 4 of seven bits."""
    weights = matrix("normal", 512)
    full, seven, pairs = (squared_error(weights, bound_scales(weights, b), b).mean() for b in BOUNDS)
    assert 1.3 < pairs / full < 2
    assert 3.5 < seven / full < 4.5


def test_pair_sums_by_hand() -> None:
    weights = np.array([[1, 2, -3, 4, -5, -6, 7], [0, -9, 0, 0, 3, 0, -1]])
    np.testing.assert_array_equal(pair_sums(weights), [[3, 0, 11, 7], [9, 0, 3, 1]])


def test_channels_of_zeros_have_a_scale() -> None:
    weights = np.zeros((2, 6), dtype=np.float32)
    for bound in BOUNDS:
        np.testing.assert_array_equal(bound_scales(weights, bound), 1)
        np.testing.assert_array_equal(least_error_scales(weights, bound), 1)
        assert not rounded(weights, bound_scales(weights, bound), bound).any()


def gemm(integers: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Runs uint8 activations (rows, inputs) times int8 weights (outputs, inputs) through onnxruntime's QGemm."""
    outputs = len(integers)
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.ascontiguousarray(integers.T.astype(np.int8)),
        "scales": np.ones(outputs, dtype=np.float32),
        "zeros": np.zeros(outputs, dtype=np.int8),
        "bias": np.zeros(outputs, dtype=np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["wd"], axis=1),
        helper.make_node("DequantizeLinear", ["bias", "scales"], ["bd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, integers.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": activations.astype(np.float32)})[0]
    return result


@pytest.mark.parametrize("rows", [1, 2, 5, 17])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", ["seven-bit", "pairs"])
def test_extreme_activations_do_not_saturate_this_runtime(bound: Bound, kind: str, rows: int) -> None:
    """The self-test of a runtime and a processor: any pairing of inputs other than the one assumed would show here."""
    weights = matrix(kind)
    integers = rounded(weights, bound_scales(weights, bound), bound).astype(np.int64)
    random = np.random.default_rng(rows)
    for activations in (
        np.full((rows, 64), 255),
        np.where(random.random((rows, 64)) < 0.5, 0, 255),
        np.tile(np.where(integers[0] > 0, 255, 0), (rows, 1)),  # the worst case of the first channel
        np.tile(np.where(integers[0] < 0, 255, 0), (rows, 1)),
    ):
        np.testing.assert_array_equal(gemm(integers, activations), activations @ integers.T)
