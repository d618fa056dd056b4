"""What a device loads: for a CPU the graph itself, and rows each by the shortest input that they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from builds import TinyBuild, made
from test_evaluate import NullDevice

from edgekit.artifact import Program, QuantizedGraph
from edgekit.devices import ModelFile, TokenRows
from edgekit.errors import StageContractError
from edgekit.provenance import Provenance
from edgekit.stages.compile import Compile
from edgekit.stages.evaluate import Taken, agreed, files_of, run


def test_a_cpu_loads_the_graph_itself(tiny_build: TinyBuild, tmp_path: Path) -> None:
    given = [made(tiny_build, kind) for kind in Compile.IN]
    program: Program = tiny.run_stage(Compile(), given, tmp_path)
    graph = made(tiny_build, QuantizedGraph)
    assert program.model == program.portable
    assert program.model.read_bytes() == graph.model.read_bytes()
    assert program.by_length == {}
    assert program.facts["bytes"] == graph.model.stat().st_size
    assert {name: program.facts[name] for name in ("name", "family", "min_runtime")} == {
        name: graph.facts[name] for name in ("name", "family", "min_runtime")
    }
    for name in ("coverage.json", "cycles.json"):
        assert json.loads((program.path / name).read_text()) is None


class Recorder(NullDevice):
    """A device that answers with the number of the file it was given, and says what it was given."""

    def logits(self, model: ModelFile, rows: TokenRows, threads: int, progress: Any) -> np.ndarray:
        self.seen[model.path.name] = [len(row) for row in rows.ids]
        for done in range(len(rows.ids)):
            progress(done + 1, len(rows.ids))
        number = float(model.path.stem)
        return np.array([[number, len(row)] for row in rows.ids], dtype=np.float32)


def answers(lengths: Sequence[int], files: Mapping[int, ModelFile]) -> tuple[Recorder, list[list[float]], list[int]]:
    device, told = Recorder(), list[int]()
    rows = [np.ones(length, dtype=np.int64) for length in lengths]
    found = run(files, device, rows, 1, lambda done, total: told.append(done))  # type: ignore[arg-type]
    return device, found.tolist(), told


def test_each_row_is_run_by_the_shortest_input_that_it_fits(tmp_path: Path) -> None:
    files = {length: ModelFile(tmp_path / f"{length}.onnx", "") for length in (8, 16, 40)}
    lengths = [16, 3, 40, 8, 9, 17]
    device, found, told = answers(lengths, files)
    assert found == [[16, 16], [8, 3], [40, 40], [8, 8], [16, 9], [40, 17]], "in the order of the rows"
    assert device.seen == {"8.onnx": [3, 8], "16.onnx": [16, 9], "40.onnx": [40, 17]}
    assert told == [1, 2, 3, 4, 5, 6]
    device, found, _ = answers([3, 4], files)
    assert (list(device.seen), found) == (["8.onnx"], [[8, 3], [8, 4]]), "what no row needs is not loaded"
    with pytest.raises(StageContractError, match="41 tokens, but the program's inputs 40 at most"):
        answers([3, 41], files)
    _, found, _ = answers([3, 400], {0: ModelFile(tmp_path / "1.onnx", "")})
    assert found == [[1, 3], [1, 400]], "a file for rows of any length"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A program of two lengths, with a portable file."""
    for name in ("model.onnx", "8.onnx", "16.onnx"):
        (tmp_path / name).write_text(name)
    facts = {"model": "16.onnx", "portable": "model.onnx", "files": {"16": "16.onnx", "8": "8.onnx"}}
    (tmp_path / "facts.json").write_text(json.dumps(facts | {"min_runtime": "1.18"}))
    return Program(tmp_path, "")


def test_an_accelerator_gets_the_program_and_a_cpu_the_portable_file(program: Program) -> None:
    (plain,) = files_of(program, 3, {"a": "b"}).items()
    assert (plain[0], plain[1].path, plain[1].runtime) == (0, program.path / "model.onnx", "onnxruntime")
    assert (plain[1].min_runtime, plain[1].pad_id, plain[1].options) == ("1.18", 3, {"a": "b"})
    compiled = files_of(program, 3, {}, "qnn")
    assert {length: (one.path.name, one.runtime) for length, one in compiled.items()} == {
        8: ("8.onnx", "qnn"),
        16: ("16.onnx", "qnn"),
    }
    assert list(compiled) == [8, 16]


def test_agreement_is_of_the_answers() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(50, 4)), random.normal(size=(50, 4))
    taken = Taken("npu", Provenance.SIMULATED, "as the test says", Provenance.MEASURED)
    found = agreed(ours, theirs, taken)
    assert found.percent == pytest.approx(
        100 * sum(a.argmax() == b.argmax() for a, b in zip(ours, theirs, strict=True)) / 50
    )
    assert (found.rows, found.device, found.provenance) == (50, "npu", Provenance.SIMULATED)
    assert agreed(ours, 2 * ours, taken).percent == 100
