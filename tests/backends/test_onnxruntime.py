"""ONNX files against torch, NumPy and onnxruntime: the same logits, nothing that should not be in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekit import backends, frontends
from edgekit.backends import Precision, Scheme, Tensor
from edgekit.backends import onnxruntime as backend
from edgekit.backends._onnx_schemes import OTHERS, STATIC
from edgekit.errors import StageContractError, TargetError
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.lean import LeanClassifier
from edgekit.ir.surgery import keep_widths
from edgekit.quant.ranges import observe, ranges_of
from edgekit.quant.weights import pair_sums
from edgekit.target import field_of, load_target
from edgekit.tokenization import pad

MAX_LENGTH, PAD = 40, 1
LENGTHS = (2, 3, 7, 16, 29, 40)
QUANT = field_of(load_target("x86-64"), "quant")
FORBIDDEN = {"GatherND", "Where", "If", "Loop", "NonZero", "Range", "Expand", "ScatterND"}


def student(model_type: str) -> EdgekitForSequenceClassification:
    """Returns a random model of the IR whose layers have different widths."""
    model = frontends.build(tiny.classifier(model_type, seed=5))
    heads = [[0, 1, 2, 3], [0, 3], [1, 2, 3], [2]]
    return keep_widths(model, heads, [range(64), range(0, 64, 2), range(5), range(33)])


def rows() -> list[np.ndarray]:
    return tiny.token_rows(100, LENGTHS, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    backend.export_student(student("bert"), "dynamic", MAX_LENGTH, folder / "bert.onnx")
    return folder / "bert.onnx"


@pytest.fixture(scope="module")
def mpnet(folder: Path) -> Path:
    backend.export_student(student("mpnet"), "dynamic", MAX_LENGTH, folder / "mpnet.onnx")
    return folder / "mpnet.onnx"


@pytest.fixture(scope="module")
def static(folder: Path) -> Path:
    backend.export_student(student("electra"), 24, MAX_LENGTH, folder / "static.onnx")
    return folder / "static.onnx"


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Path:
    backend.export_teacher(tiny.classifier("bert", seed=5), MAX_LENGTH, folder / "teacher.onnx")
    return folder / "teacher.onnx"


GRAPHS = ("bert", "mpnet", "static")


@pytest.mark.parametrize("name", ["bert", "mpnet"])
def test_logits_are_the_lean_models_at_every_length(request: pytest.FixtureRequest, name: str) -> None:
    lean = LeanClassifier(student(name), MAX_LENGTH).eval()
    with torch.inference_mode():
        expected = np.concatenate([lean(torch.from_numpy(row)[None]).numpy() for row in rows()])
    found = backend.logits(request.getfixturevalue(name), rows(), PAD)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_fixed_length_pads_and_masks_and_refuses_longer_rows(static: Path) -> None:
    model = student("electra")
    short = [row[:24] for row in rows()]
    with torch.inference_mode():
        expected = np.concatenate([model(torch.from_numpy(row)[None]).logits.numpy() for row in short])
    np.testing.assert_allclose(backend.logits(static, short, PAD), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(backend.logits(static, short, 77), expected, rtol=0, atol=1e-5)
    with pytest.raises(StageContractError, match="the model's input takes 24"):
        backend.logits(static, rows(), PAD)


def test_the_teachers_graph_answers_as_transformers(teacher: Path) -> None:
    model = tiny.classifier("bert", seed=5)
    with torch.inference_mode():
        expected = np.concatenate([model(torch.from_numpy(row)[None]).logits.numpy() for row in rows()])
    np.testing.assert_allclose(backend.logits(teacher, rows(), 0), expected, rtol=0, atol=1e-5)
    ids, mask = pad(rows(), 0)
    session = onnxruntime.InferenceSession(teacher, providers=["CPUExecutionProvider"])
    padded = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(padded, expected, rtol=0, atol=1e-5)
    shapes = [t.shape for t in backend.describe(teacher).inputs]
    assert all(isinstance(size, str) for shape in shapes for size in shape)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_is_lean_and_finite(request: pytest.FixtureRequest, name: str) -> None:
    model = onnx.load(request.getfixturevalue(name))
    onnx.checker.check_model(model)
    assert not FORBIDDEN & {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    constants = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    constants += [numpy_helper.to_array(a.t) for n in model.graph.node for a in n.attribute if a.HasField("t")]
    for values in constants:
        if values.dtype.kind == "f":
            assert np.isfinite(values).all()
            assert np.abs(values).max() < 1e3


@pytest.mark.parametrize("name", [*GRAPHS, "teacher"])
def test_the_file_names_nothing_of_this_machine(request: pytest.FixtureRequest, name: str) -> None:
    path = request.getfixturevalue(name)
    content = path.read_bytes()
    for trace in (b"site-packages", b".py", b"/tmp", b"/home", b"/work", str(Path.home()).encode() + b"/"):
        assert trace not in content
    model = onnx.load(path, load_external_data=False)
    assert not model.metadata_props
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not list(path.parent.glob("*.data"))


def test_exporting_again_gives_the_same_bytes(bert: Path, tmp_path: Path) -> None:
    backend.export_student(student("bert"), "dynamic", MAX_LENGTH, tmp_path / "elsewhere.onnx")
    assert (tmp_path / "elsewhere.onnx").read_bytes() == bert.read_bytes()


def test_describe_says_what_an_app_must_know(bert: Path, static: Path) -> None:
    found = backend.describe(bert)
    assert (found.format, found.opset, found.ir_version, found.min_runtime) == ("onnx", 20, 9, "1.17")
    assert [t.name for t in found.inputs] == ["input_ids"]
    assert found.inputs[0].dtype == "int64"
    assert found.inputs[0].shape[0] == 1
    assert isinstance(found.inputs[0].shape[1], str)
    assert found.outputs == (Tensor("logits", "float32", (1, 4)),)
    assert found.nodes == len(onnx.load(bert).graph.node)
    fixed = backend.describe(static)
    assert fixed.inputs == (Tensor("input_ids", "int64", (1, 24)), Tensor("attention_mask", "int64", (1, 24)))


def test_operators_and_file_format_are_in_the_least_runtime_that_is_recorded(bert: Path, quantized: Any) -> None:
    # onnxruntime 1.17 reads ONNX 1.15: operator set 20, IR version 9.
    for path in (bert, quantized[STATIC[0].name], quantized[STATIC[1].name]):
        found = backend.describe(path)
        assert (found.opset, found.ir_version, found.min_runtime) == (20, 9, "1.17")
        model = onnx.load(path)
        for node in model.graph.node:
            assert onnx.defs.get_schema(node.op_type, 20, node.domain).since_version <= 20


def test_activations_are_what_the_products_read_and_write(bert: Path) -> None:
    model = onnx.load(bert)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert len(products) >= 4 * 4 + 2
    read, written = ({node.input[0] for node in products}, {node.output[0] for node in products})
    assert set(backend.quantized_tensors(bert, ["Gemm"])) == read, "what a product gives stays float"
    tensors = sorted(read | written)
    seen = list(backend.activations(bert, tensors, rows(), PAD))
    assert len(seen) == len(rows())
    for found in seen:
        assert set(found) == set(tensors)
        for node in products:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            weight = weights[node.input[1]].T if attributes.get("transB") else weights[node.input[1]]
            expected = found[node.input[0]].astype(np.float64) @ weight + weights[node.input[2]]
            np.testing.assert_allclose(found[node.output[0]], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GRAPHS)
def test_quantized_tensors_are_float_activations(request: pytest.FixtureRequest, name: str) -> None:
    path = request.getfixturevalue(name)
    tensors = backend.quantized_tensors(path, QUANT["ops"])
    assert len(tensors) == len(set(tensors))
    found = next(iter(backend.activations(path, tensors, rows()[:1], PAD)))
    assert all(values.dtype == np.float32 for values in found.values())


@pytest.fixture(scope="module")
def quantized(bert: Path, folder: Path) -> dict[str, Path]:
    """The graph in each scheme, its ranges from random rows."""
    tensors = backend.quantized_tensors(bert, QUANT["ops"])
    ranges = ranges_of(
        observe(backend.activations(bert, tensors, tiny.token_rows(100, [9, 20, 31] * 8), PAD)), "minmax"
    )
    paths = {}
    for scheme in STATIC:
        paths[scheme.name] = folder / f"{scheme.name}.onnx"
        backend.quantize(bert, ranges, QUANT, scheme, Precision(), paths[scheme.name])
    return paths


@pytest.mark.parametrize("scheme", STATIC, ids=lambda s: s.name)
def test_a_quantized_graph_answers_nearly_as_the_float_one(
    bert: Path, quantized: dict[str, Path], scheme: Scheme
) -> None:
    expected = backend.logits(bert, rows(), PAD)
    found = backend.logits(quantized[scheme.name], rows(), PAD)
    error = float(np.sqrt(np.mean((found - expected) ** 2)))
    assert 0 < error < 0.15 * float(expected.std())


@pytest.mark.parametrize("scheme", STATIC, ids=lambda s: s.name)
def test_weights_are_integers_of_the_schemes_type(bert: Path, quantized: dict[str, Path], scheme: Scheme) -> None:
    model = onnx.load(quantized[scheme.name])
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    origin = {n.output[0]: n for n in model.graph.node}
    products = [origin[n.input[1]].input[0] for n in model.graph.node if n.op_type == "Gemm"]
    matrices = {name: constants[name] for name in products}
    tables = [origin[n.input[0]].input[0] for n in model.graph.node if n.op_type == "Gather" and n.input[0] in origin]
    assert any(constants[name].dtype.itemsize == 1 for name in tables if name in constants)
    assert len(matrices) >= 4 * 4 + 2  # every product of the layers and of the head
    assert all(values.dtype == scheme.weight for values in matrices.values())
    limit, zero = 64 if scheme.bound == "seven-bit" else 127, 128 if scheme.weight == "uint8" else 0
    integers = [values.astype(int) - zero for values in matrices.values()]
    assert all(np.abs(values).max() <= limit for values in integers)
    assert max(np.abs(values).max() for values in integers) >= 0.9 * limit
    if scheme.weight == "int8":  # transB: rows are outputs
        assert all(pair_sums(values).max() <= 128 for values in integers)
    assert quantized[scheme.name].stat().st_size < bert.stat().st_size
    onnx.checker.check_model(model)
    assert not re.search(rb"site-packages|/tmp|/work|\.py", quantized[scheme.name].read_bytes())
    assert model.producer_name == "edgekit"


@pytest.mark.parametrize("scheme", STATIC, ids=lambda s: s.name)
def test_quantizing_again_gives_the_same_bytes(
    bert: Path, quantized: dict[str, Path], scheme: Scheme, tmp_path: Path
) -> None:
    tensors = backend.quantized_tensors(bert, QUANT["ops"])
    ranges = ranges_of(
        observe(backend.activations(bert, tensors, tiny.token_rows(100, [9, 20, 31] * 8), PAD)), "minmax"
    )
    backend.quantize(bert, ranges, QUANT, scheme, Precision(), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == quantized[scheme.name].read_bytes()


def gemm(folder: Path, weight: np.ndarray, bias: np.ndarray) -> Path:
    """Writes a graph of one Gemm, its weight transposed as the exporter leaves it."""
    node = helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"], transB=1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", weight.shape[1]])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", weight.shape[0]])
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    onnx.save(model, folder / "gemm.onnx")
    return folder / "gemm.onnx"


def integer_gemm(path: Path, x: np.ndarray) -> np.ndarray:
    """Computes what the quantized file says, in Python's own integers: no sum can saturate or round."""
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (node,) = (n for n in model.graph.node if n.op_type == "Gemm")
    origin = {n.output[0]: n for n in model.graph.node}
    x_scale, x_zero = (constants[name] for name in origin[node.input[0]].input[1:3])
    w, w_scale, w_zero = (constants[name] for name in origin[node.input[1]].input[:3])
    b, b_scale = (constants[name] for name in origin[node.input[2]].input[:2])
    info = np.iinfo(x_zero.dtype)
    quantized = np.clip(np.rint(x / x_scale).astype(np.int64) + int(x_zero), info.min, info.max)
    zero = w_zero.astype(np.int64).reshape(-1, 1)
    total = (quantized - int(x_zero)) @ (w.astype(np.int64) - zero).T
    result: np.ndarray = total * (float(x_scale) * w_scale.astype(np.float64)) + b * b_scale.astype(np.float64)
    return result


