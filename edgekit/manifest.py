"""What a build made and how good it is: `dist/<target>/manifest.json`, read strictly and written atomically.

The dataclasses below are the format; `manifest.schema.json` beside this file says the same for other languages, and a
test keeps the two in step. The codec walks the type hints, so a field is declared once: its type, its range and its
pattern stand in its annotation. Chosen over a validation library because `edgekit gate` must start at once, and over
hand-written checks because those drift from the fields.

Metrics are percentages (0 to 100), drops are points, `speedup` and instruction ratios are teacher / artifact. A figure
that nobody took is null and `unmeasured` says why under its dotted name (`latency`, `accuracy.student_fp32`).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from edgekit import codec
from edgekit.codec import Within
from edgekit.errors import ArtifactError, OutputError, suggestion
from edgekit.measured import (
    Accuracy,
    Agreement,
    Amount,
    BundlePath,
    Candidate,
    Confidence,
    Count,
    Coverage,
    Cycles,
    Instructions,
    Latency,
    Memory,
    Percent,
    Positive,
    Score,
    Sha256,
    Text,
    Utc,
)
from edgekit.provenance import Provenance

T = TypeVar("T")

SCHEMA = 1
FILE_NAME = "manifest.json"
MAX_BYTES = 16 << 20  # a manifest is some tens of kilobytes; a larger file is not one, and is not parsed


class Verdict(StrEnum):
    """What a check of the gate says; only `pass` lets a release through."""

    PASS = "pass"
    FAIL = "fail"
    INVALID = "invalid"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not-measured"


@dataclass(frozen=True)
class Host:
    """The machine that built: kind only, neither its name nor its paths."""

    system: Text
    machine: Text
    cpu: str
    cores: Positive
    python: Text


@dataclass(frozen=True)
class Teacher:
    """The fine-tuned model that was given; `bytes` is its fp32 file as ONNX, the base of the size ratio."""

    name: Text
    architecture: Text
    parameters: Count
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Data:
    """The labelled data: rows of each split, and how many rows of test are also in train."""

    name: Text
    rows: Mapping[str, Count]
    test_in_train: Count
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model; a named axis is dynamic."""

    name: Text
    dtype: Text
    shape: tuple[Count | Text, ...]


@dataclass(frozen=True)
class File:
    """A file of the bundle."""

    path: BundlePath
    sha256: Sha256
    bytes: Count


@dataclass(frozen=True)
class Model:
    """The model file, and the contract between it and the runtime of an app.

    Where a device loads several files, `files` names that of each input length, `path` is that of the longest, and
    `device_bytes` is the size of all that one device loads. `portable` is the file that a CPU answers by.
    """

    format: Text
    path: BundlePath
    sha256: Sha256
    bytes: Count
    device_bytes: Count
    files: Mapping[str, BundlePath]
    portable: BundlePath
    parameters: Count
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: Positive | None
    ir_version: Positive | None
    min_runtime: Text


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer's folder; `sha256` is that of its tokenizer.json, `pad_id` fills an input of fixed length."""

    path: BundlePath
    sha256: Sha256
    max_length: Positive
    pad_id: Count


@dataclass(frozen=True)
class Step:
    """A stage of the build; a cached one keeps the seconds of the run that made it. `bytes`: weights it left."""

    stage: Text
    key: Sha256
    seconds: Amount
    cached: bool
    reason: str
    bytes: Count | None
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Limits:
    """What the gate asks; null is not asked. Scores are percent, `max_drop` is points, the latency is the p95."""

    max_drop: Percent | None = None
    confidence: Confidence | None = None
    min_examples: Positive | None = None
    min_score: Score | None = None
    min_teacher: Score | None = None
    max_flips: Percent | None = None
    max_churn: Percent | None = None
    max_latency_ms: Amount | None = None
    min_speedup: Amount | None = None
    max_instructions: Positive | None = None
    max_bytes: Positive | None = None
    max_peak_rss_bytes: Positive | None = None
    min_coverage: Percent | None = None
    min_agreement: Percent | None = None


@dataclass(frozen=True)
class Check:
    """One question of the gate. `rows_needed` would settle an inconclusive one; null where that is not known."""

    name: Text
    value: float | None
    limit: float | None
    unit: str
    verdict: Verdict
    reason: str
    provenance: Provenance | None = None
    rows_needed: Positive | None = None


@dataclass(frozen=True)
class Gate:
    """The verdict over all checks, with the limits it was derived from."""

    verdict: Verdict
    limits: Limits
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Manifest:
    """All that is known of one bundle. `target` is the whole profile, `recipe` what was asked, `files` the rest."""

    schema: Annotated[int, Within(SCHEMA, SCHEMA)]
    edgekit: Text
    created: Utc
    host: Host
    target: Mapping[str, object]
    task: Text
    labels: tuple[str, ...]
    recipe: Mapping[str, object]
    teacher: Teacher
    data: Data
    model: Model
    tokenizer: Tokenizer
    files: tuple[File, ...]
    lineage: tuple[Step, ...]
    candidates: tuple[Candidate, ...]
    accuracy: Accuracy | None
    latency: Latency | None
    instructions: Instructions | None
    memory: Memory | None
    cycles: Cycles | None
    coverage: Coverage | None
    agreement: Agreement | None
    unmeasured: Mapping[str, Text]
    gate: Gate

    @property
    def target_name(self) -> str:
        """The name of the target, which is also that of the folder in `dist/`."""
        return str(self.target["name"])

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Builds a manifest from parsed JSON. Raises: ArtifactError that names the key at fault."""
        if isinstance(value, dict) and value.get("schema", SCHEMA) != SCHEMA:
            raise ArtifactError(
                f"schema: {codec.shown(value['schema'])} is not known, this edgekit reads schema {SCHEMA}; "
                "build the bundle again, or use the edgekit that wrote it"
            )
        manifest: Self = codec.decode(cls, value, "")
        _check_whole(manifest)
        return manifest

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest as plain JSON values."""
        plain: dict[str, Any] = codec.encode(self)
        return plain


