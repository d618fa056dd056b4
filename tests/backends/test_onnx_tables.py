"""Word tables in four bits: against NumPy, and what the runtime makes of them against both."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.backends._onnx_tables import MIDDLE, by_blocks, in_four_bits, store_tables
from edgekit.errors import TargetError


def table(rows: int, columns: int) -> np.ndarray:
    """Returns a random table whose columns are of different sizes, one row of it all zeros."""
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, columns)) * np.geomspace(0.1, 10, columns)
    values[3] = 0
    return np.asarray(values, dtype=np.float32)


def restored(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns what bytes and scales stand for, as their description says."""
    levels = np.concatenate([packed % 16, packed // 16], axis=1).astype(np.float64)
    apart = (levels - MIDDLE).reshape(len(levels), scales.shape[1], -1) * scales
    return np.asarray(apart.reshape(len(levels), -1))


@pytest.mark.parametrize(("columns", "blocks"), [(384, 3), (96, 1), (312, 3), (2, 1), (320, 4), (768, 6), (382, 1)])
def test_entries_are_restored_within_half_a_level_and_the_largest_of_a_block_exactly(columns: int, blocks: int) -> None:
    values = table(20, columns)
    packed, scales = in_four_bits(values)
    assert (packed.dtype, packed.shape) == (np.uint8, (20, columns // 2))
    assert (scales.dtype, scales.shape) == (np.float32, (20, blocks, 1))
    apart, found = values.reshape(20, blocks, -1), restored(packed, scales).reshape(20, blocks, -1)
    assert (np.abs(found - apart) <= 0.5 * scales * (1 + 1e-5)).all()
    np.testing.assert_allclose(np.abs(found).max(axis=2)[4:], np.abs(apart).max(axis=2)[4:], rtol=1e-6)
    assert np.abs(found[3]).max() < 1e-30


def test_the_runtime_reads_what_was_stored_bit_by_bit() -> None:
    values = table(50, 192)
    nodes = [helper.make_node("Gather", ["words", "ids"], ["embedded"], "embedding", axis=0)]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["length"])]
    outputs = [helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["length", 192])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(values, "words")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    stored = store_tables(model, by_blocks)
    onnx.checker.check_model(stored, full_check=True)
    assert not any(t.name == "words" for t in stored.graph.initializer)
    session = onnxruntime.InferenceSession(stored.SerializeToString(), providers=["CPUExecutionProvider"])
    packed, scales = in_four_bits(values)
    for ids in ([0], [3, 7, 7, 49], list(range(50))):
        (found,) = session.run(None, {"ids": np.array(ids, dtype=np.int64)})
        np.testing.assert_allclose(found, restored(packed, scales)[ids], rtol=1e-6, atol=0)


def test_an_odd_number_of_columns_is_refused() -> None:
    with pytest.raises(TargetError, match="15 columns has no form in four bits"):
        in_four_bits(table(20, 15))