@pytest.mark.parametrize("scheme", STATIC, ids=lambda s: s.name)
@pytest.mark.parametrize("width", [32, 384, 1536])
def test_extreme_products_do_not_saturate(tmp_path: Path, scheme: Scheme, width: int) -> None:
    random = np.random.default_rng(width)
    weight = random.normal(size=(16, width)).astype(np.float32)
    weight[0], weight[1] = 1.0, -1.0  # every weight at the end of its range, in both directions
    weight[2] = np.where(np.arange(width) % 4 < 2, 1.0, -1.0)  # pairs of one sign
    weight[3] = np.where(np.arange(width) < width // 2, 1.0, -1.0)
    bias = random.normal(size=16).astype(np.float32)
    graph = gemm(tmp_path, weight, bias)
    x = np.stack([
        np.full(width, 6.0), np.full(width, -2.0), np.zeros(width), np.full(width, 100.0),
        np.where(np.arange(width) % 4 < 2, 6.0, -2.0), random.uniform(-2, 6, size=width),
    ]).astype(np.float32)  # fmt: skip
    ranges = ranges_of(observe([{"x": x[[0, 1]], "logits": x @ weight.T + bias}]), "minmax")
    out = tmp_path / "quantized.onnx"
    backend.quantize(graph, ranges, {**QUANT, "ops": ["Gemm"]}, scheme, Precision(), out)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})[0]
    expected = integer_gemm(out, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    # And the integers stand for the float product, as far as their steps allow: no range was cut off.
    exact = np.clip(x, -2, 6) @ weight.T.astype(np.float64) + bias
    steps = 8 / 255 * np.abs(weight).sum(1) + np.abs(weight).max(1) / 63 * np.abs(np.clip(x, -2, 6)).sum(1)[:, None]
    assert (np.abs(found - exact) <= steps).all()


def test_a_length_that_the_student_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the model has 64 positions"):
        backend.export_student(student("bert"), "dynamic", 65, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_backends_are_found_by_their_files_names() -> None:
    assert "onnxruntime" in backends.names()
    assert backends.load_backend("onnxruntime") is backend
    with pytest.raises(TargetError, match="no backend for runtime 'onnxruntme'; did you mean 'onnxruntime'"):
        backends.load_backend("onnxruntme")


def test_padding_never_enters_what_is_observed(static: Path, folder: Path) -> None:
    """The graph of fixed length, fed rows of every length, shows what the one of free length does."""
    backend.export_student(student("electra"), "dynamic", MAX_LENGTH, folder / "free.onnx")
    rows = tiny.token_rows(100, [3, 9, 17, 24])

    def ranges(graph: Path) -> list[tuple[float, float]]:
        """Of what enters each product, attention's own two too, in the order in which they run."""
        products = [n for n in onnx.load(graph).graph.node if n.op_type in ("Gemm", "MatMul")]
        constants = {i.name for i in onnx.load(graph).graph.initializer}
        entering = [name for node in products for name in node.input[:2] if name not in constants]
        observed = observe(backend.activations(graph, list(dict.fromkeys(entering)), rows, PAD))
        return [(observed[name].histogram.low, observed[name].histogram.high) for name in entering]

    fixed, free = ranges(static), ranges(folder / "free.onnx")
    assert len(fixed) == len(free) >= 9 + 4 * 4
    np.testing.assert_allclose(fixed, free, atol=1e-4)


@pytest.mark.parametrize("scheme", STATIC, ids=lambda s: s.name)
def test_what_stays_float_reads_float_tensors(quantized: dict[str, Path], scheme: Scheme) -> None:
    """The quantizer alone would round the residual of every layer, because a product reads the same tensor."""
    model = onnx.load(quantized[scheme.name])
    origin = {output: node for node in model.graph.node for output in node.output}
    # The first sum is of the word table's rows, integers that a Gather gives: they stay on their own grid.
    sums = [n for n in model.graph.node if n.op_type == "Add" and "embedding_DequantizeLinear_Output" not in n.input]
    assert len(sums) >= 2 * 4
    for node in sums:
        assert not [n for n in node.input if n in origin and origin[n].op_type == "DequantizeLinear"], node.name
    used = {name for node in model.graph.node for name in node.input} | {"logits"}
    assert all(set(node.output) & used for node in model.graph.node), "no node is left that nothing reads"


def dynamic_product(path: Path, x: np.ndarray) -> np.ndarray:
    """Computes a dynamically quantized file in Python's own integers: the input's range is that of `x`."""
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (node,) = (n for n in model.graph.node if n.op_type == "MatMulInteger")
    weight = constants[node.input[1]].astype(np.int64)
    w_scale = next(v for name, v in constants.items() if name.endswith("weight_scale"))
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    integers = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64)
    (bias,) = (v for name, v in constants.items() if name == "bias")
    result: np.ndarray = (integers - zero) @ weight * (float(scale) * w_scale.astype(np.float64)) + bias
    return result


@pytest.mark.parametrize("width", [32, 384, 1536])
def test_extreme_products_do_not_saturate_dynamically(tmp_path: Path, width: int) -> None:
    random = np.random.default_rng(width)
    weight = random.normal(size=(16, width)).astype(np.float32)
    weight[0], weight[1] = 1.0, -1.0
    weight[2] = np.where(np.arange(width) % 4 < 2, 1.0, -1.0)
    graph = gemm(tmp_path, weight, random.normal(size=16).astype(np.float32))
    (scheme,) = (s for s in OTHERS if s.family == "dynamic")
    out = tmp_path / "dynamic.onnx"
    backend.quantize(graph, {}, {**QUANT, "ops": ["Gemm"]}, scheme, Precision(), out)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    for x in (
        np.full((1, width), 6.0), np.full((1, width), -2.0), np.where(np.arange(width) % 4 < 2, 6.0, -2.0)[None],
        random.uniform(-2, 6, size=(3, width)),
    ):  # fmt: skip
        x = x.astype(np.float32)
        found = session.run(None, {"x": x})[0]
        np.testing.assert_allclose(found, dynamic_product(out, x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("scheme", OTHERS, ids=lambda s: s.name)
def test_the_other_families_answer_nearly_as_the_float_graph(bert: Path, tmp_path: Path, scheme: Scheme) -> None:
    out = tmp_path / "out.onnx"
    backend.quantize(bert, {}, QUANT, scheme, Precision(), out)
    expected, found = backend.logits(bert, rows(), PAD), backend.logits(out, rows(), PAD)
    error = float(np.sqrt(np.mean((found - expected) ** 2)))
    assert 0 < error < (0.5 if scheme.weight == "int4" else 0.15) * float(expected.std())
    assert out.stat().st_size < bert.stat().st_size
    assert not re.search(rb"site-packages|/tmp|/work|\.py", out.read_bytes())


@pytest.mark.parametrize(
    ("runtime", "device", "length", "message"),
    [
        ("onnxruntime", {"accelerator": "hexagon-htp"}, "dynamic", "onnxruntime runs on CPUs; leave it out"),
        ("onnxruntime", {"accelerator": ""}, "buckets", 'onnxruntime takes "dynamic", or a number'),
        ("litert", {"accelerator": "ethos-u85-256"}, "dynamic", "litert runs on CPUs; leave it out"),
        ("qnn", {"accelerator": "hexagon", "socs": ["SM8650"]}, "buckets", "this runtime is for 'hexagon-htp'"),
        ("qnn", {"accelerator": "hexagon-htp", "socs": ["SM8650"]}, "dynamic", "HTP has fixed lengths"),
        ("ethosu", {"accelerator": "ethos-u85-256"}, "dynamic", "Ethos-U has fixed lengths"),
    ],
)
def test_a_target_that_a_runtime_cannot_serve_is_refused(
    runtime: str, device: dict[str, Any], length: str, message: str
) -> None:
    with pytest.raises(TargetError, match=message):
        backends.load_backend(runtime).check(device, {"sequence_length": length})
