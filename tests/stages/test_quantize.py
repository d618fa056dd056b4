"""The integer forms: the static one of least logit error is kept, and its integers stand for the float weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import builds
import numpy as np
import onnx
import pytest
import tiny
from builds import TinyBuild, made
from onnx import numpy_helper
from test_export import onnx_logits, token_ids

from edgekit import data
from edgekit.artifact import Candidates, Graph, LabelledData, Ranges, Teacher, TeacherOutputs, Vocabulary
from edgekit.backends import load_backend
from edgekit.errors import RecipeError
from edgekit.quant.ranges import COMPARED, read_ranges, write_ranges
from edgekit.quant.weights import bound_scales, squared_error
from edgekit.search.trials import Trial, from_facts
from edgekit.stages.calibrate import Calibrate
from edgekit.stages.evaluate import draw
from edgekit.stages.quantize import Quantize
from edgekit.stages.timing import candidates_of
from edgekit.target import load_target

BOUNDED, REDUCED, UNSIGNED = EVERY = ("int8-pair-bounded", "int8-reduced-range", "uint8-weights")


def quantize(build: TinyBuild, folder: Path, stage: Quantize, target: str = "x86-64") -> Candidates:
    """Runs the stage on what the finished build gave it."""
    given = [made(build, kind) for kind in stage.IN]
    found: Candidates = tiny.run_stage(stage, given, folder, target)
    return found


def static_of(candidates: Candidates) -> tuple[Trial, Path]:
    """Returns the static form whose logits are nearest."""
    trial = next(t for t in candidates_of(candidates) if t.family == "static")
    return trial, candidates.path / trial.file


@pytest.fixture(scope="module")
def alone(tiny_build: TinyBuild, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The student in each static scheme."""
    folder = tmp_path_factory.mktemp("schemes")
    found = {name: quantize(tiny_build, folder / name, Quantize(scheme=name, correct_bias=False)) for name in EVERY}
    return {name: static_of(candidates)[1] for name, candidates in found.items()}


def dev_rows(build: TinyBuild) -> list[np.ndarray]:
    texts = [text for text, _ in data.read(made(build, LabelledData).path).dev]
    return token_ids(made(build, Vocabulary), texts)


def origins(path: Path) -> tuple[list[Any], dict[str, Any], dict[str, np.ndarray]]:
    """Reads a graph: its nodes, the node that makes each tensor, and its constants."""
    graph = onnx.load(path).graph
    made_by = {name: node for node in graph.node for name in node.output}
    return list(graph.node), made_by, {t.name: numpy_helper.to_array(t) for t in graph.initializer}


@pytest.mark.parametrize("count", [500, 9])
def test_the_static_form_whose_logits_are_nearest_on_dev_is_kept(
    tiny_build: TinyBuild, alone: dict[str, Path], tmp_path: Path, count: int
) -> None:
    candidates = quantize(tiny_build, tmp_path, Quantize(rows=count, scheme="static"))
    every = dev_rows(tiny_build)
    rows = [every[i] for i in draw(len(every), count, seed=0)]
    expected = onnx_logits(made(tiny_build, Graph).model, rows)
    tried = from_facts(candidates.facts["trials"])
    first = {trial.scheme: trial for trial in tried if trial.method == COMPARED[0] and not trial.corrected}
    assert candidates.facts["dev_rows"] == len(rows)
    assert set(first) == set(EVERY)
    best = min((first[BOUNDED], first[REDUCED]), key=lambda trial: trial.logit_rmse).scheme
    plain = [t.method for t in tried if t.scheme == best and not t.corrected]
    assert sorted(plain) == sorted(COMPARED), "all methods with the best signed scheme"
    assert len(tried) <= len(EVERY) + len(COMPARED) + 1, "and no more than one with another"
    kept, path = static_of(candidates)
    assert kept.logit_rmse == min(trial.logit_rmse for trial in tried if trial.scheme != UNSIGNED)
    logits = onnx_logits(path, rows)
    assert kept.logit_rmse == pytest.approx(np.sqrt(np.mean((logits - expected) ** 2)), rel=0.02)
    assert kept.agreement == pytest.approx(100 * np.mean(logits.argmax(-1) == expected.argmax(-1)))
    assert kept.bytes == len(path.read_bytes())
    errors = {name: np.sqrt(np.mean((onnx_logits(p, rows) - expected) ** 2)) for name, p in alone.items()}
    assert kept.logit_rmse <= min(errors[BOUNDED], errors[REDUCED]) * 1.02, "no signed scheme alone is better"
    other = candidates_of(candidates)[1]
    assert (kept.scheme, other.scheme) == (best, UNSIGNED), "the other weight type runs through other kernels"
    assert other.method == kept.method
    assert {p.name for p in candidates.path.iterdir()} == {kept.file, other.file, "facts.json"}


