"""Example manifests for tests, and the JSON Schema of the manifest's dataclasses.

`python tests/manifests.py > edgekit/manifest.schema.json` writes the schema anew after a field has changed.
"""

from __future__ import annotations

import dataclasses
import json
import random
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from edgekit import statistics
from edgekit.codec import InsideBundle, Matches, Within
from edgekit.manifest import (
    SCHEMA,
    Data,
    File,
    Gate,
    Host,
    Limits,
    Manifest,
    Model,
    Step,
    Teacher,
    Tensor,
    Tokenizer,
)
from edgekit.measured import Accuracy, Candidate, Histogram, Instructions, Latency, Memory
from edgekit.provenance import Provenance
from edgekit.verdict import judge

LABELS = ("activate_my_card", "card_arrival", "exchange_rate", "lost_or_stolen_card", "top_up_failed", "why_verify")


def digest(text: str) -> str:
    """Returns a sha256 of something, to stand for that of a file."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def accuracy(lost: int = 38, gained: int = 14, examples: int = 3080, right: int = 2861, **changes: Any) -> Accuracy:
    """Returns an accuracy whose figures agree with its counts."""
    teacher, artifact = 100 * right / examples, 100 * (right - lost + gained) / examples
    flips = statistics.flip_rate(lost, gained, examples)
    figures = {
        "metric": "accuracy",
        "teacher": teacher,
        "student_fp32": artifact + 0.13,
        "artifact": artifact,
        "drop": 100 * (lost - gained) / examples,
        "ci95": statistics.tango_interval(lost, gained, examples),
        "method": "tango",
        "examples": examples,
        "lost": lost,
        "gained": gained,
        "bounds": None,
        "flips": flips,
        "churn": min(100.0, flips * 1.4),
        "floor": 100 / 77,
        "device": "local: AMD EPYC, AVX2",
        "provenance": Provenance.MEASURED,
        "reason": "",
        "float_provenance": Provenance.ESTIMATED,
        "float_reason": "float32 in PyTorch on the machine that built",
    }
    return Accuracy(**{**figures, **changes})


def latency(**changes: Any) -> Latency:
    """Returns a latency measured in 10 rounds of 50 runs, with its histogram."""
    noise = random.Random(7)
    fast = [noise.lognormvariate(-0.22, 0.30) for _ in range(500)]
    slow = [noise.lognormvariate(1.72, 0.34) for _ in range(500)]
    rounds = [
        statistics.percentile(slow[i : i + 50], 50) / statistics.percentile(fast[i : i + 50], 50)
        for i in range(0, 500, 50)
    ]
    speedup = statistics.median_range(rounds)
    edges, counts, teacher_counts = statistics.histogram(fast, slow)
    figures = {
        "device": "local: AMD EPYC, AVX2",
        "provenance": Provenance.MEASURED,
        "reason": "",
        "threads": 1,
        "batch": 1,
        "sequence_length": "dynamic",
        "runs": 500,
        "rounds": 10,
        **{f"p{p}_ms": statistics.percentile(fast, p) for p in (50, 90, 95, 99)},
        "cold_ms": 41.7,
        "teacher_p50_ms": statistics.percentile(slow, 50),
        "teacher_cold_ms": 212.4,
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "histogram": Histogram(tuple(edges), tuple(counts), tuple(teacher_counts)),
    }
    return Latency(**{**figures, **changes})


def lineage() -> tuple[Step, ...]:
    """Returns the stages of a build, some of them cached."""
    rows: list[tuple[str, float, bool, str, int | None, dict[str, object]]] = [
        ("trim", 3.1, True, "cached", 62_400_000, {"vocabulary": 6_204, "unknown_before_pct": 0.01}),
        ("distill", 421.6, True, "cached", 15_300_000, {"layers": [0, 2, 5], "dev_accuracy": 92.75, "epochs": 6}),
        ("prune", 188.9, False, "option sparsity changed", 11_800_000, {"heads": [8, 6, 6], "ffn": [512, 416, 448]}),
        ("export", 9.4, False, "input changed: prune", 11_900_000, {"opset": 17, "nodes": 148}),
        ("calibrate", 6.2, False, "input changed: export", None, {"policy": "stratified", "rows": 256}),
        ("quantize", 31.8, False, "input changed: calibrate", 4_812_345, {"candidates": 3}),
        ("evaluate", 24.0, False, "input changed: quantize", None, {"rows": 3_080}),
        ("benchmark", 18.3, False, "never cached", None, {"runs": 500}),
        ("bundle", 0.4, False, "input changed: quantize", 5_120_000, {}),
    ]
    return tuple(
        Step(stage, digest(stage), seconds, cached, reason, size, facts)
        for stage, seconds, cached, reason, size, facts in rows
    )


NO_ACCELERATOR = dict.fromkeys(("cycles", "coverage", "agreement"), "the target has no accelerator")
"""Why figures of an accelerator are missing of a target that has none."""


def candidates() -> tuple[Candidate, ...]:
    """Returns what quantize measured."""
    return (
        Candidate(
            "u8 × s8, pair-bounded",
            True,
            {"dev_accuracy": 92.61, "p50_ms": 0.81, "bytes": 4_812_345},
            {"dev_accuracy": Provenance.MEASURED, "p50_ms": Provenance.MEASURED},
            "best accuracy among those that do not saturate",
        ),
        Candidate(
            "u8 × s7, reduced range",
            False,
            {"dev_accuracy": 92.10, "p50_ms": 0.80, "bytes": 4_812_345},
            {"dev_accuracy": Provenance.MEASURED, "p50_ms": Provenance.MEASURED},
            "0.51 points less on dev",
        ),
        Candidate(
            "u8 × u8",
            False,
            {"dev_accuracy": 92.58, "p50_ms": 1.34, "bytes": 4_815_001},
            {"dev_accuracy": Provenance.MEASURED, "p50_ms": Provenance.MEASURED},
            "slower: no kernel for batch 1",
        ),
    )


def example(name: str = "x86-64", *, limits: Limits | None = None, **changes: Any) -> Manifest:
    """Returns a manifest measured on the host; `changes` replace fields, and the gate is judged from the result."""
    limits = limits or Limits(max_drop=1.5, min_examples=400, max_latency_ms=5.0, max_bytes=8_000_000)
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "edgekit": "0.1.0",
        "created": "2026-01-31T12:00:00Z",
        "host": Host("Linux", "x86_64", "AMD EPYC 7B13", 2, "3.11.7"),
        "target": {
            "schema": 1,
            "name": name,
            "summary": "64-bit x86 CPU with AVX2, ONNX Runtime",
            "source": "measured",
            "device": {
                "arch": "x86_64",
                "isa": ["avx2", "fma"],
                "cpu": "Haswell",
                "threads": 1,
                "ram_bytes": 4_294_967_296,
            },
            "runtime": {"name": "onnxruntime", "version": "1.18", "provider": "CPUExecutionProvider", "options": {}},
            "shape": {"batch": 1, "sequence_length": "dynamic", "head_multiple": 2, "ffn_multiple": 32},
            "quant": {
                "scheme": "static-qdq",
                "saturates": True,
                "ops": ["MatMul", "Gemm", "Gather"],
                "io": "float32",
                "weight": {"dtype": "int8", "granularity": "per-channel", "symmetric": True},
                "activation": {"dtype": "uint8", "symmetric": False},
            },
            "budget": {
                "latency_p95_ms": limits.max_latency_ms,
                "instructions": limits.max_instructions,
                "peak_rss_bytes": limits.max_peak_rss_bytes,
                "file_bytes": limits.max_bytes,
            },
            "gate": {
                "max_drop": limits.max_drop,
                "confidence": limits.confidence,
                "min_examples": limits.min_examples,
            },
        },
        "task": "text-classification",
        "labels": LABELS,
        "recipe": {
            "model": "banking77-minilm-l6",
            "data": "banking77",
            "seed": 1,
            "options": {"distill.epochs": 6, "trim.min_count": 1},
        },
        "teacher": Teacher("banking77-minilm-l6", "bert", 22_742_861, 91_003_142, digest("teacher")),
        "data": Data("banking77", {"train": 9_002, "dev": 1_001, "test": 3_080}, 3, {"dev": "10 % of train"}),
        "model": Model(
            "onnx",
            "model.onnx",
            digest("model"),
            4_812_345,
            4_812_345,
            {},
            "model.onnx",
            4_690_120,
            (Tensor("input_ids", "int64", (1, "sequence")),),
            (Tensor("logits", "float32", (1, 77)),),
            17,
            8,
            "onnxruntime 1.18",
        ),
        "tokenizer": Tokenizer("tokenizer", digest("tokenizer"), 128, 0),
        "files": (File("golden.jsonl", digest("golden"), 20_480), File("tokenizer/tokenizer.json", digest("t"), 9_900)),
        "lineage": lineage(),
        "candidates": candidates(),
        "accuracy": accuracy(),
        "latency": latency(),
        "instructions": None,
        "memory": Memory(61_300_000, "local: AMD EPYC, AVX2", Provenance.MEASURED, ""),
        "cycles": None,
        "coverage": None,
        "agreement": None,
        "unmeasured": {"instructions": "counted on qemu targets only", **NO_ACCELERATOR},
        **changes,
    }
    fields["gate"] = changes.get("gate") or gate_of(limits, fields)
    return Manifest(**fields)


def example_arm64(**changes: Any) -> Manifest:
    """Returns a manifest taken under qemu: exact instructions, no latency."""
    device = "qemu: cortex-a76"
    limits = changes.pop("limits", None) or Limits(
        max_drop=1.5, min_examples=400, max_instructions=30_000_000, max_bytes=8_000_000
    )
    base = example(limits=limits)
    fields: dict[str, Any] = {
        "target": {**base.target, "name": "arm64", "summary": "64-bit Arm CPU, Cortex-A76 class, ONNX Runtime"},
        "accuracy": accuracy(6, 3, 500, 464, device=device, provenance=Provenance.SIMULATED),
        "latency": None,
        "memory": None,
        "instructions": Instructions(
            18_420_117, 121_304_882, device, Provenance.SIMULATED, "TCG plugin; 5 runs less 2, divided by 3"
        ),
        "unmeasured": {
            "latency": "qemu's time is not a device's time",
            "memory": "qemu's own memory is in the figure",
            **NO_ACCELERATOR,
        },
    }
    return example("arm64", limits=limits, **{**fields, **changes})


def gate_of(limits: Limits, fields: Mapping[str, Any]) -> Gate:
    """Returns the gate of the figures in a manifest's fields."""
    sections = ("accuracy", "latency", "instructions", "memory", "coverage", "agreement", "unmeasured")
    return judge(limits, model_bytes=fields["model"].device_bytes, **{name: fields[name] for name in sections})


def schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of the dataclasses, from the same hints that the codec reads."""
    definitions: dict[str, Any] = {}
    root = _schema_of(Manifest, definitions)
    definitions["Manifest"]["properties"]["target"] = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edgekit manifest",
        **root,
        "$defs": definitions,
    }


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        base = _schema_of(arguments[0], definitions)
        for constraint in arguments[1:]:
            base |= _constraint(constraint)
        return base
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(item, definitions) for item in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _schema_of(arguments[0], definitions)}
        return {
            "type": "array",
            "prefixItems": [_schema_of(item, definitions) for item in arguments],
            "minItems": len(arguments),
            "maxItems": len(arguments),
        }
    if origin is Mapping:
        value = _schema_of(arguments[1], definitions)
        return {"type": "object", "additionalProperties": value} if value else {"type": "object"}
    if dataclasses.is_dataclass(kind):
        if kind.__name__ not in definitions:
            hints = typing.get_type_hints(kind, include_extras=True)
            definitions[kind.__name__] = {"type": "object"}
            definitions[kind.__name__] |= {
                "description": " ".join((kind.__doc__ or "").split()),
                "properties": {name: _schema_of(hint, definitions) for name, hint in hints.items()},
                "required": list(hints),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [str(item) for item in kind]}
    plain = {str: "string", bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}
    return {} if kind is object else {"type": plain[kind]}


def _constraint(constraint: object) -> dict[str, Any]:
    match constraint:
        case Within(minimum, None):
            return {"minimum": minimum}
        case Within(minimum, maximum):
            return {"minimum": minimum, "maximum": maximum}
        case Matches(pattern, _):
            return {"pattern": f"^{pattern}$"}
        case InsideBundle():
            return {"pattern": r"^(?!/)(?![A-Za-z]:)(?!(.*/)?\.\.(/|$))(?!\.?$)[^\\\u0000]+$"}
    raise TypeError(constraint)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
