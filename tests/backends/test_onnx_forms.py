"""What departs from a graph's plain forms: corrected biases, products left float, other tables, fewer operators."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from onnx import TensorProto, numpy_helper
from test_onnxruntime import MAX_LENGTH, PAD, QUANT, gemm, rows, student

from edgekit.backends import EMBEDDINGS, Precision, Scheme
from edgekit.backends import onnxruntime as backend
from edgekit.backends._onnx_schemes import OTHERS, SCHEMES, STATIC
from edgekit.ir.surgery import factorise_words, keep_layers, share_words
from edgekit.quant.ranges import Range, observe, ranges_of


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "bert.onnx"
    backend.export_student(student("bert"), "dynamic", MAX_LENGTH, path)
    return path


@pytest.mark.parametrize("scheme", [STATIC[0], STATIC[2]], ids=lambda s: s.name)
def test_corrected_biases_take_the_mean_of_the_error_away(tmp_path: Path, scheme: Scheme) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 64)).astype(np.float32)
    x = (random.normal(size=(500, 64)) + 3).astype(np.float32)  # far from zero: rounding of weights adds up
    graph = gemm(tmp_path, weight, np.zeros(8, dtype=np.float32))
    observed = observe([{"x": x}], {"x": np.ones(64)})
    errors = {}
    for name, means in (("plain", {}), ("corrected", {"x": observed["x"].means})):
        out = tmp_path / f"{name}.onnx"
        precision = Precision(means=means)
        backend.quantize(graph, ranges_of(observed, "minmax"), {**QUANT, "ops": ["Gemm"]}, scheme, precision, out)
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        errors[name] = (session.run(None, {"x": x})[0] - x @ weight.T).mean(axis=0)
    assert np.abs(errors["corrected"]).max() < 0.2 * np.abs(errors["plain"]).max()


def test_a_product_that_stays_float_keeps_its_weights_and_reads_float(bert: Path, tmp_path: Path) -> None:
    tensors = backend.quantized_tensors(bert, QUANT["ops"])
    ranges = ranges_of(observe(backend.activations(bert, tensors, rows(), PAD)), "minmax")
    kept = "layers.1.up"
    for scheme in (STATIC[0], *OTHERS):
        out = tmp_path / f"{scheme.name}.onnx"
        backend.quantize(bert, ranges, QUANT, scheme, Precision(frozenset([kept])), out)
        model, before = onnx.load(out), onnx.load(bert)
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        exact = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}[f"{kept}.weight"]
        assert any(v.shape in (exact.shape, exact.shape[::-1]) and v.dtype == np.float32 for v in stored.values())
        made = {o: n for n in model.graph.node for o in n.output}
        (node,) = (n for n in model.graph.node if f"{kept}.weight" in n.input)
        assert made[node.input[0]].op_type == "LayerNormalization", scheme.name
        assert backend.products(out, "all").keys() & {kept}


def test_products_have_the_encoders_names_in_the_order_they_run(bert: Path) -> None:
    found = backend.products(bert, ["Gemm"])
    layer = ["qkv", "output", "up", "down"]
    names = [f"layers.{i}.{part}" for i in range(4) for part in layer] + ["head.dense", "head.classifier"]
    assert list(found) == names
    constants = {t.name: list(t.dims) for t in onnx.load(bert).graph.initializer}
    for name, product in found.items():
        parts = [np.prod(dims) for weight, dims in constants.items() if re.fullmatch(rf"{name}(\.\d)?\.weight", weight)]
        assert product.weights == sum(parts)
    assert backend.products(bert, ["Gather"]) == {}


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_the_oldest_runtime_is_known_before_there_is_a_file(
    bert: Path, tmp_path: Path, scheme: Scheme, embedding: str
) -> None:
    tensors = backend.quantized_tensors(bert, QUANT["ops"])
    ranges = ranges_of(observe(backend.activations(bert, tensors, rows(), PAD)), "minmax")
    backend.quantize(bert, ranges, QUANT, scheme, Precision(embedding=embedding), tmp_path / "out.onnx")
    assert backend.describe(tmp_path / "out.onnx").min_runtime == backend.oldest(scheme)


@pytest.mark.parametrize("scheme", [STATIC[0], *OTHERS], ids=lambda s: s.name)
@pytest.mark.parametrize("op", ["Gemm", "Gather"])
def test_only_the_operators_that_the_target_names_become_integers(
    bert: Path, tmp_path: Path, scheme: Scheme, op: str
) -> None:
    tensors = backend.quantized_tensors(bert, [op])
    ranges = ranges_of(observe(backend.activations(bert, tensors, rows(), PAD)), "minmax")
    backend.quantize(bert, ranges, {**QUANT, "ops": [op]}, scheme, Precision(), tmp_path / "out.onnx")
    before = {t.name: t.data_type for t in onnx.load(bert).graph.initializer if len(t.dims) == 2}
    floats = {t.name for t in onnx.load(tmp_path / "out.onnx").graph.initializer if t.data_type == TensorProto.FLOAT}
    tables = {n.input[0] for n in onnx.load(bert).graph.node if n.op_type == "Gather"} & set(before)
    products = {n.input[1] for n in onnx.load(bert).graph.node if n.op_type == "Gemm"}
    assert products <= floats if op == "Gather" else not products & floats
    assert tables <= floats if op == "Gemm" else not tables & floats


@pytest.fixture(scope="module")
def factorised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "factorised.onnx"
    model = student("electra")
    narrow = factorise_words(model, 8, np.ones(model.config.vocab_size))
    with torch.no_grad():
        bias = narrow.embeddings.words.bias  # not zero, as training leaves it
        bias.copy_(0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)))
    backend.export_student(narrow, "dynamic", MAX_LENGTH, path)
    return path


def test_what_widens_a_factorised_table_adds_no_bias_of_its_own(factorised: Path) -> None:
    """In the dynamic form a bias is a node of its own; positions are added there anyway."""
    (node,) = (n for n in onnx.load(factorised).graph.node if "embeddings.words.weight" in n.input)
    assert (node.op_type, len(node.input)) == ("Gemm", 2)


def test_products_of_the_embeddings_have_the_encoders_names_too(factorised: Path) -> None:
    assert list(backend.products(factorised, "all"))[:3] == [
        "embeddings.words",
        "embeddings.projection",
        "layers.0.qkv",
    ]


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("scheme", [STATIC[0], *OTHERS], ids=lambda s: s.name)
def test_a_factorised_table_and_its_product_become_integers_in_every_form(
    factorised: Path, tmp_path: Path, scheme: Scheme, embedding: str
) -> None:
    tensors = backend.quantized_tensors(factorised, QUANT["ops"])
    observed = observe(backend.activations(factorised, tensors, rows(), PAD))
    out = tmp_path / "out.onnx"
    backend.quantize(factorised, ranges_of(observed, "minmax"), QUANT, scheme, Precision(embedding=embedding), out)
    floats = {t.name for t in onnx.load(out).graph.initializer if t.data_type == TensorProto.FLOAT}
    assert not {"embeddings.word.weight", "embeddings.words.weight"} & floats
    many = tiny.token_rows(100, [5, 12, 20] * 8, seed=3)
    expected, found = backend.logits(factorised, many, PAD), backend.logits(out, many, PAD)
    error = float(np.sqrt(np.mean((found - expected) ** 2)))
    coarse = scheme.weight == "int4" or embedding == "int4-blocks"
    assert 0 < error < (0.5 if coarse else 0.15) * float(expected.std())


@pytest.mark.parametrize(
    ("scheme", "product"), [(STATIC[0], "QGemm"), (OTHERS[0], "MatMulInteger")], ids=["static", "dynamic"]
)
def test_the_integers_of_a_factorised_table_enter_its_product_as_they_are_stored(
    factorised: Path, tmp_path: Path, scheme: Scheme, product: str
) -> None:
    """What the runtime makes of the graph: no rounding between the table and the product that widens it."""
    tensors = backend.quantized_tensors(factorised, QUANT["ops"])
    narrow = {name: Range(-1e-3, 1e-3, "minmax", 1) for name in tensors if name.startswith("embedding")}
    observed = observe(backend.activations(factorised, tensors, rows(), PAD))
    ranges = {**ranges_of(observed, "minmax"), **narrow}  # a range for the rows would clip them, if it were used
    assert narrow
    backend.quantize(factorised, ranges, QUANT, scheme, Precision(), tmp_path / "out.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(tmp_path / "out.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    (gather,) = (n for n in graph.node if n.op_type == "Gather" and n.input[0].startswith("embeddings.word.weight"))
    assert [n.op_type for n in graph.node if gather.output[0] in n.input] == [product]


@pytest.mark.parametrize("narrow", [0, 8])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("scheme", [STATIC[0], *OTHERS], ids=lambda s: s.name)
def test_tokens_that_share_rows_answer_as_their_owners_do_in_every_form(
    tmp_path: Path, scheme: Scheme, embedding: str, narrow: int
) -> None:
    model = student("bert")
    owners = np.arange(model.config.vocab_size) // 4 * 4
    shared = share_words(model, owners)
    if narrow:
        shared = factorise_words(shared, narrow, np.ones(len(owners)))
    graph, out = tmp_path / "float.onnx", tmp_path / "out.onnx"
    backend.export_student(shared, "dynamic", MAX_LENGTH, graph)
    tensors = backend.quantized_tensors(graph, QUANT["ops"])
    ranges = ranges_of(observe(backend.activations(graph, tensors, rows(), PAD)), "minmax")
    backend.quantize(graph, ranges, QUANT, scheme, Precision(embedding=embedding), out)
    table = next(t for t in onnx.load(graph).graph.initializer if t.name == "embeddings.word.weight")
    assert table.dims[0] == len(set(owners))
    floats = {t.name for t in onnx.load(out).graph.initializer if t.data_type == TensorProto.FLOAT}
    assert "embeddings.word.weight" not in floats
    numbers = next(t for t in onnx.load(out).graph.initializer if list(t.dims) == [len(owners)])
    assert numbers.data_type == TensorProto.INT32
    many = tiny.token_rows(100, [5, 12, 20] * 8, seed=3)
    found = backend.logits(out, many, PAD)
    np.testing.assert_array_equal(found, backend.logits(out, [owners[row] for row in many], PAD))
    expected = backend.logits(graph, many, PAD)
    with torch.inference_mode():
        trained = [shared(torch.from_numpy(row)[None]).logits[0].numpy() for row in many]
    np.testing.assert_allclose(expected, trained, rtol=0, atol=1e-4)
    error = float(np.sqrt(np.mean((found - expected) ** 2)))
    coarse = scheme.weight == "int4" or embedding == "int4-blocks"
    assert 0 < error < (0.5 if coarse else 0.15) * float(expected.std())


@pytest.mark.parametrize("layers", [1, 3])
def test_attention_is_reshaped_no_more_than_its_heads_ask_for(layers: int, tmp_path: Path) -> None:
    model = keep_layers(student("bert"), range(layers))
    backend.export_student(model, "dynamic", MAX_LENGTH, tmp_path / "float.onnx")
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "float.onnx").graph.node)
    # Heads apart, keys for the scores, heads together again; the last layer's one row has nothing to transpose back.
    assert ops["Transpose"] == 3 * (layers - 1) + 2
    assert ops["Reshape"] == 2 * (layers - 1) + 3
    assert ops["Split"] == layers
    assert (ops["Squeeze"], ops["Unsqueeze"]) == (1, 0)  # the batch of the ids
