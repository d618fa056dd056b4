"""Word tables in four bits as a runtime reads them, against NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.backends._onnx_tables import by_blocks, store_tables
from edgekit.quant.blocks import MIDDLE, in_four_bits


@pytest.mark.parametrize("columns", [192, 95])
def test_the_runtime_reads_what_was_stored_bit_by_bit(columns: int) -> None:
    random = np.random.default_rng(0)
    values = np.asarray(random.normal(size=(50, columns)) * np.geomspace(0.1, 10, columns), dtype=np.float32)
    values[3] = 0
    nodes = [helper.make_node("Gather", ["words", "ids"], ["embedded"], "embedding", axis=0)]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["length"])]
    outputs = [helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["length", columns])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(values, "words")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    stored = store_tables(model, by_blocks)
    onnx.checker.check_model(stored, full_check=True)
    assert not any(t.name == "words" for t in stored.graph.initializer)
    session = onnxruntime.InferenceSession(stored.SerializeToString(), providers=["CPUExecutionProvider"])
    packed, scales = in_four_bits(values)
    levels = np.concatenate([packed % 16, packed // 16], axis=1) - MIDDLE
    restored = (levels.reshape(50, scales.shape[1], -1) * scales).reshape(50, -1)[:, :columns]
    for ids in ([0], [3, 7, 7, 49], list(range(50))):
        (found,) = session.run(None, {"ids": np.array(ids, dtype=np.int64)})
        np.testing.assert_allclose(found, restored[ids], rtol=1e-6, atol=0)
