"""Makes what the device loads of the integer graph: for a CPU the graph itself, for an NPU its compiler's program."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgekit import data, manifest
from edgekit.artifact import FACTS, LabelledData, Program, QuantizedGraph, Teacher, Vocabulary, write_json
from edgekit.backends import Request, load_backend
from edgekit.checkpoint import read_labels
from edgekit.stage import Context, Inputs, Pass
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

DEVICE, SHAPE = ("device.accelerator", "device.socs"), ("shape.sequence_length", "shape.buckets")
COVERAGE, CYCLES = FIGURES = "coverage.json", "cycles.json"


@dataclass(frozen=True)
class Compile(Pass):
    """Compiles by the target's backend."""

    NAME: ClassVar[str] = "compile"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (QuantizedGraph, Teacher, Vocabulary, LabelledData)
    OUT: ClassVar = Program
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", *DEVICE, *SHAPE)
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the program, coverage.json and cycles.json, each null where there is no such figure."""
        graph, vocabulary = inputs[QuantizedGraph], inputs[Vocabulary]
        dataset = data.read(inputs[LabelledData].path)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        texts = [text for text, _ in dataset.train]
        request = Request(
            texts=texts,
            lengths=[len(row) for row in encode(tokenizer, texts)],
            max_length=vocabulary.max_length,
            pad_id=vocabulary.facts["pad_token_id"],
            labels=labels_of(inputs[Teacher], dataset, ctx.task),
            tokenizer=vocabulary.tokenizer,
            device={name.partition(".")[2]: ctx.target[name] for name in DEVICE},
            shape={name.partition(".")[2]: ctx.target[name] for name in SHAPE},
        )
        made = load_backend(ctx.target["runtime.name"]).compile(graph.model, request, out_dir)
        for name, figure in ((COVERAGE, made.coverage), (CYCLES, made.cycles)):
            write_json(out_dir / name, None if figure is None else manifest.encode(figure))
        facts = {name: value for name, value in graph.facts.items() if name != "findings"}
        facts |= {
            "model": made.model,
            "portable": made.portable or made.model,
            "bytes": made.bytes,
            "lengths": list(made.lengths),
            "files": {str(length): name for length, name in made.files.items()},
            "findings": [dataclasses.asdict(finding) for finding in made.findings],
        }
        write_json(out_dir / FACTS, facts)


def labels_of(teacher: Teacher, dataset: data.Dataset, task: str) -> list[str]:
    """Returns the names of the classes in the order of the outputs, as the data has them."""
    labels = list(read_labels(teacher.path))
    names = {index: label for label, index in load_task(task).align(labels, dataset.labels).items()}
    return [names.get(index, label) for index, label in enumerate(labels)]
