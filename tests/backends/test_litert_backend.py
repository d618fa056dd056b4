""".tflite files against torch, NumPy and the runtime: the same logits, our ranges and scales, clear refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from litert_graphs import (
    ALL,
    FEW,
    FORMS,
    LENGTH,
    MAX_LENGTH,
    PAD,
    constants_of,
    expected_of,
    grid_of,
    operators_of,
    ranges_for,
    rows,
    tensors_of,
)
from test_onnxruntime import student

from edgekit import backends
from edgekit.backends import Precision, Scheme, Tensor, litert
from edgekit.backends import _litert_file as file
from edgekit.backends._litert_quantize import PADDED_BELOW
from edgekit.errors import TargetError
from edgekit.measure import KERNELS_TOLERANCE
from edgekit.quant.ranges import Range
from edgekit.quant.weights import rounded, scales_of

pytestmark = pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")

DYNAMIC, STATIC = litert.SCHEMES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    litert.export_student(student("bert"), "buckets", MAX_LENGTH, folder / "bert.tflite")
    return folder / "bert.tflite"


@pytest.fixture(scope="module")
def integers(bert: Path, folder: Path) -> dict[str, Path]:
    """The graph in each scheme: products alone, and for the static one all operators as well."""
    paths = {}
    for name, scheme, quant in (("static", STATIC, FEW), ("all", STATIC, ALL), ("dynamic", DYNAMIC, FEW)):
        paths[name] = folder / f"{name}.tflite"
        ranges = ranges_for(litert, bert, quant) if scheme is STATIC else {}
        litert.quantize(bert, ranges, quant, scheme, Precision(), paths[name])
    return paths


@pytest.mark.parametrize("name", FORMS)
def test_float_logits_are_torchs_whatever_fills_a_row_up(name: str, tmp_path: Path) -> None:
    kind, changed = FORMS[name]
    model = changed(student(kind)).eval()
    litert.export_student(model, "buckets", MAX_LENGTH, tmp_path / "m.tflite")
    for pad_id in (PAD, 77):
        found = litert.logits(tmp_path / "m.tflite", rows(), pad_id)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected_of(model), rtol=0, atol=1e-4)
    products = litert.products(tmp_path / "m.tflite", "all")
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(products) == linear
    assert not {"GATHER_ND", "SELECT_V2", "CAST", "EXPAND_DIMS"} & set(operators_of(tmp_path / "m.tflite"))


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_the_teachers_graph_answers_as_transformers(kind: str, tmp_path: Path) -> None:
    model = tiny.classifier(kind, seed=5)
    litert.export_teacher(model, MAX_LENGTH, tmp_path / "t.tflite")
    found = litert.logits(tmp_path / "t.tflite", rows(), model.config.pad_token_id)
    np.testing.assert_allclose(found, expected_of(model), rtol=0, atol=1e-4)
    assert [(t.name, t.shape) for t in litert.describe(tmp_path / "t.tflite").inputs] == [
        ("input_ids", (1, MAX_LENGTH)),
        ("attention_mask", (1, MAX_LENGTH)),
    ]


def test_describe_says_what_an_app_must_know(bert: Path) -> None:
    found = litert.describe(bert)
    assert (found.format, found.opset, found.min_runtime) == ("tflite", 3, "2.3")
    names = ("input_ids", "token_type_ids", "attention_mask")
    assert found.inputs == tuple(Tensor(name, "int32", (1, LENGTH)) for name in names)
    assert found.outputs == (Tensor("logits", "float32", (1, 4)),)
    assert found.nodes == len(operators_of(bert))


def test_exporting_again_gives_the_same_bytes_which_name_nothing_of_this_machine(bert: Path, tmp_path: Path) -> None:
    litert.export_student(student("bert"), "buckets", MAX_LENGTH, tmp_path / "again.tflite")
    content = bert.read_bytes()
    assert (tmp_path / "again.tflite").read_bytes() == content
    for trace in (b"site-packages", b".py", b"/tmp", b"/home", b"/work", b"__main__", b"torch"):
        assert trace not in content


def test_what_is_made_of_the_mask_alone_needs_no_range(bert: Path) -> None:
    """Unpadded rows would show it as always 0, and lint would call a part of the model dead."""
    tensors, lookup = litert.quantized_tensors(bert, "all"), "embeddings.embedding_lookup"
    assert lookup in tensors
    for seen in litert.activations(bert, tensors, rows()[3:5], PAD):
        assert all(values.any() for values in seen.values())


def test_products_are_what_their_weights_and_inputs_say(bert: Path) -> None:
    values, tensors = constants_of(bert), litert.quantized_tensors(bert, FEW["ops"])
    seen = list(litert.activations(bert, tensors, rows(), PAD))
    weights = {name: value for name, value in values.items() if name.endswith(".weight")}
    assert len(weights) == 4 * 4 + 1 + 2, "the last layer's query is a product of its own"
    products = litert.products(bert, "all")
    assert sum(product.weights for product in products.values()) == sum(value.size for value in weights.values())
    for found in seen:
        entering = found[products["layers.0.up"].entering]
        given = entering.astype(np.float64) @ values["layers.0.up.weight"].T + values["layers.0.up.bias"]
        np.testing.assert_allclose(found["layers.0.up.fully_connected"], given, rtol=0, atol=1e-4)
    norms = (values["layers.0.up.weight"].astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(litert.input_weights(bert, "all")[products["layers.0.up"].entering], norms, rtol=1e-6)


def test_padding_never_enters_what_is_observed(bert: Path, tmp_path: Path) -> None:
    """Each row by the graph of 40 tokens shows what it does by one that it fills."""
    tensors = litert.quantized_tensors(bert, "all")
    for row in (rows()[2], rows()[3]):
        litert.export_student(student("bert"), len(row), len(row), tmp_path / "exact.tflite")
        assert set(tensors) == set(litert.quantized_tensors(tmp_path / "exact.tflite", "all"))
        (exact,) = litert.activations(tmp_path / "exact.tflite", tensors, [row], PAD)
        (padded,) = litert.activations(bert, tensors, [row], PAD)
        for name in tensors:
            assert padded[name].shape == exact[name].shape, name
            np.testing.assert_allclose(padded[name], exact[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["static", "all", "dynamic"])
def test_integer_files_answer_nearly_as_the_float_one(bert: Path, integers: dict[str, Path], name: str) -> None:
    expected, found = litert.logits(bert, rows(), PAD), litert.logits(integers[name], rows(), PAD)
    error = float(np.sqrt(np.mean((found - expected) ** 2)))
    assert 0 < error < 0.15 * float(expected.std())
    assert integers[name].stat().st_size < bert.stat().st_size
    assert litert.describe(integers[name]).outputs == (Tensor("logits", "float32", (1, 4)),)
    assert all(one.dtype == "int32" for one in litert.describe(integers[name]).inputs)


@pytest.mark.parametrize("name", ["static", "all", "dynamic"])
def test_weights_are_rounded_to_our_scales(bert: Path, integers: dict[str, Path], name: str) -> None:
    floats, found, tensors = constants_of(bert), constants_of(integers[name]), tensors_of(integers[name])
    weights = [one for one in floats if one.endswith(".weight")]
    assert len(weights) == 19
    for weight in weights:
        scales = scales_of(floats[weight], "full", Precision().weight_method)
        np.testing.assert_allclose(grid_of(tensors[weight])[0], scales, rtol=1e-6, err_msg=weight)
        assert found[weight].dtype == np.int8
        np.testing.assert_array_equal(found[weight], rounded(floats[weight], scales, "full"), err_msg=weight)
    (table,) = (one for one, values in floats.items() if values.shape == (141, 32))
    assert found[table].dtype == np.int8


@pytest.mark.parametrize(("name", "quant"), [("static", FEW), ("all", ALL)])
def test_activations_have_our_ranges(bert: Path, integers: dict[str, Path], name: str, quant: Any) -> None:
    ranges, tensors = ranges_for(litert, bert, quant), tensors_of(integers[name])
    model = file.read(bert)
    scores = {file.name_of(file.inputs_of(model, o)[0]) for op, o in file.operators(model) if op == "SOFTMAX"}
    of_kernels = r".*(softmax|tanh|gather|reshape|transpose|slice)(\.\d+)?"  # fixed, or their input's
    # What an FFN's second product reads and gives is float, but where the operator beside it has integers.
    second = {
        file.name_of(one)
        for op, operator in file.operators(model)
        if op == "FULLY_CONNECTED" and ".down." in file.name_of(file.outputs_of(model, operator)[0])
        for one in (file.inputs_of(model, operator)[0], file.outputs_of(model, operator)[0])
    }
    left = second if quant is FEW else set()
    checked = [one for one in ranges if not re.fullmatch(of_kernels, one) and one not in left]
    assert len(checked) >= 20
    assert all(file.dtype_of(tensors[one]) == "float32" for one in left)
    for one in checked:
        scale, zero = (values.item() for values in grid_of(tensors.get(f"{one}_quantized", tensors[one])))
        low = ranges[one].low - PADDED_BELOW * (one in scores)
        assert (-128 - zero) * scale == pytest.approx(low, abs=scale), one
        assert (127 - zero) * scale == pytest.approx(ranges[one].high, abs=scale), one


def test_a_product_is_what_its_integers_say(bert: Path, integers: dict[str, Path]) -> None:
    """NumPy dequantizes weights, bias and input of a product, and rounds its output: the runtime's to one step."""
    path, name = integers["all"], "layers.0.up"
    values, tensors = constants_of(path), tensors_of(path)
    entering = litert.products(bert, "all")[name].entering
    (x_scale, x_zero), (y_scale, y_zero) = (grid_of(tensors[one]) for one in (entering, f"{name}.fully_connected"))
    weights = values[f"{name}.weight"] * grid_of(tensors[f"{name}.weight"])[0][:, None].astype(np.float64)
    bias = values[f"{name}.bias"] * (x_scale * grid_of(tensors[f"{name}.weight"])[0]).astype(np.float64)
    for found in litert.activations(path, [entering, f"{name}.fully_connected"], rows(), PAD):
        x = (found[entering].astype(np.int64) - x_zero) * float(x_scale[0])
        y = np.clip(np.rint((x @ weights.T + bias) / float(y_scale[0])) + y_zero, -128, 127)
        assert np.abs(found[f"{name}.fully_connected"] - y).max() <= 1