def test_the_scores_are_those_of_the_labels_on_dev(tiny_build: TinyBuild, candidates: Candidates) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    names = json.loads((made(tiny_build, Teacher).path / "config.json").read_text())["id2label"]
    labels = [label for _, label in dataset.dev]

    def score(logits: np.ndarray) -> float:
        return 100 * float(
            np.mean([names[str(i)] == label for i, label in zip(logits.argmax(-1), labels, strict=True)])
        )

    rows = dev_rows(tiny_build)
    assert candidates.facts["float_score"] == pytest.approx(score(onnx_logits(made(tiny_build, Graph).model, rows)))
    teacher = np.load(made(tiny_build, TeacherOutputs).array("dev", "logits"))
    assert candidates.facts["teacher_score"] == pytest.approx(score(teacher))
    for trial in candidates_of(candidates):
        assert trial.score == pytest.approx(score(onnx_logits(candidates.path / trial.file, rows))), trial.name


def test_every_family_that_the_runtime_loads_is_made(
    tiny_build: TinyBuild, candidates: Candidates, tmp_path: Path
) -> None:
    kept = candidates_of(candidates)
    assert candidates.facts["left_out"] == {"weight-only-int8": "needs onnxruntime 1.22, the target has 1.18"}
    assert [t.family for t in kept] == ["static", "static", "dynamic", "weight-only"]
    assert [t.scheme for t in kept][2:] == ["dynamic-int8", "weight-only-int4"]  # 8 bits need a newer runtime
    newer = str(builds.write_target(tmp_path / "newer.toml", ('version = "1.18"', 'version = "1.22"')))
    found = candidates_of(quantize(tiny_build, tmp_path / "newer", Quantize(scheme="weight-only"), newer))
    assert {t.scheme: t.min_runtime for t in found} == {"weight-only-int8": "1.22", "weight-only-int4": "1.17"}
    assert found[0].logit_rmse < found[1].logit_rmse
    with pytest.raises(RecipeError, match=r"needs onnxruntime 1\.22, the target has 1\.18: raise 'runtime\.version'"):
        quantize(tiny_build, tmp_path / "older", Quantize(scheme="weight-only-int8"))


def test_the_bytes_of_every_run_are_the_same(tiny_build: TinyBuild, candidates: Candidates, tmp_path: Path) -> None:
    assert quantize(tiny_build, tmp_path, Quantize()).digest == candidates.digest


