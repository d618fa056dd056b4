"""The artifact's accuracy recomputed in NumPy from the arrays beside it; which rows are run, and where."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pytest
import tiny
from builds import TinyBuild, made
from test_export import CLOSE, onnx_logits, token_ids

from edgekit import data, devices, manifest, measured
from edgekit.artifact import Accuracy, Artifact, LabelledData, Program, Reference, Vocabulary, file_digest
from edgekit.devices import ModelFile, Processor, TokenRows, Unavailable
from edgekit.provenance import Provenance
from edgekit.stage import Inputs
from edgekit.stages.evaluate import Evaluate, Taken, compare, draw
from edgekit.statistics import tango_interval


@dataclass
class NullDevice:
    """A device without hardware: it answers in this process, and has the timings and counts that a test gives it.

    Attributes:
        kind: provenance of its figures.
        timed, counted: what `latency` and `instructions` return.
        seen: what each method was called with, by its name.
    """

    kind: Provenance = Provenance.SIMULATED
    timed: Any = field(default_factory=lambda: Unavailable("it has no clock"))
    counted: Any = field(default_factory=lambda: Unavailable("it has no counter"))
    seen: dict[str, Any] = field(default_factory=dict)

    def accelerates(self, wanted: Processor) -> bool:
        return False

    def provenance(self, wanted: Processor) -> tuple[Provenance, str]:
        self.seen["provenance"] = wanted
        return self.kind, "as the test says"

    def logits(self, model: ModelFile, rows: TokenRows, threads: int, progress: Any) -> np.ndarray:
        self.seen["logits"] = model, threads
        return onnx_logits(model.path, rows.ids)

    def latency(self, models: Any, plan: Any) -> Any:
        self.seen["latency"] = models, plan
        return self.timed

    def instructions(self, models: Any, threads: int) -> Any:
        self.seen["instructions"] = models, threads
        return self.counted


def test_of_a_simulated_device_fewer_rows_are_run() -> None:
    stage = Evaluate(simulated_examples=40)
    assert stage.rows(100, Provenance.SIMULATED) == 40
    assert stage.rows(30, Provenance.SIMULATED) == 30
    assert stage.rows(100, Provenance.MEASURED) == 100
    assert Evaluate(examples=7).rows(100, Provenance.SIMULATED) == 7


def run_on(
    device: str | NullDevice, stage: Any, given: Sequence[Artifact], folder: Path, target: str = "x86-64"
) -> Any:
    """Runs a stage that measures, on a device by its URI or on one that there is not."""
    out = folder / "out"
    out.mkdir(parents=True)
    uri = device if isinstance(device, str) else "null"
    ctx = dataclasses.replace(tiny.context(folder / "resume", stage, target), device=uri)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(device, NullDevice):
            patch.setattr(devices, "connect", lambda uri: device)
        stage.run(Inputs({type(artifact): artifact for artifact in given}, stage.IN), out, ctx)
    stage.ensures(out, ctx)
    return stage.OUT(out, "")


def figures(accuracy: Accuracy) -> measured.Accuracy:
    """Reads accuracy.json as strictly as a manifest is read."""
    found: measured.Accuracy = manifest.decode(
        measured.Accuracy, json.loads((accuracy.path / "accuracy.json").read_text())
    )
    return found


@pytest.fixture(scope="module")
def given(tiny_build: TinyBuild, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """What the finished build gave the stage, but with references that are often wrong: the tiny models never are."""
    found = {kind: made(tiny_build, kind) for kind in Evaluate.IN}
    folder = tmp_path_factory.mktemp("given") / "reference"
    shutil.copytree(found[Reference].path, folder)
    random = np.random.default_rng(0)
    for name in ("teacher", "student"):
        logits = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", (logits + random.normal(scale=3, size=logits.shape)).astype(np.float32))
    expected = np.load(folder / "expected.npy")
    np.save(folder / "expected.npy", np.where(random.random(len(expected)) < 0.4, (expected + 1) % 4, expected))
    return [*(artifact for kind, artifact in found.items() if kind is not Reference), Reference(folder, "")]


@pytest.mark.parametrize("examples", [0, 50])
def test_figures_are_those_of_the_arrays(given: list[Artifact], tmp_path: Path, examples: int) -> None:
    accuracy = run_on("local", Evaluate(examples=examples), given, tmp_path)
    found, rows = figures(accuracy), np.load(accuracy.path / "rows.npy")
    logits, reference = np.load(accuracy.path / "logits.npy"), given[-1].path
    expected = np.load(reference / "expected.npy")[rows]
    count = examples or 120
    assert len(rows) == len(logits) == found.examples == accuracy.facts["rows"] == count
    teacher, student = (np.load(reference / f"{name}.npy")[rows].argmax(-1) for name in ("teacher", "student"))
    answers = logits.argmax(-1)
    right, ours = teacher == expected, answers == expected
    assert found.teacher == pytest.approx(100 * right.mean())
    assert found.student_fp32 == pytest.approx(100 * (student == expected).mean())
    assert found.artifact == pytest.approx(100 * ours.mean()) == accuracy.facts["scores"]["accuracy"]
    assert found.drop == pytest.approx(100 * (right.mean() - ours.mean()))
    assert (found.lost, found.gained) == ((right & ~ours).sum(), (ours & ~right).sum())
    assert found.lost
    assert found.gained
    assert found.ci95 == tango_interval(found.lost, found.gained, count)
    assert found.flips == pytest.approx(100 * (right != ours).mean())
    assert found.churn == pytest.approx(100 * (teacher != answers).mean())
    assert found.floor == pytest.approx(100 * max((expected == label).mean() for label in range(4)))
    assert (found.metric, found.method, found.bounds, found.device) == ("accuracy", "tango", None, "local")


def test_logits_are_those_of_the_quantized_graph_on_the_rows_named(tiny_build: TinyBuild) -> None:
    accuracy, vocabulary = made(tiny_build, Accuracy), made(tiny_build, Vocabulary)
    test = data.read(made(tiny_build, LabelledData).path).test
    texts = [test[i][0] for i in np.load(accuracy.path / "rows.npy")]
    expected = onnx_logits(made(tiny_build, Program).model, token_ids(vocabulary, texts))
    np.testing.assert_allclose(np.load(accuracy.path / "logits.npy"), expected, **CLOSE)
    assert figures(accuracy).examples == 120


@pytest.mark.parametrize(
    ("kind", "examples", "simulated", "run"),
    [
        (Provenance.SIMULATED, 0, 30, 30),
        (Provenance.SIMULATED, 40, 30, 40),
        (Provenance.SIMULATED, 0, 0, 120),
        (Provenance.SIMULATED, 0, 1000, 120),
        (Provenance.MEASURED, 0, 30, 120),
        (Provenance.MEASURED, 40, 30, 40),
        (Provenance.ESTIMATED, 0, 30, 120),
    ],
)
def test_fewer_rows_are_run_only_where_the_target_is_simulated(
    given: list[Artifact], tmp_path: Path, kind: Provenance, examples: int, simulated: int, run: int
) -> None:
    accuracy = run_on(NullDevice(kind), Evaluate(examples, simulated), given, tmp_path)
    assert np.load(accuracy.path / "rows.npy").tolist() == draw(120, run, 0)
    found = figures(accuracy)
    assert (found.examples, found.provenance, found.reason) == (run, kind, "as the test says")


def test_the_device_is_told_what_the_target_says(given: list[Artifact], tmp_path: Path) -> None:
    options = ('provider = "CPUExecutionProvider"', 'provider = "CPUExecutionProvider"\noptions = {"a.b" = "1"}')
    target = builds.write_target(tmp_path / "two.toml", ("threads = 1", "threads = 2"), options)
    device = NullDevice()
    run_on(device, Evaluate(examples=2), given, tmp_path, str(target))
    (graph,) = (artifact for artifact in given if isinstance(artifact, Program))
    model = ModelFile(graph.model, file_digest(graph.model), 0, "1.17", {"a.b": "1"})
    assert device.seen["logits"] == (model, 2)
    assert device.seen["provenance"] == Processor("x86_64", "Haswell", ("avx2", "fma"))


def test_a_draw_is_of_the_seed_sorted_and_without_repetition() -> None:
    for wanted in (1, 7, 99):
        rows = draw(100, wanted, 3)
        assert rows == draw(100, wanted, 3)
        assert rows == sorted(set(rows))
        assert len(rows) == wanted
        assert set(rows) <= set(range(100))
    assert draw(100, 50, 3) != draw(100, 50, 4)
    assert draw(100, 0, 3) == draw(100, 100, 3) == draw(100, 101, 3) == list(range(100))
    counts = np.bincount([i for seed in range(400) for i in draw(20, 5, seed)], minlength=20)
    assert (abs(counts - 100) < 5 * np.sqrt(75)).all()  # every row as often: binomial, 400 draws of a quarter


def test_pairs_are_counted_row_by_row() -> None:
    teacher, artifact, expected = (np.array(v) for v in ([0, 1, 2, 0, 0, 1], [0, 2, 2, 1, 2, 0], [0, 1, 1, 1, 0, 2]))
    one = np.eye(3)
    taken = Taken("d", Provenance.SIMULATED, "as said", Provenance.ESTIMATED)
    found = compare("m", one[teacher], one[expected], one[artifact], expected, taken)
    assert (found.device, found.provenance, found.reason) == ("d", Provenance.SIMULATED, "as said")
    assert found.float_provenance is Provenance.ESTIMATED, "the teacher never runs on the target"
    assert (found.lost, found.gained, found.examples) == (2, 1, 6)
    assert (found.teacher, found.student_fp32, found.artifact) == pytest.approx((50, 100, 100 / 3))
    assert found.ci95 == tango_interval(2, 1, 6)
    assert (found.flips, found.churn, found.floor) == pytest.approx((50, 400 / 6, 50))
    with pytest.raises(ValueError, match="must not be negative"):
        Evaluate(examples=-1)