@pytest.mark.parametrize("scheme", litert.SCHEMES, ids=lambda s: s.name)
def test_products_stay_float_where_asked(bert: Path, tmp_path: Path, scheme: Scheme) -> None:
    kept = frozenset({"layers.0.qkv", "layers.3.qkv", "head.classifier"})
    ranges = ranges_for(litert, bert, FEW) if scheme is STATIC else {}
    litert.quantize(bert, ranges, FEW, scheme, Precision(keep_float=kept), tmp_path / "m.tflite")
    types = {name: values.dtype for name, values in constants_of(tmp_path / "m.tflite").items()}
    floats = {name for name, dtype in types.items() if name.endswith(".weight") and dtype == np.float32}
    assert floats == {
        "layers.0.qkv.0.weight", "layers.3.qkv.0.weight", "layers.3.qkv.1.weight", "head.classifier.weight"
    }  # fmt: skip
    original = constants_of(bert)
    for name in floats:
        np.testing.assert_array_equal(constants_of(tmp_path / "m.tflite")[name], original[name])
    assert np.isfinite(litert.logits(tmp_path / "m.tflite", rows(), PAD)).all()


def test_corrected_biases_take_the_mean_of_the_error_away(bert: Path, tmp_path: Path) -> None:
    entering = litert.products(bert, "all")["layers.1.down"].entering
    means = {entering: np.linspace(-2, 3, 32)}
    litert.quantize(bert, {}, FEW, DYNAMIC, Precision(means=means), tmp_path / "m.tflite")
    before, after = constants_of(bert), constants_of(tmp_path / "m.tflite")
    scales = grid_of(tensors_of(tmp_path / "m.tflite")["layers.1.down.weight"])[0]
    grid = after["layers.1.down.weight"] * scales[:, None].astype(np.float64)
    change = (grid - before["layers.1.down.weight"]) @ means[entering]
    np.testing.assert_allclose(before["layers.1.down.bias"] - after["layers.1.down.bias"], change, atol=1e-5)
    np.testing.assert_array_equal(after["layers.1.up.bias"], before["layers.1.up.bias"])


