"""The int8 student: the scheme with the smallest logit error is taken, and its integers stand for the float weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builds
import numpy as np
import onnx
import pytest
import tiny
from builds import TinyBuild
from onnx import numpy_helper
from test_export import made, onnx_logits, token_ids

from edgekit import data
from edgekit.artifact import Graph, LabelledData, QuantizedGraph, Ranges, Vocabulary
from edgekit.errors import RecipeError
from edgekit.quant.weights import bound_scales, squared_error
from edgekit.stages.calibrate import Calibrate
from edgekit.stages.quantize import METHODS, Quantize

BOUNDED, REDUCED, UNSIGNED = EVERY = ("int8-pair-bounded", "int8-reduced-range", "uint8-weights")


def quantize(build: TinyBuild, folder: Path, stage: Quantize, target: str = "x86-64") -> QuantizedGraph:
    """Runs the stage on what the finished build gave it."""
    given = [made(build, kind) for kind in stage.IN]
    found: QuantizedGraph = tiny.run_stage(stage, given, folder, target)
    return found


@pytest.fixture(scope="module")
def alone(tiny_build: TinyBuild, tmp_path_factory: pytest.TempPathFactory) -> dict[str, QuantizedGraph]:
    """The student in each scheme."""
    folder = tmp_path_factory.mktemp("schemes")
    return {name: quantize(tiny_build, folder / name, Quantize(scheme=name)) for name in EVERY}


def dev_rows(build: TinyBuild) -> list[np.ndarray]:
    texts = [text for text, _ in data.read(made(build, LabelledData).path).dev]
    return token_ids(made(build, Vocabulary), texts)


def origins(path: Path) -> tuple[list[Any], dict[str, Any], dict[str, np.ndarray]]:
    """Reads a graph: its nodes, the node that makes each tensor, and its constants."""
    graph = onnx.load(path).graph
    made_by = {name: node for node in graph.node for name in node.output}
    return list(graph.node), made_by, {t.name: numpy_helper.to_array(t) for t in graph.initializer}


@pytest.mark.parametrize("count", [500, 9])
def test_the_scheme_whose_logits_are_nearest_on_dev_is_taken(
    tiny_build: TinyBuild, alone: dict[str, QuantizedGraph], tmp_path: Path, count: int
) -> None:
    chosen = quantize(tiny_build, tmp_path, Quantize(rows=count))
    rows = dev_rows(tiny_build)[:count]
    expected = onnx_logits(made(tiny_build, Graph).model, rows)
    found = {name: onnx_logits(graph.model, rows) for name, graph in alone.items()}
    errors = {name: np.sqrt(np.mean((logits - expected) ** 2)) for name, logits in found.items()}
    tried = chosen.facts["candidates"]
    candidates = {c["scheme"]: c for c in tried if c["method"] == METHODS[0]}
    assert chosen.facts["dev_rows"] == len(rows)
    assert set(candidates) == set(EVERY)
    best = min(candidates.values(), key=lambda c: c["logit_rmse"])["scheme"]
    assert [c["method"] for c in tried if c["scheme"] == best] == list(METHODS), "methods with the best scheme alone"
    assert len(tried) == len(EVERY) + len(METHODS) - 1
    assert (chosen.facts["scheme"], chosen.facts["method"]) == min(
        ((c["scheme"], c["method"]) for c in tried),
        key=lambda names: next(c["logit_rmse"] for c in tried if (c["scheme"], c["method"]) == names),
    )
    logits = onnx_logits(chosen.model, rows)
    (taken,) = (c for c in tried if c["name"] == f"{chosen.facts['scheme']}, {chosen.facts['method']}")
    assert taken["logit_rmse"] == pytest.approx(np.sqrt(np.mean((logits - expected) ** 2)), rel=0.02)
    assert taken["agreement"] == pytest.approx(100 * np.mean(logits.argmax(-1) == expected.argmax(-1)))
    assert taken["bytes"] == len(chosen.model.read_bytes())
    assert taken["logit_rmse"] <= min(errors.values()) * 1.02, "no scheme alone is better"
    assert {path.name for path in chosen.path.iterdir()} == {"model.onnx", "facts.json"}


def test_facts_are_those_of_the_file_and_the_bytes_of_every_run(tiny_build: TinyBuild, tmp_path: Path) -> None:
    first = made(tiny_build, QuantizedGraph)
    model = onnx.load(first.model)
    assert first.facts["bytes"] == len(first.model.read_bytes()) < made(tiny_build, Graph).facts["bytes"]
    assert (first.facts["nodes"], first.facts["min_runtime"]) == (len(model.graph.node), "1.17")
    assert quantize(tiny_build, tmp_path, Quantize()).model.read_bytes() == first.model.read_bytes()


@pytest.mark.parametrize("scheme", EVERY)
def test_integers_stand_for_the_float_weights_within_half_a_step(
    tiny_build: TinyBuild, alone: dict[str, QuantizedGraph], scheme: str
) -> None:
    nodes, made_by, constants = origins(alone[scheme].model)
    floats = origins(made(tiny_build, Graph).model)[2]
    products = [made_by[node.input[1]] for node in nodes if node.op_type == "Gemm"]
    assert len(products) == sum(node.op_type == "Gemm" for node in origins(made(tiny_build, Graph).model)[0]) > 8
    largest = 0
    for weight in products:
        integers, scale, zero = (constants[name] for name in weight.input)
        (axis,) = (a.i for a in weight.attribute if a.name == "axis")
        assert integers.dtype == zero.dtype == (np.uint8 if scheme == UNSIGNED else np.int8)
        assert scale.shape == (integers.shape[axis],)
        steps = np.moveaxis(integers.astype(np.float64), axis, -1) - zero
        restored = np.moveaxis(steps * scale, -1, axis)
        exact = floats[weight.input[0].removesuffix("_quantized")]
        step = np.moveaxis(np.broadcast_to(scale, steps.shape), -1, axis)
        if scheme == UNSIGNED:
            assert (np.abs(restored - exact) <= step * 0.501).all()
        else:  # a scale of least error may clip: then the whole channel is nearer than at the scale that does not
            bound = "pairs" if scheme == BOUNDED else "seven-bit"
            rows = np.moveaxis(exact, axis, 0)
            without = squared_error(rows, bound_scales(rows, bound), bound)
            assert (((np.moveaxis(restored, axis, 0) - rows) ** 2).sum(axis=1) <= without * 1.001).all()
        largest = max(largest, int(np.abs(integers.astype(int)).max()))
    if scheme == REDUCED:  # two products of a weight and an activation, 2 * 64 * 255, stay below 32,768
        assert 58 <= largest <= 64


def test_a_targets_weights_leave_one_scheme(tiny_build: TinyBuild, tmp_path: Path) -> None:
    target = str(builds.write_target(tmp_path / "signed.toml", ('dtype = "auto"', 'dtype = "int8"')))
    made_so = quantize(tiny_build, tmp_path / "auto", Quantize(), target)
    assert made_so.facts["scheme"] in (BOUNDED, REDUCED)
    assert {c["scheme"] for c in made_so.facts["candidates"]} == {BOUNDED, REDUCED}
    with pytest.raises(RecipeError, match="scheme is 'uint8-weights', but the target's weights are int8"):
        quantize(tiny_build, tmp_path / "other", Quantize(scheme=UNSIGNED), target)


@pytest.mark.parametrize("scheme", EVERY)
def test_all_operators_include_the_products_of_activations(
    tiny_build: TinyBuild, alone: dict[str, QuantizedGraph], tmp_path: Path, scheme: str
) -> None:
    target = str(builds.write_target(tmp_path / "all.toml", ('ops = ["Gemm", "Gather"]', 'ops = "all"')))
    graph, vocabulary, rows = (made(tiny_build, kind) for kind in (Graph, Vocabulary, LabelledData))
    ranges: Ranges = tiny.run_stage(Calibrate(), [graph, vocabulary, rows], tmp_path / "ranges", target)
    stage, given = Quantize(scheme=scheme), [graph, ranges, vocabulary, rows]
    every: QuantizedGraph = tiny.run_stage(stage, given, tmp_path / "all", target)
    for path, integers in ((every.model, True), (alone[scheme].model, False)):
        nodes, made_by, _ = origins(path)
        products = [node for node in nodes if node.op_type == "MatMul"]
        assert len(products) == 4  # scores and context of two layers
        reads = [name in made_by and made_by[name].op_type == "DequantizeLinear" for n in products for name in n.input]
        assert set(reads) == {integers}
    ids = dev_rows(tiny_build)
    expected, found = onnx_logits(graph.model, ids), onnx_logits(every.model, ids)
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < 0.1 * expected.std()
    onnx.checker.check_model(onnx.load(every.model))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match=f"scheme is 'int4'; known: auto, {BOUNDED}, {REDUCED}, {UNSIGNED}"):
        Quantize(scheme="int4")
    with pytest.raises(ValueError, match="rows is 0"):
        Quantize(rows=0)
