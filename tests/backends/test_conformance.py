"""What every backend must do, on a student of the shared banking77 teacher and real rows; found by its file's name."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bare_python
import numpy as np
import onnx
import pytest

import edgekit
from edgekit import backends, data, devices, pipeline
from edgekit.action import Silent
from edgekit.artifact import FACTS, LabelledData, Program, QuantizedGraph, Student, Teacher, Vocabulary
from edgekit.backends import Backend, Request, load_backend, ready_backend
from edgekit.backends import _litert_file as litert_file
from edgekit.devices import RUNTIMES, Device, TokenRows, processor_of
from edgekit.devices._process import Job, Run, read_logits, run_jobs, runtime_env, write_job
from edgekit.errors import EdgekitError
from edgekit.inference import run_rows
from edgekit.stages.compile import labels_of
from edgekit.stages.evaluate import files_of, run
from edgekit.store import Store
from edgekit.target import Target, load_target, parse_table, shipped_targets
from edgekit.tokenization import encode, load_tokenizer

SHARED = Path(__file__).parents[3] / "shared"
TEACHER, DATA = SHARED / "teachers" / "banking77-minilm-l6", SHARED / "data" / "banking77"
ROWS, AGREEING, ABSENT = 200, 0.98, "NoSuchOperator"
# Two layers and a whole table, which a minute's training brings near the teacher; integers are what is looked at here.
STUDENT = {
    "search": {"enabled": False},
    "distill": {"keep": [1, 5], "epochs": 3},
    "prune": {"heads": 1.0, "ffn": 0.25, "epochs": 2},
}

EXACT = {"qnn": "htp-uint16-activations"}
"""Of backends with several static schemes the exact one: by eight bits HTP answers 97 % of the rows as the float
student does, and a build takes them where dev says that this is enough."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TEACHER.is_dir(), reason="../shared with the banking77 teacher is missing"),
]


@dataclass(frozen=True)
class Made:
    """What a backend made of the student.

    Attributes:
        target: the first shipped one of that backend.
        artifacts: of all stages up to the program.
        rows: of test, as the app tokenizes them.
        device: that runs the program here: the accelerator's simulator where there is one, else this machine.
    """

    backend: Backend
    target: Target
    artifacts: dict[Any, Any]
    rows: list[np.ndarray]
    device: Device

    @property
    def accelerator(self) -> str:
        """The runtime of the accelerator's program, where the device runs that."""
        accelerated = self.device.accelerates(processor_of(self.target.device))
        return self.target.runtime.name if accelerated else ""

    def files(self, program: Program) -> dict[int, devices.ModelFile]:
        """Returns what the device loads of a program."""
        return files_of(program, self.artifacts[Vocabulary].facts["pad_token_id"], {}, self.accelerator)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all backends, so that the student is trained once."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", params=backends.names())
