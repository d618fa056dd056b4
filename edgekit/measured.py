"""What is measured of an artifact: the sections of a manifest that hold figures, each with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from edgekit.codec import InsideBundle, Matches, Within
from edgekit.provenance import Provenance

Text = Annotated[str, Matches(r"[^\x00]+", "a string that is not empty")]
Sha256 = Annotated[str, Matches(r"[0-9a-f]{64}", "a sha256 in 64 lower-case hexadecimal digits")]
Utc = Annotated[str, Matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a UTC time such as 2026-01-31T12:00:00Z")]
BundlePath = Annotated[str, InsideBundle()]
Count = Annotated[int, Within(0)]
Positive = Annotated[int, Within(1)]
Amount = Annotated[float, Within(0)]
Percent = Annotated[float, Within(0, 100)]
Score = Annotated[float, Within(-100, 100)]  # a metric in percent; a correlation may be negative
Confidence = Annotated[float, Within(0.51, 0.9999)]  # one-sided
Points = Annotated[float, Within(-200, 200)]  # the difference of two scores


@dataclass(frozen=True)
class Bounds:
    """The one-sided bounds of the drop, each at `confidence`; for metrics whose rows are not in the manifest."""

    confidence: Confidence
    lower: Points
    upper: Points


@dataclass(frozen=True)
class Accuracy:
    """Teacher and artifact on the same rows. `lost`: only the teacher is right; `gained`: only the artifact is.

    `flips` is the rate of both together, `churn` that of changed answers, `floor` the score of the best constant
    answer. `lost` and `gained` are null for a metric that does not count rows; `bounds` then carries the gate's. The
    teacher and the float student do not run on the target: `float_provenance` and `float_reason` are of their answers.
    """

    metric: Text
    teacher: Score
    student_fp32: Score | None
    artifact: Score
    drop: Points
    ci95: tuple[Points, Points]
    method: Literal["tango", "bootstrap"]
    examples: Positive
    lost: Count | None
    gained: Count | None
    bounds: Bounds | None
    flips: Percent | None
    churn: Percent | None
    floor: Score | None
    device: Text
    provenance: Provenance
    reason: str
    float_provenance: Provenance
    float_reason: str


@dataclass(frozen=True)
class Histogram:
    """Times of one inference: n + 1 edges in ms, n counts of the artifact and n of the teacher (or null)."""

    edges_ms: tuple[Amount, ...]
    artifact: tuple[Count, ...]
    teacher: tuple[Count, ...] | None


@dataclass(frozen=True)
class Latency:
    """Times of the artifact and, in the same run, of the fp32 teacher; `speedup_low` to `_high` over the rounds."""

    device: Text
    provenance: Provenance
    reason: str
    threads: Positive
    batch: Positive
    sequence_length: Positive | Literal["dynamic"]
    runs: Positive
    rounds: Positive
    p50_ms: Amount
    p90_ms: Amount
    p95_ms: Amount
    p99_ms: Amount
    cold_ms: Amount | None
    teacher_p50_ms: Amount | None
    teacher_cold_ms: Amount | None
    speedup: Amount | None
    speedup_low: Amount | None
    speedup_high: Amount | None
    histogram: Histogram | None


@dataclass(frozen=True)
class Instructions:
    """Executed instructions of one inference: exact within one runtime and precision, a proxy across them."""

    per_inference: Positive
    teacher_per_inference: Positive | None
    device: Text
    provenance: Provenance
    reason: str


@dataclass(frozen=True)
class Cycles:
    """What an accelerator's compiler estimates of one inference: of its longest input, by the clock that it assumes."""

    per_inference: Positive
    clock_hz: Positive
    sram_bytes: Count
    dram_bytes: Count
    device: Text
    provenance: Provenance
    reason: str

    @property
    def ms(self) -> float:
        """The time that those cycles take."""
        return 1000 * self.per_inference / self.clock_hz


@dataclass(frozen=True)
class Agreement:
    """How often the program answers on its device as this machine's processor does by the same file."""

    percent: Percent
    rows: Positive
    device: Text
    provenance: Provenance
    reason: str


@dataclass(frozen=True)
class Memory:
    """The peak resident set of the process that ran the artifact."""

    peak_rss_bytes: Positive
    device: Text
    provenance: Provenance
    reason: str


@dataclass(frozen=True)
class Coverage:
    """How much of the graph the delegate takes; `fallback` names the operators it leaves to the CPU."""

    delegate: Text
    nodes: Count
    delegated: Count
    fallback: tuple[str, ...]
    provenance: Provenance
    reason: str

    @property
    def percent(self) -> float:
        """The share of the nodes that are delegated."""
        return 100 * self.delegated / self.nodes if self.nodes else 0.0


@dataclass(frozen=True)
class Candidate:
    """A way to build that was measured: its figures with the provenance of each, and why it was chosen or not."""

    name: Text
    chosen: bool
    figures: Mapping[str, float | str | None]
    provenance: Mapping[str, Provenance]
    reason: str