def test_rounding_that_loses_too_much_gives_products_back_to_float(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """A layer whose input has one huge channel in a rare row: eight bits cannot hold both."""
    graph = made(tiny_build, Graph)
    ranges = read_ranges(made(tiny_build, Ranges).file)["minmax"]
    backend = load_backend("onnxruntime")
    product = backend.products(graph.model, "all")["layers.0.down"]
    wide = dataclasses.replace(ranges[product.entering], low=-4000.0, high=4000.0)
    shutil.copytree(made(tiny_build, Ranges).path, tmp_path / "ranges")
    write_ranges(tmp_path / "ranges" / "ranges.json", {"minmax": {**ranges, product.entering: wide}})
    given = [Ranges(tmp_path / "ranges", "") if kind is Ranges else made(tiny_build, kind) for kind in Quantize.IN]
    found = tiny.run_stage(Quantize(scheme="int8-pair-bounded"), given, tmp_path / "run", "x86-64")
    whole, *rungs = candidates_of(found)
    assert whole.score < found.facts["float_score"] - 5
    assert rungs[-1].keep_float == ("layers.0.down",), "it alone was spoilt, so it alone goes back"
    assert rungs[-1].score >= found.facts["teacher_score"] - load_target("x86-64").gate.max_drop
    sensitivity = found.facts["sensitivity"]
    assert max(sensitivity, key=lambda name: sensitivity[name]) == "layers.0.down"
    assert 0.9 < sensitivity["layers.0.down"] <= 1 - (rungs[-1].logit_rmse / whole.logit_rmse) ** 2 + 1e-9
    assert set(sensitivity) == set(backend.products(graph.model, "all"))
    files = {path.name for path in found.path.iterdir()}
    assert files == {"facts.json", *(trial.file for trial in candidates_of(found))}, "no file of what was only tried"
    model = onnx.load(found.path / rungs[-1].file)
    floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2}
    assert "layers.0.down.weight" in floats
    assert {f"{name}.weight" for name in rungs[-1].keep_float} <= floats


def test_training_with_rounding_adds_a_candidate(tiny_build: TinyBuild, tmp_path: Path) -> None:
    stage = Quantize(scheme="int8-pair-bounded", qat_epochs=2, qat_rate=1e-4)
    candidates = quantize(tiny_build, tmp_path / "one", stage)
    before, trained = candidates_of(candidates)
    assert trained.name.endswith("2 epochs with rounding")
    assert trained.score >= before.score - 2
    rows = dev_rows(tiny_build)
    assert (
        np.abs(
            onnx_logits(candidates.path / trained.file, rows) - onnx_logits(candidates.path / before.file, rows)
        ).max()
        > 0
    )
    assert not (candidates.path / "trained.onnx").exists()
    assert quantize(tiny_build, tmp_path / "two", stage).digest == candidates.digest


@pytest.mark.parametrize("embedding", ["int8-rows", "int4-blocks"])
def test_other_forms_of_the_word_table(tiny_build: TinyBuild, tmp_path: Path, embedding: str) -> None:
    stage = Quantize(scheme="int8-pair-bounded", embedding=embedding)
    kept, path = static_of(quantize(tiny_build, tmp_path / "run", stage))
    plain = quantize(tiny_build, tmp_path / "plain", Quantize(scheme="int8-pair-bounded"))
    before = static_of(plain)[0]
    if embedding == "int4-blocks":
        assert kept.bytes < before.bytes
        assert kept.min_runtime == before.min_runtime
    else:
        assert kept.logit_rmse <= before.logit_rmse * 1.05
    expected = onnx_logits(made(tiny_build, Graph).model, dev_rows(tiny_build))
    assert np.mean(onnx_logits(path, dev_rows(tiny_build)).argmax(-1) == expected.argmax(-1)) > 0.9


@pytest.mark.parametrize("scheme", EVERY)
def test_integers_stand_for_the_float_weights_within_half_a_step(
    tiny_build: TinyBuild, alone: dict[str, Path], scheme: str
) -> None:
    nodes, made_by, constants = origins(alone[scheme])
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
        # A scale of least error may clip: then the whole channel is nearer than at the scale that does not.
        bound = {BOUNDED: "pairs", REDUCED: "seven-bit", UNSIGNED: "full"}[scheme]
        rows = np.moveaxis(exact, axis, 0)
        without = squared_error(rows, bound_scales(rows, bound), bound)
        assert (((np.moveaxis(restored, axis, 0) - rows) ** 2).sum(axis=1) <= without * 1.001).all()
        largest = max(largest, int(np.abs(integers.astype(int)).max()))
    if scheme == REDUCED:  # two products of a weight and an activation, 2 * 64 * 255, stay below 32,768
        assert 58 <= largest <= 64


