"""Programs for Qualcomm's HTP: integers against NumPy, the compiler's contexts against a CPU by the same file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import tiny_qnn
import torch
from onnx import numpy_helper
from tiny_qnn import EIGHT_BITS, LENGTHS, MAX_LENGTH, PAD, QUANT, SIXTEEN_BITS, VOCABULARY

from edgekit import frontends
from edgekit.backends import Compiled, Precision, Scheme, _qnn_compile, onnxruntime, qnn, schemes
from edgekit.backends._onnx_versions import opset_of
from edgekit.backends._qnn_quantize import MASKED, MOVES
from edgekit.devices import ModelFile, TokenRows, connect
from edgekit.errors import RecipeError, TargetError
from edgekit.ir.encoder import PADDING_BIAS, EdgekitForSequenceClassification
from edgekit.ir.lean import LeanClassifier
from edgekit.ir.surgery import share_words
from edgekit.provenance import Provenance

SCHEMES = pytest.mark.parametrize("scheme", qnn.SCHEMES, ids=lambda scheme: scheme.name)


def constants(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qnn")


@pytest.fixture(scope="module")
def graph(folder: Path) -> Path:
    return tiny_qnn.export(folder / "float.onnx")


@pytest.fixture(scope="module")
def quantized(folder: Path, graph: Path) -> dict[str, Path]:
    """The graph in each scheme."""
    return {one.name: tiny_qnn.quantize(graph, one, folder / f"{one.name}.onnx") for one in qnn.SCHEMES}


@pytest.fixture(scope="module")
def compiled(folder: Path, quantized: dict[str, Path]) -> dict[str, tuple[Path, Compiled]]:
    """The programs of each scheme, with the folder that they are in."""
    pytest.importorskip("onnxruntime_qnn")
    made = {}
    for name, path in quantized.items():
        made[name] = folder / f"compiled-{name}", tiny_qnn.compile_for(path, folder / f"compiled-{name}")
    return made


def on_htp(path: Path, rows: list[np.ndarray]) -> np.ndarray:
    """Runs rows by a program in the simulator."""
    model = ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), PAD, by="qnn")
    return connect("htp").logits(model, TokenRows(rows), 1, None)


def with_operator(path: Path, op: str, out: Path) -> Path:
    """Writes a quantized graph with one of its Gelu replaced; returns its new path."""
    model = onnx.load(path)
    node = [one for one in model.graph.node if one.op_type == "Gelu"][1]
    node.op_type, node.name = op, "node_of_another_kind"
    del node.attribute[:]
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("model_type", ["bert", "mpnet"])
def test_the_float_graph_answers_as_torch_at_every_length(model_type: str, tmp_path: Path) -> None:
    path = tiny_qnn.export(tmp_path / "float.onnx", model_type)
    rows = tiny.token_rows(VOCABULARY, (2, 3, 7, 16, 29, 40), seed=3)
    lean = LeanClassifier(tiny_qnn.student(model_type), MAX_LENGTH).eval()
    with torch.inference_mode():
        expected = np.concatenate([lean(torch.from_numpy(row)[None]).numpy() for row in rows])
    np.testing.assert_allclose(qnn.logits(path, rows, PAD), expected, rtol=0, atol=1e-5)
    found = qnn.describe(path)
    assert [one.name for one in found.inputs] == ["input_ids", "attention_mask"]
    assert all(isinstance(one.shape[1], str) for one in found.inputs)


def test_scheme_names_are_unique_and_eight_bits_come_first() -> None:
    assert all(schemes()[one.name] is one for one in qnn.SCHEMES)
    assert [one.activation for one in qnn.SCHEMES] == ["uint8", "uint16"]
    assert [qnn.oldest(one) for one in qnn.SCHEMES] == ["1.17", "1.18"]


@SCHEMES
def test_scales_of_activations_are_those_of_the_ranges(graph: Path, quantized: Any, scheme: Scheme) -> None:
    tensors, stored = qnn.quantized_tensors(graph, "all"), constants(quantized[scheme.name])
    seen = list(qnn.activations(graph, tensors, tiny_qnn.CALIBRATION, PAD))
    model = onnx.load(graph)
    (bias,) = {n.input[0] for n in model.graph.node if n.op_type == "Unsqueeze"}
    masked = {n.output[0] for n in model.graph.node if n.op_type == "Add" and "unsqueeze" in n.input}
    assert masked
    steps = {"uint8": 255, "uint16": 65535}[scheme.activation]
    softmaxes = {n.output[0] for n in model.graph.node if n.op_type == "Softmax"}
    assert softmaxes < set(tensors)
    moved = {o for n in model.graph.node if n.op_type in MOVES for o in n.output}
    assert set(qnn.input_weights(graph, "all")) <= set(tensors)
    assert moved & set(tensors) <= set(qnn.input_weights(graph, "all"))
    for name in set(tensors) - moved:
        low = min(min(float(one[name].min()) for one in seen), 0.0) - (MASKED if name in masked else 0)
        high = max(max(float(one[name].max()) for one in seen), 0.0)
        low, high = (0.0, 1.0) if name in softmaxes else (low, high)
        scale = stored[f"{name}_scale"]
        np.testing.assert_allclose(scale, (high - low) / steps, rtol=1e-5)
        assert stored[f"{name}_zero_point"] == round(-low / float(scale))
        assert stored[f"{name}_zero_point"].dtype == scheme.activation
    # What is made of the mask: the bias of padding and none, both exactly.
    np.testing.assert_allclose(stored[f"{bias}_scale"], -PADDING_BIAS / steps, rtol=1e-6)
    assert stored[f"{bias}_zero_point"] == steps


@SCHEMES
def test_every_float_tensor_is_integers_and_the_interface_is_not(graph: Path, quantized: Any, scheme: Scheme) -> None:
    model = onnx.load(quantized[scheme.name])
    onnx.checker.check_model(model)
    made = {output: node for node in model.graph.node for output in node.output}
    floats = {one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert not floats & set(node.input), "no constant is left in float"
    for tensor in qnn.quantized_tensors(graph, "all"):
        readers = [n.op_type for n in model.graph.node if tensor in n.input]
        assert readers in (["QuantizeLinear"], []), "each is rounded before it is read"
    assert made["logits"].op_type == "DequantizeLinear"
    before, after = qnn.describe(graph), qnn.describe(quantized[scheme.name])
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
    assert after.min_runtime == qnn.oldest(scheme)
    assert opset_of(model) == (21 if scheme is SIXTEEN_BITS else 20)
    assert not re.search(rb"site-packages|/tmp|/work|\.py", quantized[scheme.name].read_bytes())


def test_weights_are_rounded_per_channel_and_gammas_and_the_word_table_unsigned(graph: Path, tmp_path: Path) -> None:
    floats = constants(graph)
    stored = constants(tiny_qnn.quantize(graph, SIXTEEN_BITS, tmp_path / "m.onnx", Precision(weight_method="max")))
    model = onnx.load(graph)
    products = [node.input[1] for node in model.graph.node if node.op_type == "Gemm"]
    assert len(products) == 4 * 4 + 1 + 2  # the last layer's query apart from its key and value; the head has two
    for name in products:  # stored as (outputs, inputs)
        scale = np.abs(floats[name]).max(axis=1) / 127
        np.testing.assert_allclose(stored[f"{name}_scale"], scale, rtol=1e-5)
        assert stored[f"{name}_quantized"].dtype == np.int8
        errors = np.abs(stored[f"{name}_quantized"] * scale[:, None] - floats[name])
        assert (errors < 0.501 * scale[:, None]).all()
    unsigned = [node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"]
    unsigned += ["embeddings.word.weight"]
    for name in unsigned:
        low, high = min(floats[name].min(), 0), max(floats[name].max(), 0)
        assert stored[f"{name}_quantized"].dtype == np.uint8
        np.testing.assert_allclose(stored[f"{name}_scale"], (high - low) / 255, rtol=1e-5)
        restored = (stored[f"{name}_quantized"].astype(int) - stored[f"{name}_zero_point"]) * stored[f"{name}_scale"]
        np.testing.assert_allclose(restored, floats[name], rtol=0, atol=0.501 * (high - low) / 255)


def test_weights_of_eight_bit_activations_do_not_saturate_on_a_cpu(quantized: dict[str, Path]) -> None:
    of_cpus, of_htp = (
        {one.check for one in lint(quantized[EIGHT_BITS.name], "x86_64", ["avx2"], qnn.OPS)}
        for lint in (onnxruntime.findings, qnn.findings)
    )
    assert (of_cpus, of_htp) == ({"float-operator", "int64-input"}, {"int64-input"})


def test_biases_are_corrected(graph: Path, tmp_path: Path) -> None:
    weights = qnn.input_weights(graph, "all")
    means = {name: np.full(len(values), 0.5) for name, values in weights.items()}
    plain, corrected = (
        constants(tiny_qnn.quantize(graph, EIGHT_BITS, tmp_path / f"{i}.onnx", Precision(means=one)))
        for i, one in enumerate(({}, means))
    )
    assert any(not np.array_equal(plain[name], corrected[name]) for name in plain if name.endswith("bias_quantized"))


def test_other_forms_of_the_word_table_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"quantize\.embedding is 'int8-rows', but HTP reads tables of one scale"):
        tiny_qnn.quantize(graph, EIGHT_BITS, tmp_path / "m.onnx", Precision(embedding="int8-rows"))
    assert not (tmp_path / "m.onnx").exists()


@SCHEMES
def test_quantizing_again_gives_the_same_bytes(graph: Path, quantized: Any, scheme: Scheme, tmp_path: Path) -> None:
    again = tiny_qnn.quantize(graph, scheme, tmp_path / "again.onnx")
    assert again.read_bytes() == quantized[scheme.name].read_bytes()


@SCHEMES
def test_a_program_is_one_node_for_each_length(compiled: Any, quantized: Any, scheme: Scheme) -> None:
    out, made = compiled[scheme.name]
    assert made.lengths == LENGTHS
    assert made.files == {length: f"SM8650/{scheme.name}-{length}.onnx" for length in LENGTHS}
    assert made.model == made.files[LENGTHS[-1]]
    assert (out / made.portable).read_bytes() == quantized[scheme.name].read_bytes()
    assert made.bytes == sum(file.stat().st_size for file in (out / "SM8650").iterdir())
    for length, name in made.files.items():
        model = onnx.load(out / name)
        assert [node.op_type for node in model.graph.node] == ["EPContext"]
        assert [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input] == [[1, length]] * 2
    assert made.coverage is not None
    assert (made.coverage.percent, made.coverage.fallback) == (100, ())
    assert made.coverage.nodes == made.coverage.delegated > 80
    assert made.coverage.provenance is Provenance.SIMULATED
    assert made.findings == (), "nothing is computed in float"
    assert not list(out.glob(".*"))


@SCHEMES
def test_a_program_names_nothing_of_this_machine_and_is_signed(compiled: Any, scheme: Scheme) -> None:
    out, made = compiled[scheme.name]
    for name in made.files.values():
        content = (out / name).read_bytes()
        (context,) = re.findall(rb"[\w-]+\.bin", content[: content.index(b"ep_sdk_version")])
        binary = (out / name).with_name(context.decode()).read_bytes()
        signed = next(p.value for p in onnx.load(out / name).metadata_props if p.key == "edgekit.contexts")
        assert json.loads(signed) == {context.decode(): hashlib.sha256(binary).hexdigest()}
        for trace in (b"site-packages", b"/tmp", b"/home", b"/work"):
            assert trace not in content + binary


@SCHEMES
def test_the_simulator_answers_as_a_cpu_by_the_portable_file(compiled: Any, scheme: Scheme) -> None:
    out, made = compiled[scheme.name]
    for shortest, longest in ((2, 16), (17, 40)):
        lengths = np.random.default_rng(longest).integers(shortest, longest + 1, size=24).tolist()
        rows = tiny.token_rows(VOCABULARY, lengths, seed=longest)
        found, expected = on_htp(out / made.files[longest], rows), qnn.logits(out / made.portable, rows, PAD)
        error = float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())
        same = float(np.mean(found.argmax(-1) == expected.argmax(-1)))
        print(f"{scheme.name} {longest}: error {error:.4f} of the deviation, {100 * same:.0f} % of the answers")
        assert error < {"uint8": 0.1, "uint16": 0.02}[scheme.activation]
        assert same > 0.9


def test_sixteen_bits_are_nearer_the_float_model_than_eight(compiled: Any, graph: Path) -> None:
    rows = tiny.token_rows(VOCABULARY, [5, 9, 13, 16] * 8, seed=9)
    expected, errors = qnn.logits(graph, rows, PAD), {}
    for scheme in qnn.SCHEMES:
        out, made = compiled[scheme.name]
        errors[scheme.activation] = float(np.sqrt(np.mean((on_htp(out / made.files[16], rows) - expected) ** 2)))
    print(f"logit error against float: {errors}")
    assert errors["uint16"] < errors["uint8"] < 0.2 * expected.std()


def shared() -> EdgekitForSequenceClassification:
    model = tiny_qnn.student()
    return share_words(model, np.arange(model.config.vocab_size) // 3 * 3)


def with_relu() -> EdgekitForSequenceClassification:
    return frontends.build(tiny.classifier("bert", seed=5, hidden_act="relu"))


@pytest.mark.parametrize(
    "student", [shared, with_relu, lambda: tiny_qnn.student("electra")], ids=["shared", "relu", "factorised"]
)
def test_other_forms_of_the_student_are_taken_whole(
    student: Callable[[], EdgekitForSequenceClassification], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_qnn")
    qnn.export_student(student(), "buckets", MAX_LENGTH, tmp_path / "float.onnx")
    path = tiny_qnn.quantize(tmp_path / "float.onnx", SIXTEEN_BITS, tmp_path / "model.onnx")
    made = tiny_qnn.compile_for(path, tmp_path / "out", shape={"sequence_length": 24})
    assert made.coverage is not None
    assert (made.coverage.percent, made.findings) == (100, ())
    rows = tiny.token_rows(VOCABULARY, [24, 3, 17, 9], seed=1)
    expected = qnn.logits(path, rows, PAD)
    found = on_htp(tmp_path / "out" / made.model, rows)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * expected.std()


def test_mpnets_relative_positions_are_compiled_for_two_chips(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    path = tiny_qnn.quantize(tiny_qnn.export(tmp_path / "float.onnx", "mpnet"), EIGHT_BITS, tmp_path / "model.onnx")
    made = tiny_qnn.compile_for(
        path,
        tmp_path / "out",
        device={"accelerator": qnn.ACCELERATOR, "socs": ["SM8750", "SM8650"]},
        shape={"sequence_length": 24},
    )
    assert (made.lengths, made.files) == ((24,), {24: "SM8750/model-24.onnx"})
    assert made.coverage is not None
    assert made.coverage.percent == 100
    binaries = [(tmp_path / "out" / soc / "model-24_qnn.bin").read_bytes() for soc in ("SM8750", "SM8650")]
    assert binaries[0] != binaries[1]
    assert b"soc_type=SM8750" in binaries[0]
    assert b"soc_type=SM8650" in binaries[1]
    rows = tiny.token_rows(VOCABULARY, [24, 3, 17], seed=1)
    expected = qnn.logits(path, rows, PAD)
    assert np.abs(on_htp(tmp_path / "out" / made.model, rows) - expected).max() < 0.5 * expected.std()


def test_compiling_again_gives_the_same_bytes(compiled: Any, quantized: Any, tmp_path: Path) -> None:
    out, made = compiled[EIGHT_BITS.name]
    _qnn_compile.compile_context(quantized[EIGHT_BITS.name], 16, "SM8650", tmp_path / Path(made.files[16]).name)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (out / "SM8650" / file.name).read_bytes()


def test_an_operator_that_htp_lacks_is_named_with_the_reason(quantized: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    path = with_operator(quantized[EIGHT_BITS.name], "Celu", tmp_path / "model.onnx")
    made = tiny_qnn.compile_for(path, tmp_path / "out", shape={"sequence_length": 24})
    assert made.coverage is not None
    assert made.coverage.delegated == made.coverage.nodes - 1
    assert 98 < made.coverage.percent < 100
    assert made.coverage.fallback == (
        "Celu node_of_another_kind: Operators of type `Celu` are not supported by QNN EP",
    )
    # What enters and leaves it is float on HTP.
    assert [one.check for one in made.findings] == ["float-on-accelerator"]
    rows = tiny.token_rows(VOCABULARY, [24, 3, 17], seed=1)
    expected = qnn.logits(path, rows, PAD)
    assert np.abs(on_htp(tmp_path / "out" / made.model, rows) - expected).max() < 0.5 * expected.std()


def test_a_signed_gamma_is_refused_by_htp_with_its_code(quantized: Any, tmp_path: Path) -> None:
    # Why gammas are unsigned: once this fails, they need not be.
    pytest.importorskip("onnxruntime_qnn")
    model = onnx.load(quantized[EIGHT_BITS.name])
    for tensor in model.graph.initializer:
        if tensor.name == "embeddings.norm.weight_quantized":
            halved = (numpy_helper.to_array(tensor) // 2).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
        elif tensor.name == "embeddings.norm.weight_zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, dtype=np.int8), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    made = tiny_qnn.compile_for(tmp_path / "model.onnx", tmp_path / "out", shape={"sequence_length": 24})
    assert made.coverage is not None
    assert made.coverage.fallback == (
        "LayerNormalization node_layer_norm: HTP's own check failed, of type `LayerNorm` with error code 3110",
    )


def test_a_graph_that_is_refused_leaves_nothing(quantized: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    path = with_operator(quantized[EIGHT_BITS.name], "Mod", tmp_path / "model.onnx")
    with pytest.raises(
        TargetError, match=r"model\.onnx cannot be compiled for SM8650 at 16 tokens: .*schema\(::Mod:13\)"
    ):
        tiny_qnn.compile_for(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_crash_of_the_compiler_is_told(quantized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = f"import os; print('2026 [E:onnxruntime:, x.cc] out of luck'); os.kill(os.getpid(), {int(signal.SIGKILL)})"
    (tmp_path / "crash.py").write_text(crash.replace("os.kill", "__import__('sys').stdout.flush(); os.kill"))
    monkeypatch.setattr(_qnn_compile, "PROGRAM", tmp_path / "crash.py")
    with pytest.raises(TargetError, match=r"SM8650 at 24 tokens: the compiler was ended by signal 9; .*out of luck"):
        _qnn_compile.compile_context(quantized[EIGHT_BITS.name], 24, "SM8650", tmp_path / "m.onnx")


def test_an_unknown_chip_is_named_with_the_known_ones(quantized: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    path = quantized[EIGHT_BITS.name]
    with pytest.raises(TargetError, match=r"'device\.socs' names 'SM865'; did you mean 'SM8650'"):
        tiny_qnn.compile_for(path, tmp_path / "a", device={"accelerator": qnn.ACCELERATOR, "socs": ["SM8650", "SM865"]})
    assert not list((tmp_path / "a").iterdir())
    with pytest.raises(TargetError, match=r"'Tensor G4'; known: SM8450, .*SM8750"):
        tiny_qnn.compile_for(path, tmp_path / "b", device={"accelerator": qnn.ACCELERATOR, "socs": ["Tensor G4"]})
    with pytest.raises(TargetError, match=r"'device\.socs' is empty"):
        tiny_qnn.compile_for(path, tmp_path / "c", device={"accelerator": qnn.ACCELERATOR, "socs": []})
    with pytest.raises(TargetError, match=r"'shape\.sequence_length' is dynamic, but HTP has fixed lengths"):
        tiny_qnn.compile_for(path, tmp_path / "d", shape={"sequence_length": "dynamic"})


@pytest.mark.parametrize("soc", sorted(_qnn_compile.SOCS))
def test_the_compiler_knows_each_chip_by_the_number_in_the_table(soc: str, compiled: Any, tmp_path: Path) -> None:
    # Given the name, the compiler writes the number that it has of it.
    out, _ = compiled[EIGHT_BITS.name]
    job = {"graph": str(out / f"{EIGHT_BITS.name}.onnx"), "context": str(tmp_path / "m.onnx"), "length": 8}
    job |= {"options": {"soc_model": soc}, "report": str(tmp_path / "report.json")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-P", str(_qnn_compile.PROGRAM), str(tmp_path / "job.json")]
    subprocess.run(command, capture_output=True, check=True, env=dict(os.environ))
    said = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    number = said["ep_compatibility_info.QNNExecutionProvider"].split(":")[5]
    assert int(number) == _qnn_compile.SOCS[soc].model


def test_a_missing_package_says_what_to_install(
    quantized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime_qnn")
    assert qnn.missing() is None
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == qnn.PACKAGE else find(name))
    assert "pip install 'edgekit[qnn]'" in str(qnn.missing())
    with pytest.raises(TargetError, match=r"onnxruntime-qnn is not installed .*edgekit\[qnn\]"):
        tiny_qnn.compile_for(quantized[EIGHT_BITS.name], tmp_path / "out")


def test_the_self_test_is_exact_here(tmp_path: Path) -> None:
    rows, expected = qnn.self_test(tmp_path / "m.onnx")
    np.testing.assert_allclose(qnn.logits(tmp_path / "m.onnx", rows, PAD), expected, rtol=1e-5)


def test_products_are_the_encoders(graph: Path) -> None:
    found = qnn.products(graph, QUANT["ops"])
    assert [name for name in found if name.startswith("layers.0.")] == [
        f"layers.0.{part}" for part in ("qkv", "output", "up", "down")
    ]
