"""Simulated integers against NumPy, and against the int8 graph that onnxruntime runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from test_encoder import uneven
from test_surgery import logits_of

from edgekit.backends import Precision, Scheme
from edgekit.backends import onnxruntime as backend
from edgekit.errors import DataError
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.equalise import products
from edgekit.ir.lean import product_of
from edgekit.ir.simulate import (
    FakeQuantizer,
    WeightRounder,
    integers,
    layer_of,
    one_rounded,
    outputs_of,
    restored,
    resumed,
    trainable,
    watch,
    without_rounding,
)
from edgekit.quant.methods import fake_quantized
from edgekit.quant.ranges import Range
from edgekit.quant.weights import bound_scales, rounded
from edgekit.stages._qat import WRITTEN_WITH, stored_ranges

QUANT = {
    "weight": {"dtype": "auto", "granularity": "per-channel", "symmetric": True},
    "activation": {"dtype": "uint8", "symmetric": False},
    "ops": ["Gemm"],
}


@pytest.mark.parametrize("ends", [(-3.0, 5.0), (0.0, 6.0), (-2.5, 0.0), (0.0, 0.0)])
def test_the_fake_quantizer_is_numpys(ends: tuple[float, float]) -> None:
    values = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32) * 3
    found = FakeQuantizer(*ends)(torch.from_numpy(values)).numpy()
    expected = fake_quantized(values, *ends, 256) if ends != (0.0, 0.0) else np.clip(np.round(values), 0, 255)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_extremes_are_those_of_unpadded_rows() -> None:
    model = uneven()
    rows = tiny.token_rows(model.config.vocab_size, [2, 9, 30])
    seen = watch(model, rows)
    values: list[np.ndarray] = []
    model.layers[0].up.register_forward_pre_hook(lambda _, given: values.append(given[0][0].numpy()))
    with torch.inference_mode():
        for row in rows:
            model(torch.from_numpy(row)[None])
    every = np.concatenate(values)
    np.testing.assert_array_equal(seen["layers.0.up"].low.numpy(), every.min(axis=0))
    np.testing.assert_array_equal(seen["layers.0.up"].high.numpy(), every.max(axis=0))
    assert seen["layers.0.up"].range == (min(every.min(), 0), max(every.max(), 0))
    assert list(seen) == [name for name, _ in products(model)]


def test_extremes_of_a_factorised_word_table_are_all_its_rows() -> None:
    model = uneven(word_rank=7)
    found = watch(model, [np.array([3, 5])])["embeddings.words"]
    table = model.embeddings.word.weight.detach().numpy()
    np.testing.assert_array_equal(found.low.numpy(), table.min(axis=0))
    np.testing.assert_array_equal(found.high.numpy(), table.max(axis=0))


@pytest.mark.parametrize(
    ("bound", "tables", "ops"),
    [
        ("pairs", {}, ["Gemm"]),
        ("seven-bit", {}, ["Gemm"]),
        ("pairs", {"embedding_size": 12}, ["Gemm"]),
        ("pairs", {"word_rank": 7}, ["Gemm"]),
        ("pairs", {"word_rank": 7}, ["Gemm", "Gather"]),
    ],
)
def test_simulated_products_are_those_of_the_int8_graph(
    bound: str, tables: dict[str, int], ops: list[str], tmp_path: Path
) -> None:
    model: EdgekitForSequenceClassification = uneven(**tables)
    rows = tiny.token_rows(model.config.vocab_size, [2, 5, 9, 17, 24] * 4, seed=1)
    seen = watch(model, rows)
    ranges = {name: one.range for name, one in seen.items()}
    backend.export_student(model, "dynamic", 24, tmp_path / "float.onnx")
    inputs = {n.input[0]: product_of(n.input[1]) for n in onnx.load(tmp_path / "float.onnx").graph.node
              if n.op_type == "Gemm"}  # fmt: skip
    assert set(inputs.values()) == {name for name, _ in products(model)}
    everything = {name: Range(-1.0, 1.0, "minmax", 1) for name in
                  backend.quantized_tensors(tmp_path / "float.onnx", ops)}  # fmt: skip
    # With Gather among the operators a factorised table's rows keep its own grid, whatever range they are given.
    own = {"embeddings.words"} if "Gather" in ops else set()
    everything |= {tensor: Range(*ranges[name], "minmax", 1) for tensor, name in inputs.items() if name not in own}
    quant = {**QUANT, "ops": ops}
    scheme = Scheme("s", "static", "int8", bound)  # type: ignore[arg-type]
    backend.quantize(tmp_path / "float.onnx", everything, quant, scheme, Precision(), tmp_path / "int8.onnx")
    played = dict(products(integers(model, seen, bound)))  # type: ignore[arg-type]
    compared = 0
    for row in rows:
        shown = runtime_shows(tmp_path / "int8.onnx", row)
        for node in shown:
            name = product_of(node.weight)
            gate, product = played[name].gate, played[name]
            assert isinstance(gate, FakeQuantizer)
            # What onnxruntime rounded to, from what it rounded: the same integers, bit for bit.
            mine = gate(torch.from_numpy(node.entered)).numpy() / gate.scale + gate.zero
            np.testing.assert_array_equal(np.round(mine), node.integers)
            if not name.endswith("qkv"):  # the export splits that product and scales its query
                bias = None if name == "embeddings.words" else product.bias  # that one is in the table of positions
                with torch.inference_mode():
                    out = torch.nn.functional.linear(gate(torch.from_numpy(node.entered)), product.weight, bias)
                # What is left is the bias, which the graph holds as an integer of the product's step.
                np.testing.assert_allclose(out.numpy(), node.out, atol=2e-3 * float(np.ptp(node.out)))
            compared += 1
    assert compared == len(rows) * len(inputs)
    theirs = backend.logits(tmp_path / "int8.onnx", rows, model.config.pad_token_id)
    ours = logits_of(integers(model, seen, bound), rows)  # type: ignore[arg-type]
    # Over the whole model float rounding moves a value across the border of two steps now and then.
    assert (np.abs(ours - theirs).max(axis=1) / np.ptp(theirs)).max() < 0.02
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() >= 0.95


@dataclass(frozen=True)
class Shown:
    """One product as the runtime computed it: its weight's name, input, rounded input and output."""

    weight: str
    entered: np.ndarray
    integers: np.ndarray
    out: np.ndarray