def test_a_targets_weights_leave_one_scheme(tiny_build: TinyBuild, tmp_path: Path) -> None:
    target = str(builds.write_target(tmp_path / "signed.toml", ('dtype = "auto"', 'dtype = "int8"')))
    made_so = quantize(tiny_build, tmp_path / "auto", Quantize(scheme="static"), target)
    assert {trial["scheme"] for trial in made_so.facts["trials"]} == {BOUNDED, REDUCED}
    with pytest.raises(RecipeError, match="scheme is 'uint8-weights', but the target allows weights of int8"):
        quantize(tiny_build, tmp_path / "other", Quantize(scheme=UNSIGNED), target)


def test_a_target_that_needs_static_ranges_gets_nothing_else(tiny_build: TinyBuild, tmp_path: Path) -> None:
    target = str(builds.write_target(tmp_path / "npu.toml", ('scheme = "auto"', 'scheme = "static-qdq"')))
    assert {t.family for t in candidates_of(quantize(tiny_build, tmp_path / "auto", Quantize(), target))} == {"static"}
    with pytest.raises(RecipeError, match="scheme is 'dynamic', but the target allows static quantization only"):
        quantize(tiny_build, tmp_path / "other", Quantize(scheme="dynamic"), target)


@pytest.mark.parametrize("scheme", EVERY)
def test_all_operators_include_the_products_of_activations(
    tiny_build: TinyBuild, alone: dict[str, Path], tmp_path: Path, scheme: str
) -> None:
    target = str(builds.write_target(tmp_path / "all.toml", ('ops = ["Gemm", "Gather"]', 'ops = "all"')))
    graph, vocabulary, rows = (made(tiny_build, kind) for kind in (Graph, Vocabulary, LabelledData))
    inputs = [graph, vocabulary, rows, made(tiny_build, TeacherOutputs)]
    ranges: Ranges = tiny.run_stage(Calibrate(), inputs, tmp_path / "ranges", target)
    stage = Quantize(scheme=scheme)
    given = [ranges if kind is Ranges else made(tiny_build, kind) for kind in stage.IN]
    every = static_of(tiny.run_stage(stage, given, tmp_path / "all", target))[1]
    for path, integers in ((every, True), (alone[scheme], False)):
        nodes, made_by, _ = origins(path)
        products = [node for node in nodes if node.op_type == "MatMul"]
        assert len(products) == 4  # scores and context of two layers
        reads = [name in made_by and made_by[name].op_type == "DequantizeLinear" for n in products for name in n.input]
        assert set(reads) == {integers}
    ids = dev_rows(tiny_build)
    expected, found = onnx_logits(graph.model, ids), onnx_logits(every, ids)
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < 0.1 * expected.std()
    onnx.checker.check_model(onnx.load(every))


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="scheme is 'int4'; known: auto, static, dynamic, weight-only, "):
        Quantize(scheme="int4")
    with pytest.raises(ValueError, match="rows is 0"):
        Quantize(rows=0)
    with pytest.raises(ValueError, match="embedding is 'int2'; known: int8, int8-rows, int4-blocks"):
        Quantize(embedding="int2")
    with pytest.raises(ValueError, match="qat_rate is 0; it must be positive"):
        Quantize(qat_rate=0)
    with pytest.raises(ValueError, match="qat_epochs trains for activations of 8 bits, but scheme is 'htp-uint16"):
        Quantize(scheme="htp-uint16-activations", qat_epochs=1)
    for scheme in ("dynamic", "weight-only-int4"):
        with pytest.raises(ValueError, match="qat_epochs trains the static form"):
            Quantize(scheme=scheme, qat_epochs=1)
