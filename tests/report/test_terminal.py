"""The terminal's tables: the figures are there, at any width, and hostile text does not reach the terminal."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from manifests import NO_ACCELERATOR, accuracy, candidates, example, example_arm64, latency
from rich.console import Console, RenderableType

from edgekit.manifest import SECTIONS, Limits
from edgekit.measure import Evaluation
from edgekit.measured import Coverage
from edgekit.provenance import Provenance
from edgekit.report import terminal
from edgekit.verdict import rejudge


def drawn(what: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(what)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    return text


def test_summary_has_a_line_a_target() -> None:
    strict = example_arm64(limits=Limits(max_drop=1.0, confidence=0.95, max_latency_ms=5))
    text = drawn(terminal.summary([(item.target_name, item, rejudge(item)) for item in (example(), strict)]))
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip()}
    assert rows["x86-64"] == "x86-64 pass 92.89 ○ 92.24 ○ 92.11 ● 0.78 (0.33 to 1.28) 0.777 ms, 7.26× ● 4.81 MB"
    assert rows["arm64"] == (
        "arm64 inconclusive 92.80 ○ 92.33 ○ 92.20 ◐ 0.60 (−0.70 to 2.07) 18.4 M instr., 6.59× ◐ 4.81 MB"
    )
    assert "about 6,942 rows would settle it, 500 were used" in " ".join(text.split())
    assert "not-measured  arm64, latency p95: qemu's time is not a device's time" in text
    assert "● measured  ◐ simulated  ○ estimated" in text
    assert "a proxy for time" in text


def test_summary_without_figures_and_on_a_narrow_terminal() -> None:
    nothing = example(
        "npu",
        accuracy=None,
        latency=None,
        memory=None,
        unmeasured=dict.fromkeys(SECTIONS, "no board"),
    )
    judged = [(item.target_name, item, rejudge(item)) for item in (nothing, example())]
    assert "not measured" in drawn(terminal.summary(judged))
    narrow = drawn(terminal.summary(judged, width=60), 60)
    assert "0.78 (0.33 to 1.28)" in narrow
    assert "0.777 ms, 7.26× ●" in narrow


@pytest.mark.parametrize("width", [80, 120])
def test_explanation_says_what_each_stage_did(width: int) -> None:
    text = drawn(terminal.explanation(example_arm64()), width)
    for part in (
        "trim",
        "cached",
        "7 min 02 s",
        "15.3 MB",
        "option sparsity changed",
        "heads 8, 6, 6",
        "accuracy drop",
        "latency: not measured: qemu's time is not a device's time",
        "11 min 44 s of work, 4 min 39 s of it",
    ):
        assert part in text, part


def evaluation(device: str) -> Evaluation:
    """Returns the result of an `edgekit eval` on that device."""
    scores = {"accuracy": 92.89, "macro_f1": 91.5}
    return Evaluation("accuracy", 92.89, scores, 500, 3080, 7, device, Provenance.ESTIMATED, "host's kernels")


def test_evaluation_and_benchmark_carry_their_provenance() -> None:
    text = drawn(terminal.evaluation(evaluation("local")))
    for part in ("92.89 %", "macro f1", "91.50 %", "500 of 3,080", "estimated on local: host's kernels", "7, cut"):
        assert part in text, part
    arm = example_arm64()
    covered = Coverage("HTP", 100, 96, ("Erf",), Provenance.SIMULATED, "")
    text = drawn(terminal.benchmark(latency(), arm.instructions, example().memory, covered, {"memory": "why"}))
    for part in (
        "p95",
        "1.33 ms",
        "7.26× (7.01× to 7.86× over 10 rounds)",
        "121 M, 6.59× as many",
        "61.3 MB",
        "96 of 100 nodes to HTP",
        "simulated on qemu: cortex-a76",
        "memory: not measured: why",
    ):
        assert part in text, part
    assert "latency: not measured: none" in drawn(terminal.benchmark(None, None, None, None, {"latency": "none"}))


def here(device: str, *lacks: str) -> dict[str, Any]:
    """Returns what can be taken of a target: accuracy by simulation, and times, where there is a device."""
    kinds = {"accuracy": Provenance.SIMULATED, "latency": Provenance.MEASURED} if device else {}
    names = ("accuracy", "latency", "instructions", "cycles")
    return {"here": dict.fromkeys(names) | kinds | {"device": device, "lacks": lacks}}


def test_targets() -> None:
    profile = example().target
    bare = profile | {"name": "bare"} | here("", "a package is not installed")
    text = drawn(terminal.targets([profile | here("a-device"), bare]), 160)
    for part in (
        "x86-64",
        "onnxruntime 1.18",
        "int8 × uint8",
        "a-device",
        "◐ accuracy",
        "● latency",
        "bare",
        "nothing",
    ):
        assert part in " ".join(text.split()), part
    assert "bare lacks: a package is not installed" in text
    assert "instructions" not in text
    text = drawn(terminal.target(profile))
    assert "quant.weight.granularity" in text
    assert "per-channel" in text


def test_hostile_text_does_not_reach_the_terminal() -> None:
    bad = "[red]x[/red]\x1b[2J\x07\u202e[link=file:///etc]y"
    item = example(
        bad,
        task=bad,
        unmeasured=dict.fromkeys(("instructions", *NO_ACCELERATOR), bad),
        accuracy=accuracy(device=bad),
    )
    item = dataclasses.replace(
        item,
        lineage=tuple(
            dataclasses.replace(step, stage=bad, reason=bad, facts={bad: [bad, {bad: None}]}) for step in item.lineage
        ),
        candidates=tuple(dataclasses.replace(one, name=bad, reason=f"{bad} [/b]") for one in candidates()),
    )
    views = [
        terminal.summary([(bad, item, rejudge(item))]),
        terminal.explanation(item),
        terminal.targets([item.target | here(bad, bad)]),
        terminal.target(item.target),
        terminal.benchmark(None, None, None, None, item.unmeasured),
        terminal.evaluation(evaluation(bad)),
    ]
    for view in views:
        text = drawn(view)
        assert "[red]x" in text.replace("\n", "")
        assert not set(text) & {"\x1b", "\x07", "\u202e"}