def runtime_shows(path: Path, row: np.ndarray) -> list[Shown]:
    """Runs one row with every product's input, integers and output among the graph's outputs."""
    model = onnx.load(path)
    made = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            quantize = made[made[node.input[0]].input[0]]
            weight = made[node.input[1]].input[0].removesuffix("_quantized")
            found.append((weight, quantize.input[0], quantize.output[0], node.output[0]))
    names = list(dict.fromkeys(name for _, *three in found for name in three))
    have = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = dict(zip(names, session.run(names, {"input_ids": row[None]}), strict=True))
    return [Shown(weight, values[x], values[q], values[y]) for weight, x, q, y in found]


def test_products_without_extremes_stay_float() -> None:
    model = uneven()
    rows = tiny.token_rows(model.config.vocab_size, [2, 9, 30])
    seen = watch(model, rows)
    np.testing.assert_array_equal(logits_of(integers(model, {}), rows), logits_of(model, rows))
    one = integers(model, {"layers.1.up": seen["layers.1.up"]})
    assert [n for n, p in products(one) if isinstance(p.gate, FakeQuantizer)] == ["layers.1.up"]
    assert not np.array_equal(logits_of(one, rows), logits_of(model, rows))


def test_a_search_shares_what_it_does_not_round() -> None:
    model = uneven()
    rows = tiny.token_rows(model.config.vocab_size, [2, 9, 30])
    before = logits_of(model, rows)
    one = one_rounded(model, "layers.1.up", watch(model, rows)["layers.1.up"], None, "pairs")
    assert not np.array_equal(logits_of(one, rows), before)
    np.testing.assert_array_equal(logits_of(model, rows), before)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in one.parameters()}
    assert len(shared) == len(list(model.parameters())) - 1


@pytest.mark.parametrize("name", ["layers.0.qkv", "layers.1.down", "layers.2.qkv", "head.dense", "head.classifier"])
def test_a_run_that_starts_behind_what_stays_float_is_the_same_to_the_bit(name: str) -> None:
    model = uneven()
    rows = tiny.token_rows(model.config.vocab_size, [2, 9, 30, 4], seed=5)
    before = logits_of(model, rows)
    seen = watch(model, rows)[name]
    layer = layer_of(name, len(model.layers))
    whole = logits_of(one_rounded(model, name, seen, None, "pairs"), rows)
    short = one_rounded(model, name, seen, None, "pairs")
    if layer:
        short = resumed(short, layer, outputs_of(model, layer - 1, lambda m: logits_of(m, rows)))
    for _ in range(2):  # a second run over the same batches starts from the first again
        np.testing.assert_array_equal(logits_of(short, rows), whole)
    assert not np.array_equal(whole, before)
    np.testing.assert_array_equal(logits_of(model, rows), before)


def test_a_trainable_copy_computes_as_its_integers_would() -> None:
    model: EdgekitForSequenceClassification = uneven()
    rows = tiny.token_rows(model.config.vocab_size, [3, 8, 15], seed=2)
    seen = watch(model, rows)
    copy = trainable(model, {name: one.range for name, one in seen.items()}, "pairs").eval()
    for name, product in products(copy):
        weight = dict(products(model))[name].weight.detach()
        expected = restored(weight, bound_scales(weight.numpy(), "pairs"), "pairs")
        torch.testing.assert_close(product.weights(), expected, atol=1e-6, rtol=0)
    assert np.abs(logits_of(copy, rows) - logits_of(model, rows)).max() > 1e-4
    np.testing.assert_array_equal(logits_of(without_rounding(copy), rows), logits_of(model, rows))