def made(request: pytest.FixtureRequest, store: Store) -> Made:
    """Builds the student for the backend's target, up to the program."""
    name = request.param
    if (missing := load_backend(name).missing()) is not None:
        pytest.skip(missing)
    target = next(one for one in map(load_target, shipped_targets()) if one.runtime.name == name)
    wanted, runtime = processor_of(target.device), load_backend(name).RUNS_ON
    known = [devices.connect(uri) for uri, _, _ in devices.listed()]
    device = next((one for one in known if one.accelerates(wanted)), devices.connect("local"))
    if (lacks := device.unavailable(runtime)) is not None:
        pytest.skip(lacks.reason)
    uri = "" if target.device.accelerator else "local"
    options = STUDENT | {"quantize": {"scheme": EXACT[name]}} if name in EXACT else STUDENT
    recipe = edgekit.make_recipe(str(TEACHER), str(DATA), targets=(target.name,), options=options, device=uri)
    artifacts = pipeline.make_until(recipe, store, Silent(), "compile")
    vocabulary = artifacts[Vocabulary]
    texts = [text for text, _ in data.read(artifacts[LabelledData].path).test]
    rows = encode(load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), texts[:: len(texts) // ROWS][:ROWS])
    return Made(ready_backend(name), target, artifacts, rows, device)


def test_the_program_answers_as_the_float_student(made: Made) -> None:
    from edgekit.ir.encoder import EdgekitForSequenceClassification

    student = EdgekitForSequenceClassification.from_pretrained(made.artifacts[Student].path, local_files_only=True)
    expected = run_rows(student, made.rows, 0, lambda *_: None)
    found = run(made.files(made.artifacts[Program]), made.device, made.rows, 1, None)
    assert len(found) == ROWS
    assert np.mean(found.argmax(1) == expected.argmax(1)) >= AGREEING


def test_the_program_runs_where_there_is_only_the_runtime(made: Made, tmp_path: Path) -> None:
    files = made.files(made.artifacts[Program])
    model, rows = files[max(files)], TokenRows(made.rows[:8])
    python = bare_python.make(tmp_path / "venv", RUNTIMES[model.runtime][0], "numpy")
    for name in ("torch", "transformers", "edgekit"):
        absent = subprocess.run(
            [python, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "ModuleNotFoundError" in absent.stderr
    folder = write_job(tmp_path / "job", Job("logits", {"model": (model, rows)}, 1))
    job = Run((str(python),), runtime_env(1), folder)
    run_jobs("bare", [job])
    np.testing.assert_array_equal(read_logits(job, "bare", len(rows.ids)), made.device.logits(model, rows, 1, None))


def test_an_operator_that_the_runtime_lacks_is_named(made: Made, tmp_path: Path) -> None:
    broken = with_absent_operator(made.artifacts[QuantizedGraph].model, tmp_path)
    with pytest.raises(EdgekitError, match=ABSENT) as refused:
        run(made.files(compiled(made, broken, tmp_path / "out")), made.device, made.rows[:1], 1, None)
    assert refused.value.exit_code in (2, 5)


def test_what_a_manifest_records_of_the_profile_is_the_profile(made: Made) -> None:
    def given(value: Any) -> Any:
        """Leaves out what is not set, as a file does."""
        return {k: given(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    recorded = json.loads(json.dumps(made.target.as_dict()))
    assert parse_table(Target, given(recorded), "manifest.json", "") == made.target


def compiled(made: Made, graph: Path, out: Path) -> Program:
    """Compiles a graph as the stage does, and returns the program without the figures."""
    out.mkdir()
    vocabulary, target = made.artifacts[Vocabulary], made.target.as_dict()
    dataset = data.read(made.artifacts[LabelledData].path)
    request = Request(
        texts=[text for text, _ in dataset.train],
        lengths=[len(row) for row in made.rows],
        max_length=vocabulary.max_length,
        pad_id=vocabulary.facts["pad_token_id"],
        labels=labels_of(made.artifacts[Teacher], dataset, "text-classification"),
        tokenizer=vocabulary.tokenizer,
        device=target["device"],
        shape=target["shape"],
    )
    one = made.backend.compile(graph, request, out)
    files = {str(length): name for length, name in one.files.items()}
    facts = {"model": one.model, "portable": one.portable or one.model, "files": files, "min_runtime": ""}
    (out / FACTS).write_text(json.dumps(facts))
    return Program(out, "")


def with_absent_operator(graph: Path, folder: Path) -> Path:
    """Writes a model file with one of its operators replaced by one that nobody knows."""
    out = folder / graph.name
    if graph.suffix == ".onnx":
        model = onnx.load(graph)
        node = next(one for one in model.graph.node if one.op_type in ("Gelu", "Erf", "Relu", "Tanh", "Softmax"))
        node.op_type, node.domain = ABSENT, ""
        del node.attribute[:]
        onnx.save(model, out)
        return out
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    model = litert_file.read(graph)
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = BuiltinOperator.CUSTOM
    code.customCode = ABSENT
    litert_file.write(model, out)
    return out
