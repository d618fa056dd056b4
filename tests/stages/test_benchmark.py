"""Latency and instruction figures recomputed in NumPy from the samples; what is run, and what nobody took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pytest
from builds import TinyBuild, made
from test_evaluate import NullDevice, run_on
from test_export import token_ids
from transformers import AutoTokenizer

from edgekit import data, manifest, measured
from edgekit.artifact import LabelledData, Latency, Program, Teacher, TeacherGraph, Vocabulary, file_digest
from edgekit.devices import InstructionCount, LatencyPlan, ModelFile, Samples
from edgekit.provenance import Provenance
from edgekit.stages.benchmark import Benchmark
from edgekit.stages.evaluate import draw

ROUNDS, RUNS = 5, 50
STAGE = Benchmark(rounds=ROUNDS, block_runs=RUNS, texts=24, counted_texts=6)


def samples(seed: int, median_ms: float, rss: int | None) -> Samples:
    """Returns skewed times whose rounds drift."""
    random = np.random.default_rng(seed)
    drift = np.linspace(1, 1.5, ROUNDS)[:, None]
    times = random.lognormal(np.log(median_ms), 0.3, (ROUNDS, RUNS)) * drift
    return Samples(3.0, 9.0 * median_ms, times, 2 * times[:, 0], rss)


def timed(rss: int | None = 50_000_000) -> dict[str, Samples]:
    return {"artifact": samples(1, 0.5, rss), "teacher": samples(2, 4.0, 90_000_000)}


COUNTED = {"artifact": InstructionCount(1_000_000.6, 20_000.0, 6), "teacher": InstructionCount(8e6, 20_000.0, 6)}


def bench(build: TinyBuild, folder: Path, device: str | NullDevice, target: str = "x86-64") -> Latency:
    """Runs the stage on what the finished build gave it."""
    found: Latency = run_on(device, STAGE, [made(build, kind) for kind in STAGE.IN], folder, target)
    return found


def read(taken: Latency, name: str) -> Any:
    """Reads one of the JSON files."""
    return json.loads((taken.path / f"{name}.json").read_text())


def check_latency(taken: Latency) -> measured.Latency:
    """Asserts that the figures are those of the times beside them."""
    found: measured.Latency = manifest.decode(measured.Latency, read(taken, "latency"))
    ours, theirs = (np.load(taken.path / f"{name}_ms.npy") for name in ("artifact", "teacher"))
    assert (found.rounds, found.runs) == (len(ours), ours.size)
    for percent in (50, 90, 95, 99):
        assert getattr(found, f"p{percent}_ms") == pytest.approx(np.percentile(ours, percent))
    assert found.teacher_p50_ms == pytest.approx(np.percentile(theirs, 50))
    ratios = np.median(theirs, axis=1) / np.median(ours, axis=1)
    assert found.speedup == pytest.approx(np.median(ratios))
    assert (found.speedup_low, found.speedup_high) == pytest.approx((ratios.min(), ratios.max()))  # of so few rounds
    assert found.histogram is not None
    edges = np.array(found.histogram.edges_ms)
    edges[-1] += 1e-9
    assert list(found.histogram.artifact) == np.histogram(ours, edges)[0].tolist()
    assert found.histogram.teacher is not None
    assert list(found.histogram.teacher) == np.histogram(theirs, edges)[0].tolist()
    return found


def test_figures_are_those_of_the_times(tiny_build: TinyBuild, tmp_path: Path) -> None:
    taken = bench(tiny_build, tmp_path, NullDevice(Provenance.MEASURED, timed=timed()))
    found = check_latency(taken)
    np.testing.assert_array_equal(np.load(taken.path / "artifact_ms.npy"), timed()["artifact"].block_ms)
    assert (found.device, found.provenance, found.reason) == ("null", Provenance.MEASURED, "as the test says")
    assert (found.threads, found.batch, found.sequence_length) == (1, 1, "dynamic")
    assert (found.cold_ms, found.teacher_cold_ms) == (4.5, 36.0)
    assert read(taken, "memory")["peak_rss_bytes"] == 50_000_000
    assert read(taken, "instructions") is None
    assert read(taken, "unmeasured") == {"instructions": "it has no counter"}


def test_the_finished_builds_figures_are_those_of_its_times(tiny_build: TinyBuild) -> None:
    taken = made(tiny_build, Latency)
    found = check_latency(taken)
    assert (found.device, found.rounds, found.runs) == ("local", 2, 100)
    assert read(taken, "memory")["peak_rss_bytes"] > 1_000_000
    assert builds.manifest(tiny_build.bundle)["latency"] == read(taken, "latency")


def test_counts_stand_in_where_there_is_no_clock(tiny_build: TinyBuild, tmp_path: Path) -> None:
    taken = bench(tiny_build, tmp_path, NullDevice(counted=COUNTED))
    found: measured.Instructions = manifest.decode(measured.Instructions, read(taken, "instructions"))
    assert (found.per_inference, found.teacher_per_inference) == (1_000_001, 8_000_000)
    assert (found.device, found.provenance) == ("null", Provenance.SIMULATED)
    assert found.reason == "as the test says; mean of 6 rows, net of 20,000 of the runner itself"
    assert read(taken, "latency") is read(taken, "memory") is None
    assert read(taken, "unmeasured") == {
        "latency": "it has no clock",
        "memory": "taken along with latency only: elsewhere it would be that of the emulator too",
    }
    assert not list(taken.path.glob("*.npy"))


def test_what_the_device_does_not_report_is_not_made_up(tiny_build: TinyBuild, tmp_path: Path) -> None:
    taken = bench(tiny_build, tmp_path, NullDevice(timed=timed(rss=None), counted=COUNTED))
    assert read(taken, "memory") is None
    assert read(taken, "unmeasured") == {"memory": "the device does not report a process's peak memory"}


def test_both_models_run_the_same_texts_in_their_own_tokenisation(tiny_build: TinyBuild, tmp_path: Path) -> None:
    device = NullDevice()
    options = ('version = "1.18"', 'version = "1.18"\noptions = {"a.b" = "1"}')
    target = builds.write_target(tmp_path / "two.toml", ("threads = 1", "threads = 2"), options)
    bench(tiny_build, tmp_path, device, str(target))
    models, plan = device.seen["latency"]
    assert plan == LatencyPlan(rounds=ROUNDS, block_runs=RUNS, threads=2)
    test = data.read(made(tiny_build, LabelledData).path).test
    texts = [test[i][0] for i in draw(len(test), 24, 0)]
    tokenizer = AutoTokenizer.from_pretrained(made(tiny_build, Teacher).path)
    expected = {
        "artifact": [row.tolist() for row in token_ids(made(tiny_build, Vocabulary), texts)],
        "teacher": [tokenizer(text)["input_ids"] for text in texts],
    }
    assert {name: [row.tolist() for row in rows.ids] for name, (_, rows) in models.items()} == expected
    for name, graph in (("artifact", made(tiny_build, Program)), ("teacher", made(tiny_build, TeacherGraph))):
        assert models[name][0] == ModelFile(graph.model, file_digest(graph.model), 0, "1.17", {"a.b": "1"})


def test_instructions_are_counted_over_typical_lengths_of_the_same_texts(tiny_build: TinyBuild, tmp_path: Path) -> None:
    device = NullDevice()
    bench(tiny_build, tmp_path, device)
    every, (few, threads) = device.seen["latency"][0], device.seen["instructions"]
    lengths = np.sort([len(row) for row in every["artifact"][1].ids])
    counted = [len(row) for row in few["artifact"][1].ids]
    assert counted == sorted(counted)
    assert counted == lengths[2::4].tolist()  # the middle of each sixth of 24
    assert threads == 1
    for name in ("artifact", "teacher"):
        known = [row.tolist() for row in every[name][1].ids]
        places = [known.index(row.tolist()) for row in few[name][1].ids]
        assert len(set(places)) == 6
        if name == "artifact":
            first = places
    assert places == first
    assert few["artifact"][0] == every["artifact"][0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block_runs": 49}, "block_runs is 49; shorter blocks than 50 run from cold caches"),
        ({"rounds": 1}, "rounds must be at least 2"),
        ({"texts": 0}, "at least 1"),
        ({"counted_texts": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Benchmark(**given)
