"""A tiny student for Qualcomm's HTP: exported, quantized and compiled as a build does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny

from edgekit import frontends
from edgekit.backends import Compiled, Precision, Request, Scheme, qnn
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import keep_widths
from edgekit.quant.ranges import Range, observe, ranges_of
from edgekit.target import field_of, load_target

MAX_LENGTH, PAD, VOCABULARY = 40, 1, 100
EIGHT_BITS, SIXTEEN_BITS = qnn.SCHEMES
QUANT = field_of(load_target("mobile-npu"), "quant")
CALIBRATION = tiny.token_rows(VOCABULARY, [9, 20, 31] * 8)
LENGTHS = (16, 40)


def student(model_type: str = "bert") -> EdgekitForSequenceClassification:
    """Returns a random model of the IR whose layers have different widths."""
    model = frontends.build(tiny.classifier(model_type, seed=5))
    heads = [[0, 1, 2, 3], [0, 3], [1, 2, 3], [2]]
    return keep_widths(model, heads, [range(64), range(0, 64, 2), range(8), range(32)])


def export(path: Path, model_type: str = "bert") -> Path:
    """Writes the float graph."""
    qnn.export_student(student(model_type), "buckets", MAX_LENGTH, path)
    return path


def ranges(graph: Path) -> dict[str, Range]:
    """Returns the ranges that quantization needs, of CALIBRATION."""
    tensors = qnn.quantized_tensors(graph, "all")
    return ranges_of(observe(qnn.activations(graph, tensors, CALIBRATION, PAD)), "minmax")


def quantize(graph: Path, scheme: Scheme, path: Path, precision: Precision | None = None) -> Path:
    """Writes the integer graph."""
    qnn.quantize(graph, ranges(graph), QUANT, scheme, precision or Precision(), path)
    return path


def request(**changes: Any) -> Request:
    """Returns what a program is compiled for: one chip, and rows that ask for LENGTHS."""
    values: dict[str, Any] = {
        "texts": [],
        "lengths": [9] * 20 + [14] * 8 + [33],
        "max_length": MAX_LENGTH,
        "pad_id": PAD,
        "labels": tiny.LABELS,
        "tokenizer": Path(),
        "device": {"accelerator": "hexagon-htp", "socs": ["SM8650"]},
        "shape": {"sequence_length": "buckets", "buckets": 2},
    }
    return Request(**(values | changes))


def compile_for(graph: Path, out: Path, **changes: Any) -> Compiled:
    """Compiles into a new folder."""
    out.mkdir()
    return qnn.compile(graph, request(**changes), out)