# Figures that may be null; each that is has its reason in `unmeasured`, and nothing else stands there.
FIGURES = (
    "accuracy",
    "accuracy.student_fp32",
    "accuracy.flips",
    "accuracy.churn",
    "accuracy.floor",
    "latency",
    "latency.cold_ms",
    "latency.teacher_p50_ms",
    "latency.teacher_cold_ms",
    "latency.speedup",
    "latency.histogram",
    "instructions",
    "instructions.teacher_per_inference",
    "memory",
    "cycles",
    "coverage",
    "agreement",
)
SECTIONS = ("accuracy", "latency", "instructions", "memory", "cycles", "coverage", "agreement")


def read(path: Path) -> Manifest:
    """Reads and checks a manifest.

    Args:
        path: the manifest.json, or the folder that holds it.

    Raises:
        ArtifactError: there is none, it is not JSON, or a key is unknown, missing or out of range (which is named).
    """
    file = path
    try:
        if path.is_dir():
            file = path / FILE_NAME
        if file.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{file}: larger than {MAX_BYTES >> 20} MiB, so not a manifest of edgekit")
        text = file.read_bytes().decode("utf-8")
    except OSError as fault:
        raise ArtifactError(
            f"{file}: cannot be read ({fault.strerror}); expected a bundle that `edgekit build` wrote, such as "
            + (_bundle_in(path) or "dist/arm64")
        ) from None
    except UnicodeDecodeError as fault:
        raise ArtifactError(f"{file}: not UTF-8 at byte {fault.start}") from None
    try:
        value = json.loads(text, parse_constant=codec.refuse_constant, object_pairs_hook=codec.refuse_repeated)
        return Manifest.from_json(value)
    except ArtifactError as fault:
        raise ArtifactError(f"{file}: {fault}") from None
    except json.JSONDecodeError as fault:
        raise ArtifactError(f"{file}: not JSON: {fault.msg} at line {fault.lineno}") from None
    except (ValueError, RecursionError) as fault:
        raise ArtifactError(f"{file}: not JSON that can be read ({type(fault).__name__})") from None


def _bundle_in(folder: Path) -> str:
    """Returns a folder in this one that looks like a bundle: the user may have named the folder of all targets."""
    try:
        found = sorted(one.parent for one in folder.glob(f"*/{FILE_NAME}") if (one.parent / "golden.jsonl").is_file())
    except OSError:  # the folder is out of reach, which the caller says
        return ""
    return str(found[0]) if found else ""


def write(path: Path, manifest: Manifest) -> None:
    """Writes a manifest: checked as `read` would, sorted keys, indented by 2, all or nothing.

    Args:
        path: the manifest.json to write; its folder exists.
        manifest: what to write.

    Raises:
        ArtifactError: a value could not be read back: NaN, a path outside the bundle, a null without a reason.
        OutputError: the file cannot be written.
    """
    plain = Manifest.from_json(manifest.to_json()).to_json()
    text = json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)  # mkstemp's 0600 would keep a web server from the bundle
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as fault:
        raise OutputError(f"{path}: cannot be written ({fault.strerror})") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _check_whole(manifest: Manifest) -> None:
    """Checks what concerns several keys. Raises: ArtifactError."""
    if not isinstance(manifest.target.get("name"), str) or not manifest.target["name"]:
        raise ArtifactError("target.name: missing, expected the name of the target profile")
    absent = set(_absent(manifest))
    for name in manifest.unmeasured:
        if name not in FIGURES:
            raise ArtifactError(f"unmeasured.{name}: not a figure that can be null{suggestion(name, FIGURES)}")
        if name not in absent:
            raise ArtifactError(f"unmeasured.{name}: has a reason for not being measured, but is in the manifest")
    for name in FIGURES:
        if name in absent and name not in manifest.unmeasured:
            raise ArtifactError(f"{name}: null without a reason; expected unmeasured[{name!r}]")
    for name in SECTIONS:
        section = getattr(manifest, name)
        if section is not None and section.provenance is Provenance.ESTIMATED and not section.reason.strip():
            raise ArtifactError(f"{name}.reason: empty; an estimated figure says why it was not measured")
    if manifest.latency is not None and manifest.latency.histogram is not None:
        histogram = manifest.latency.histogram
        for counts in (histogram.artifact, histogram.teacher or histogram.artifact):
            if len(counts) != len(histogram.edges_ms) - 1:
                raise ArtifactError(
                    f"latency.histogram: {len(histogram.edges_ms)} edges need "
                    f"{len(histogram.edges_ms) - 1} counts, got {len(counts)}"
                )


def _absent(manifest: Manifest) -> Iterator[str]:
    for name in FIGURES:
        section, _, figure = name.partition(".")
        owner = getattr(manifest, section)
        if (owner is None) if not figure else (owner is not None and getattr(owner, figure) is None):
            yield name


def encode(value: object) -> Any:
    """Returns one of this module's dataclasses as plain JSON values."""
    return codec.encode(value)


def decode(kind: type[T], value: object) -> T:
    """Builds one of this module's dataclasses from parsed JSON. Raises: ArtifactError that names the key at fault."""
    decoded: T = codec.decode(kind, value, kind.__name__.lower())
    return decoded
