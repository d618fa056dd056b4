"""The lint of ONNX graphs: each fault in a graph made to have it, and none in edgekit's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from edgekit.backends import onnxruntime as backend
from edgekit.quant.findings import Finding

AVX2, VNNI = ("x86_64", ("avx2", "fma")), ("x86_64", ("avx2", "avx512_vnni"))


def save(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], dtype: int = TensorProto.FLOAT
) -> Path:
    """Writes a graph from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def found(path: Path, processor: tuple[str, tuple[str, ...]] = AVX2, ops: tuple[str, ...] = ("Gemm",)) -> list[Finding]:
    return backend.findings(path, *processor, ops)


def quantized(weight: np.ndarray) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Returns a product of int8 weights, (outputs, inputs), in Q/DQ form."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "one"], ["wd"]),
        helper.make_node("Gemm", ["xd", "wd"], ["y"], transB=1),
    ]
    return nodes, {"one": np.float32(1), "zero": np.uint8(0), "w": weight.astype(np.int8)}


def test_a_mask_constant_on_the_way_to_a_softmax(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "mask"], ["masked"]),
        helper.make_node("Add", ["x", "masked"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], name="attention"),
    ]
    (finding,) = found(save(tmp_path / "m.onnx", nodes, {"mask": np.float32([-3.4e38])}))
    assert (finding.check, finding.place) == ("mask-constant", "mask")
    assert finding.detail == "-3.4e+38 goes into attention"
    assert not found(save(tmp_path / "ok.onnx", nodes, {"mask": np.float32([-30])}))


@pytest.mark.parametrize(("pair", "over"), [((64, 64), 0), ((64, 65), 4), ((127, -127), 0), ((-100, -100), 4)])
def test_pairs_that_saturate(pair: tuple[int, int], over: int, tmp_path: Path) -> None:
    weight = np.zeros((2, 8))
    weight[:, 0::4], weight[:, 1::4] = pair
    path = save(tmp_path / "m.onnx", *quantized(weight))
    findings = found(path)
    if not over:
        assert not findings
        return
    assert findings[0].check == "saturation"
    assert findings[0].detail == "4 of 8 pairs of adjacent weights exceed 128"
    assert findings[0].cost.endswith("on this target")
    assert "x86 CPUs without VNNI" in found(path, VNNI)[0].cost
    assert "x86 CPUs without VNNI" in found(path, ("aarch64", ("asimddp",)))[0].cost


def test_float_operators_between_q_and_dq(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("Tanh", ["d"], ["t"]),
        helper.make_node("QuantizeLinear", ["t", "one", "zero"], ["tq"]),
        helper.make_node("DequantizeLinear", ["tq", "one", "zero"], ["y"]),
    ]
    (finding,) = found(save(tmp_path / "m.onnx", nodes, {"one": np.float32(1), "zero": np.uint8(0)}))
    assert (finding.check, finding.place) == ("float-operator", "Tanh")


def test_products_that_the_target_leaves_in_float(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": np.zeros((8, 1000), dtype=np.float32)})
    (finding,) = found(path)
    assert (finding.check, finding.place, finding.detail) == ("float-product", "MatMul", "1 with 0.0 MB of weights")
    assert not found(path, ops=("Gemm", "MatMul"))


def test_long_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    (finding,) = found(save(tmp_path / "m.onnx", nodes, {}, TensorProto.INT64))
    assert (finding.check, finding.place) == ("int64-input", "x")


def test_edgekits_own_graph_has_long_inputs_and_nothing_else(tmp_path: Path) -> None:
    from edgekit import frontends

    backend.export_student(frontends.build(tiny.classifier("bert")), "dynamic", 24, tmp_path / "student.onnx")
    assert {finding.check for finding in found(tmp_path / "student.onnx", ops=("Gemm", "Gather"))} == {"int64-input"}
