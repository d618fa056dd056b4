"""Writes docs/targets.md from the profiles in `targets/`: the same bytes from the same files.

    python docs/make_targets.py            writes the page
    python docs/make_targets.py --check    compares; exits 1 where the page is out of date

What a key means stands in `MEANINGS`; which stages read it comes from the stages' own `READS`. A key that the profile's
dataclasses have and `MEANINGS` lacks, or the other way round, is an error.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.stages import ORDER
from edgekit.target import Target, load_target, shipped_targets

PAGE = Path(__file__).with_name("targets.md")
HEAD = """\
# Targets

<!-- Written by docs/make_targets.py from targets/*.toml; do not edit. `make docs` writes it anew. -->

A target says what a device can do and what a model on it must meet. The profiles below are shipped; `edgekit targets`
lists them, `edgekit targets NAME` prints one. How to write one of your own stands in the
[guide](guide.md#a-target-profile-of-your-own).
"""
MEANINGS = {
    "schema": "version of the format",
    "name": "name of the target and of its file",
    "summary": "one line for lists",
    "source": "where the profile's figures come from",
    "device.arch": "processor architecture as `uname -m` prints it; with `isa` it decides every figure's provenance",
    "device.isa": "extensions that every device of the target has; figures from a machine that lacks one are estimates",
    "device.cpu": "processor as qemu names it; `qemu:CPU` is the device chosen where that is prepared",
    "device.threads": "threads of the runtime when figures are taken",
    "device.ram_bytes": "memory of the device",
    "device.accelerator": "NPU that runs the program, as its compiler names it; absent: the processor does",
    "device.socs": "chips that programs are compiled for",
    "runtime.name": "backend that exports, quantizes and runs the model",
    "runtime.version": "oldest version of the runtime that the device has",
    "runtime.options": "session configuration, in the runtime's own names; may be absent",
    "runtime.provider": "execution provider of the runtime",
    "shape.batch": "rows an inference; only 1 in this version",
    "shape.sequence_length": "tokens of the input: a fixed number, `dynamic`, or `buckets`, lengths chosen by the data",
    "shape.buckets": "how many lengths there may be; 1 where absent",
    "shape.head_multiple": "attention heads of each layer are rounded to a multiple of this",
    "shape.ffn_multiple": "FFN channels of each layer are rounded to a multiple of this",
    "quant.scheme": "`auto`: static, dynamic or weight-only, by time on the device; `static-qdq`: static only",
    "quant.weight.dtype": "integer type of the weights; `quantize` tries the unsigned one too and may choose it",
    "quant.weight.granularity": "one scale a tensor, or one an output channel",
    "quant.weight.symmetric": "whether the weights' zero point is 0",
    "quant.activation.dtype": "integer type of the activations",
    "quant.activation.symmetric": "whether the activations' zero point is fixed",
    "quant.ops": "operators that get integers, or `all` that the runtime has kernels for; the others stay float",
    "quant.io": "type of the outputs",
    "budget.latency_p95_ms": "largest p95 of an inference; absent: not gated",
    "budget.instructions": "most instructions of the target's ISA an inference; absent: not gated",
    "budget.peak_rss_bytes": "largest resident memory of the process that runs the model; absent: not gated",
    "budget.file_bytes": "largest model file; absent: not gated, and the vocabulary is left whole unless asked",
    "gate.max_drop": "largest drop of the metric against the teacher, in points",
    "gate.min_examples": "fewest rows that may settle the accuracy",
    "gate.min_coverage": "least share of the graph that the accelerator takes, in percent; absent: not gated",
    "gate.min_agreement": "least share of its answers that are a CPU's by the same file, in percent; absent: not gated",
    "gate.confidence": "confidence of the accuracy check; absent: the drop itself is compared",
}


def page() -> str:
    """Returns the whole page."""
    profiles = [load_target(name) for name in shipped_targets()]
    parts = [HEAD, _overview(profiles), *(_profile(profile) for profile in profiles), _keys()]
    return "\n".join(parts)


def _overview(profiles: list[Target]) -> str:
    lines = ["| target | what | runtime | limits |", "| --- | --- | --- | --- |"]
    for profile in profiles:
        limits = [f"`{key}` {_amount(key, value)}" for key, value in _limits(profile)]
        runtime = f"{profile.runtime.name} ≥ {profile.runtime.version}"
        lines.append(f"| [{profile.name}](#{profile.name}) | {profile.summary} | {runtime} | {', '.join(limits)} |")
    return "\n".join(lines) + "\n"


def _limits(profile: Target) -> Iterator[tuple[str, Any]]:
    for section in (profile.budget, profile.gate):
        for key, value in dataclasses.asdict(section).items():
            if value is not None:
                yield key, value


def _profile(profile: Target) -> str:
    lines = [f"## {profile.name}", "", f"{profile.summary}.", "", f"Source: {profile.source.rstrip('.')}.", ""]
    lines += ["| key | value |", "| --- | --- |"]
    for name, value in _flat(profile.as_dict()):
        if name not in ("schema", "name", "summary", "source"):
            lines.append(f"| `{name}` | {_amount(name, value)} |")
    return "\n".join(lines) + "\n"


def _keys() -> str:
    fields = list(_fields(Target))
    if set(fields) != set(MEANINGS):
        raise SystemExit(f"MEANINGS and the profile's keys differ in {sorted(set(fields) ^ set(MEANINGS))}")
    lines = ["## Keys", "", "Read by: the stages that see the key, and are run again when it changes."]
    lines += ["A key that no stage reads is written into the manifest.", ""]
    lines += ["| key | meaning | read by |", "| --- | --- | --- |"]
    for name in fields:
        stages = [cls.NAME for cls in ORDER if any(_covers(read, name) for read in cls.READS)]
        lines.append(f"| `{name}` | {MEANINGS[name]} | {', '.join(stages) or '–'} |")
    return "\n".join(lines) + "\n"


def _covers(read: str, name: str) -> bool:
    return name == read or name.startswith(f"{read}.")


def _fields(cls: type[Any], prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _fields(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _amount(name: str, value: Any) -> str:
    if value is None:
        return "not gated" if name.startswith("budget") else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, Mapping):
        return "none"
    if name.endswith("_bytes"):
        return f"{value:,} ({value / 2**20:,.0f} MiB)"
    if name.endswith("max_drop"):
        return f"{value:g} points"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> int:
    """Writes or compares the page; returns the exit code."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.name} is out of date; run `make docs`", file=sys.stderr)
        return 1
    if sys.argv[1:]:
        print("usage: python docs/make_targets.py [--check]", file=sys.stderr)
        return 2
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