@pytest.mark.parametrize(("bound", "word_rank"), [("pairs", 0), ("full", 0), ("pairs", 7)])
def test_what_is_trained_is_what_is_written(bound: str, word_rank: int, tmp_path: Path) -> None:
    """Every integer of the file is the one that the trained copy computed with."""
    model: EdgekitForSequenceClassification = uneven(word_rank=word_rank)
    rows = tiny.token_rows(model.config.vocab_size, [3, 8, 15], seed=2)
    ranges = {name: one.range for name, one in watch(model, rows).items()}
    copy = trainable(model, ranges, bound).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in copy.parameters():  # as a training would leave them
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    backend.export_student(without_rounding(copy), "dynamic", 24, tmp_path / "float.onnx")
    nodes = [n for n in onnx.load(tmp_path / "float.onnx").graph.node if n.op_type == "Gemm"]
    given = {n.input[0]: Range(*ranges[product_of(n.input[1])], "minmax", 1) for n in nodes}
    scheme = Scheme("s", "static", "int8" if bound == "pairs" else "uint8", bound)  # type: ignore[arg-type]
    precision = Precision(weight_method=WRITTEN_WITH)
    backend.quantize(tmp_path / "float.onnx", given, QUANT, scheme, precision, tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    written: dict[str, list[np.ndarray]] = {}
    for name in sorted(n for n in constants if n.endswith(".weight_quantized")):
        zero = constants[name.replace("_quantized", "_zero_point")].astype(int)
        written.setdefault(product_of(name.removesuffix("_quantized")), []).append(
            constants[name].astype(int) - zero[:, None]
        )
    trained = dict(products(copy))
    assert set(written) == set(trained)
    for name, product in trained.items():
        weight = product.weight.detach().numpy()
        expected = rounded(weight, bound_scales(weight, bound), bound)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.concatenate(written[name]), expected, err_msg=name)
        torch.testing.assert_close(
            product.weights(),
            torch.from_numpy(expected * bound_scales(weight, bound)[:, None]),
            atol=1e-6,
            rtol=0,  # type: ignore[arg-type]
        )
    ours, theirs = logits_of(copy, rows), backend.logits(tmp_path / "int8.onnx", rows, model.config.pad_token_id)
    assert (np.abs(ours - theirs).max(axis=1) / np.ptp(theirs)).max() < 0.02


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_is_named_by_the_product_that_it_reaches_first(value: float) -> None:
    model = uneven()
    with torch.no_grad():
        model.layers[1].output.bias[0] = value
    with pytest.raises(DataError, match=r"the input of product 'layers\.1\.up' is not finite on row 1 of 2"):
        watch(model, tiny.token_rows(model.config.vocab_size, [4, 9]))


def test_gradients_pass_the_rounding_and_stop_at_what_is_clipped() -> None:
    x = torch.tensor([-3.0, -0.9, 0.2, 1.7, 5.0], requires_grad=True)
    FakeQuantizer(-1.0, 2.0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    weight = torch.randn(4, 6, requires_grad=True)
    WeightRounder("pairs")(weight).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()


def test_training_with_rounding_brings_the_rounded_model_nearer() -> None:
    torch.manual_seed(0)
    model: EdgekitForSequenceClassification = uneven()
    rows = torch.from_numpy(np.stack(tiny.token_rows(model.config.vocab_size, [12] * 32, seed=3)))
    expected = model(rows).logits.detach()
    seen = watch(model, [row.numpy() for row in rows])
    # Ranges cut to a third: much is clipped, which training can make up for.
    copy = trainable(model, {n: tuple(end / 3 for end in one.range) for n, one in seen.items()}, "pairs")  # type: ignore[misc]
    optimizer = torch.optim.Adam(copy.parameters(), lr=1e-3)
    errors = []
    for _ in range(30):
        error = ((copy(rows).logits - expected) ** 2).mean()
        errors.append(float(error.detach()))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert errors[-1] < 0.3 * errors[0]


def test_training_with_rounding_takes_a_factorised_tables_own_range() -> None:
    model = uneven(word_rank=7)
    table = model.embeddings.word.weight.detach()
    expected = {"embeddings.words": (float(table.min()), float(table.max()))}
    assert stored_ranges(model, ["embeddings.words", "layers.0.qkv"]) == expected
    assert stored_ranges(model, ["layers.0.qkv"]) == stored_ranges(uneven(), ["embeddings.words"]) == {}
