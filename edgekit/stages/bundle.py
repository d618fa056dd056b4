"""Packs what an app takes: the model file, its tokenizer, and golden rows to test them with on the device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import (
    FACTS,
    Bundle,
    LabelledData,
    Program,
    Ranges,
    Teacher,
    Vocabulary,
    file_digest,
    write_json,
)
from edgekit.backends import load_backend
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.calibrate import MANIFEST
from edgekit.stages.compile import FIGURES, labels_of
from edgekit.tokenization import encode, load_tokenizer

GOLDEN, TOKENIZER = "golden.jsonl", "tokenizer"

TOLERANCE = 0.05
"""Largest difference of a logit on another CPU, as a share of the row's spread of logits (largest minus smallest).

Float layer norms and softmax round otherwise from kernel to kernel, and now and then move an activation by one step of
its 8-bit scale; a saturating product or a wrong tokenizer moves logits by several times as much.
"""


ACCELERATED = 0.2
"""The same on an accelerator, which rounds every activation to 8 bits, and by rules of its own."""


@dataclass(frozen=True)
class Pack(Pass):
    """Packs the bundle; the manifest and the report are written when it is put in place.

    Attributes:
        golden_rows: rows of the self-test, from dev, spread over the classes.
    """

    golden_rows: int = 32

    NAME: ClassVar[str] = "bundle"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Program, Teacher, Vocabulary, LabelledData, Ranges)
    OUT: ClassVar = Bundle
    READS: ClassVar[tuple[str, ...]] = ("runtime.name",)
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers",)

    def __post_init__(self) -> None:
        if self.golden_rows < 1:
            raise ValueError(f"golden_rows is {self.golden_rows}; it must be at least 1")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the program's files, tokenizer/, labels.json, golden.jsonl, calibration.json and facts."""
        vocabulary, dataset = inputs[Vocabulary], data.read(inputs[LabelledData].path)
        program = inputs[Program]
        labels = labels_of(inputs[Teacher], dataset, ctx.task)
        shutil.copytree(program.path, out_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(FACTS, *FIGURES))
        shutil.copytree(vocabulary.tokenizer, out_dir / TOKENIZER)
        shutil.copyfile(inputs[Ranges].path / MANIFEST, out_dir / MANIFEST)
        write_json(out_dir / "labels.json", labels)
        backend, pad_id = load_backend(ctx.target["runtime.name"]), vocabulary.facts["pad_token_id"]
        tokenizer = load_tokenizer(out_dir / TOKENIZER, vocabulary.max_length)
        texts = _spread(dataset.dev, self.golden_rows)
        rows = encode(tokenizer, texts)
        logits = backend.logits(program.portable, rows, pad_id)
        golden = [golden_row(t, r, v, labels) for t, r, v in zip(texts, rows, logits, strict=True)]
        lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in golden)
        (out_dir / GOLDEN).write_text(lines, encoding="utf-8")
        described = backend.describe(program.portable)
        facts = {
            "golden_rows": len(golden),
            "labels": labels,
            "pad_token_id": pad_id,
            "max_length": vocabulary.max_length,
            "model_sha256": file_digest(program.model),
            "bytes": program.facts["bytes"],
            "nodes": described.nodes,
        }
        write_json(out_dir / FACTS, facts)


def _spread(rows: Sequence[tuple[str, str]], wanted: int) -> list[str]:
    """Takes rows so that labels take turns, in the order of the rows."""
    seen: dict[str, int] = {}
    ranked = []
    for place, (text, label) in enumerate(rows):
        ranked.append((seen.get(label, 0), place, text))
        seen[label] = seen.get(label, 0) + 1
    return [text for _, _, text in sorted(ranked)[:wanted]]


def golden_row(text: str, ids: np.ndarray, logits: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Makes one golden row: text, token ids, logits and the answer."""
    return {
        "text": text,
        "input_ids": [int(i) for i in ids],
        "logits": [round(float(v), 6) for v in logits],
        "label": labels[int(np.argmax(logits))],
    }


def differences(
    golden: Mapping[str, Any], ids: np.ndarray, logits: np.ndarray, tolerance: float = TOLERANCE
) -> list[str]:
    """Says where a device's ids and logits differ from a golden row by more than rounding; empty where they agree.

    Args:
        golden: as `golden_row` made it.
        ids, logits: of the device.
        tolerance: largest difference of a logit, as a share of the row's spread.
    """
    expected = np.array(golden["logits"])
    if [int(i) for i in ids] != golden["input_ids"]:
        return ["the tokenizer gives other ids"]
    allowed = tolerance * float(expected.max() - expected.min())
    worst = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else float("inf")
    # An answer may only change between two classes that the golden row itself holds to be equal within the tolerance.
    return [] if worst <= allowed else [f"a logit differs by {worst:.3g}, more than {allowed:.3g}"]
