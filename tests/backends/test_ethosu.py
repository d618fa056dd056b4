"""Graphs for Ethos-U: integers throughout, all of them in the NPU's program, and what vela says of the others."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from litert_graphs import (
    ALL,
    FORMS,
    MAX_LENGTH,
    PAD,
    constants_of,
    expected_of,
    operators_of,
    ranges_for,
    request,
    rows,
    tensors_of,
)
from test_onnxruntime import student

from edgekit import backends
from edgekit.backends import Backend, Compiled, Precision, Tensor, ethosu, litert
from edgekit.backends import _litert_file as file
from edgekit.backends._litert_quantize import quantize
from edgekit.errors import TargetError
from edgekit.ir.form import Form
from edgekit.ir.lean import LeanClassifier
from edgekit.provenance import Provenance
from edgekit.target import load_target

pytestmark = pytest.mark.skipif(ethosu.missing() is not None, reason=ethosu.missing() or "")

ACCELERATOR = load_target("ethos-u85").device.accelerator
NAMES = ("uneven", "relative", "shared", "factorised")


def integers(backend: Backend, model: Any, folder: Path) -> tuple[Path, Path]:
    """Writes a model's graph in floats and in integers throughout."""
    graph, out = folder / "float.tflite", folder / "model.tflite"
    backend.export_student(model, "buckets", MAX_LENGTH, graph)
    backend.quantize(graph, ranges_for(backend, graph, ALL), ALL, backend.SCHEMES[-1], Precision(), out)
    return graph, out


def made(name: str) -> Any:
    kind, changed = FORMS[name]
    return changed(student(kind)).eval()


def compiled(graph: Path, folder: Path) -> Compiled:
    folder.mkdir()
    return ethosu.compile(graph, request(folder, accelerator=ACCELERATOR), folder)


@pytest.mark.parametrize("name", NAMES)
def test_everything_runs_on_the_npu(name: str, tmp_path: Path) -> None:
    model = made(name)
    graph, quantized = integers(ethosu, model, tmp_path)
    expected = expected_of(model)
    np.testing.assert_allclose(ethosu.logits(graph, rows(), PAD), expected, rtol=0, atol=1e-4)
    found = ethosu.logits(quantized, rows(), PAD)
    assert 0 < float(np.sqrt(np.mean((found - expected) ** 2))) < 0.25 * float(expected.std())
    assert ethosu.describe(quantized).outputs == (Tensor("logits", "int8", (1, 4)),)
    assert all(values.dtype != np.float32 for values in constants_of(quantized).values())
    done = compiled(quantized, tmp_path / "out")
    assert (done.model, done.portable, done.lengths) == ("model_vela.tflite", "model.tflite", (40,))
    assert done.bytes == (tmp_path / "out" / done.model).stat().st_size
    assert (tmp_path / "out" / done.portable).read_bytes() == quantized.read_bytes()
    assert operators_of(tmp_path / "out" / done.model) == [ethosu.DRIVER]
    assert done.coverage is not None
    assert done.coverage.percent == 100
    assert done.coverage.fallback == ()
    assert done.coverage.provenance is Provenance.SIMULATED
    assert done.coverage.nodes == len(operators_of(quantized))


def test_a_channel_that_stands_out_does_not_take_the_steps_of_all_others(tmp_path: Path) -> None:
    """Layer norms, residual sums and what makes the channel have 16 bits; with eight everywhere they lose it."""
    model = made("uneven")
    with torch.no_grad():
        for layer in model.layers[:2]:
            layer.down.weight[3] *= 40
    graph, quantized = integers(ethosu, model, tmp_path)
    tensors = tensors_of(quantized)
    for op, operator in file.operators(file.read(quantized)):
        (output,) = (file.name_of(one) for one in file.outputs_of(file.read(quantized), operator))
        if op == "FULLY_CONNECTED":
            assert file.dtype_of(tensors[output]) == ("int16" if ".down." in output else "int8")
        if op in ("ADD", "SUB", "MUL", "MEAN", "RSQRT"):
            assert file.dtype_of(tensors[output]) == "int16"
    eight = tmp_path / "eight.tflite"
    form = replace(ethosu.FORM_OF_INTEGERS, wide_ops=frozenset(), wide_products="none")
    ranges = ranges_for(ethosu, graph, ALL)
    quantize(graph, ranges, ALL, ethosu.SCHEMES[0], Precision(), eight, floatless=form)
    expected = expected_of(model)
    errors = [np.sqrt(np.mean((ethosu.logits(one, rows(), PAD) - expected) ** 2)) for one in (quantized, eight)]
    assert errors[0] < 0.5 * errors[1]