def test_the_word_table_has_a_scale_or_one_for_each_row(bert: Path, tmp_path: Path) -> None:
    counts = {}
    for form in ("int8", "int8-rows"):
        litert.quantize(bert, {}, FEW, DYNAMIC, Precision(embedding=form), tmp_path / "m.tflite")
        (table,) = (t for t in tensors_of(tmp_path / "m.tflite").values() if file.shape_of(t) == (141, 32))
        counts[form] = len(grid_of(table)[0])
    assert counts == {"int8": 1, "int8-rows": 141}
    with pytest.raises(TargetError, match="'int4-blocks', but LiteRT's lookup has int8 or int8-rows"):
        litert.quantize(bert, {}, FEW, DYNAMIC, Precision(embedding="int4-blocks"), tmp_path / "x.tflite")
    assert not (tmp_path / "x.tflite").exists()


@pytest.mark.parametrize("scheme", litert.SCHEMES, ids=lambda s: s.name)
def test_quantizing_again_gives_the_same_bytes(bert: Path, tmp_path: Path, scheme: Scheme) -> None:
    ranges = ranges_for(litert, bert, FEW) if scheme is STATIC else {}
    for name in ("one", "other"):
        litert.quantize(bert, ranges, FEW, scheme, Precision(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_what_fills_a_row_up_changes_nothing_in_integers_either(integers: dict[str, Path]) -> None:
    """Three tokens and thirty-seven of padding: cut off at the lowest score it would move logits by two thirds."""
    short = [row[:3] for row in rows()]
    for name in ("static", "all"):
        found = [litert.logits(integers[name], short, pad_id) for pad_id in (PAD, 77)]
        np.testing.assert_array_equal(*found)


def test_ranges_that_lack_a_tensor_are_refused_by_its_name(bert: Path, tmp_path: Path) -> None:
    ranges: dict[str, Range] = ranges_for(litert, bert, FEW)
    del ranges["layers.0.up.fully_connected"]
    with pytest.raises(ValueError, match=r"layers\.0\.up\.fully_connected"):
        litert.quantize(bert, ranges, FEW, STATIC, Precision(), tmp_path / "m.tflite")


def test_integer_products_are_exact_at_their_extremes(tmp_path: Path) -> None:
    rows, expected = litert.self_test(tmp_path / "extremes.tflite")
    found = litert.logits(tmp_path / "extremes.tflite", rows, 0)
    assert np.abs(found - expected).max() <= KERNELS_TOLERANCE * np.abs(expected).max()
    assert expected.max() >= 255 * 127 * 384 * 0.999, "sums of one sign are among them"


def test_the_backend_is_found_by_its_name_and_its_schemes_by_theirs() -> None:
    assert backends.load_backend("litert") is litert
    assert {scheme.name for scheme in litert.SCHEMES} <= set(backends.schemes())
    assert len(backends.schemes()) == sum(len(backends.load_backend(name).SCHEMES) for name in backends.names())