def test_cycles_are_velas_estimate(tmp_path: Path) -> None:
    done = compiled(integers(ethosu, made("uneven"), tmp_path)[1], tmp_path / "out")
    assert done.cycles is not None
    assert done.coverage is not None
    assert done.cycles.provenance is Provenance.ESTIMATED
    assert done.cycles.clock_hz == 1_000_000_000
    assert 10_000 < done.cycles.per_inference < 10_000_000
    assert min(done.cycles.sram_bytes, done.cycles.dram_bytes) > 10_000
    assert "vela 5." in done.cycles.reason
    assert done.cycles.device == done.coverage.delegate == ACCELERATOR


def test_operators_that_vela_leaves_to_the_cpu_are_named_with_its_reasons(tmp_path: Path) -> None:
    """LiteRT's form for CPUs looks words up, and gives floats, its four FFNs too."""
    _, quantized = integers(litert, made("uneven"), tmp_path)
    done = compiled(quantized, tmp_path / "out")
    assert done.coverage is not None
    assert done.coverage.fallback == (
        "DEQUANTIZE (5): Unsupported opType",
        "EMBEDDING_LOOKUP (1): Unsupported opType",
        "FULLY_CONNECTED (4): Operation has tensor with unsupported DataType Float32",
        "QUANTIZE (5): Operation has tensor with unsupported DataType Float32",
    )
    nodes = len(operators_of(quantized))
    assert (done.coverage.nodes, done.coverage.delegated) == (nodes, nodes - 15)


@pytest.mark.parametrize(
    ("name", "message"),
    [("ethos-u85-265", "; did you mean 'ethos-u85-256'"), ("npu", "; known: ethos-u55-128, ethos-u55-256")],
)
def test_unknown_accelerators_are_refused_with_the_known_ones(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=f"'{name}', which vela does not know{message}"):
        ethosu.compile(tmp_path / "m.tflite", request(tmp_path, accelerator=name), tmp_path)


def test_a_file_that_vela_cannot_compile_is_refused(tmp_path: Path) -> None:
    litert.self_test(tmp_path / "m.tflite")
    model = file.read(tmp_path / "m.tflite")
    model.subgraphs[0].tensors[1].type = 17  # an element type that there is not yet
    file.write(model, tmp_path / "m.tflite")
    (tmp_path / "out").mkdir()
    with pytest.raises(TargetError, match=rf"vela cannot compile m\.tflite for {ACCELERATOR}: \S"):
        ethosu.compile(tmp_path / "m.tflite", request(tmp_path, accelerator=ACCELERATOR), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["uneven", "epsilon", "shared", "factorised"])
def test_the_form_for_integers_is_the_same_model(name: str) -> None:
    model, mask = made(name), torch.ones(1, 16, dtype=torch.int32)
    mask[0, 9:] = 0
    ids = torch.from_numpy(tiny.token_rows(100, [16])[0])[None]
    form = Form(gathered_words=True, gathered_bias=True, spelled_norms=True)
    with torch.inference_mode():
        plain, written = (LeanClassifier(model, 16, one).eval()(ids, mask) for one in (Form(), form))
    np.testing.assert_allclose(written.numpy(), plain.numpy(), rtol=0, atol=1e-5)


def test_the_backend_promises_integers_alone() -> None:
    assert backends.load_backend("ethosu") is ethosu
    assert not ethosu.KEEPS_FLOAT
    assert [scheme.family for scheme in ethosu.SCHEMES] == ["static"]
    assert set(map(dataclasses.astuple, ethosu.SCHEMES)).isdisjoint(map(dataclasses.astuple, litert.SCHEMES))


CASES: tuple[Callable[[], str | None], ...] = (litert.missing, ethosu.missing)


@pytest.mark.parametrize("missing", CASES)
def test_what_is_not_installed_is_named(missing: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = missing()
    assert said is not None
    also = ", ethos-u-vela" if missing is ethosu.missing else ""
    assert said.startswith(f"litert-torch, ai-edge-quantizer, ai-edge-litert{also} are not installed for ")
    assert f"{sys.executable}: pip install 'edgekit[" in said
