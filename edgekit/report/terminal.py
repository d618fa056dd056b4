"""Manifests as tables for a terminal. Each function returns something that `rich.console.Console.print` draws.

Every text from outside goes through `Text` and `clean`, never through rich's markup: a label may be `[red]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgekit.manifest import Gate, Manifest, Verdict
from edgekit.measured import Coverage, Instructions, Latency, Memory
from edgekit.report import figures
from edgekit.report.figures import LEGEND, MARKS, PROXY, clean

if TYPE_CHECKING:
    from edgekit.measure import Evaluation
    from edgekit.quant.findings import Finding
    from edgekit.quant.range_file import RangeFile
    from edgekit.range_files import Difference

STEPS = 255
_COLOURS = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INVALID: "bold magenta",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.NOT_MEASURED: "bold yellow",
}


def summary(judged: Sequence[tuple[str, Manifest, Gate]], width: int = 120) -> RenderableType:
    """Returns the end of a build or of a gate: one row a target, then every check that is not a pass.

    Args:
        judged: target, manifest and gate of each, as `verdict.judge_dist` returns them.
        width: of the terminal; under 110 columns each target is a block of lines instead of a row.
    """
    rows = [(target, gate, _summary_cells(manifest)) for target, manifest, gate in judged]
    parts: list[RenderableType] = [_summary_table(rows) if width >= 110 else _summary_blocks(rows)]
    parts.append(Text(LEGEND, style="dim"))
    if any(manifest.instructions is not None for _, manifest, _ in judged):
        parts.append(Text(PROXY, style="dim"))
    for target, _, gate in judged:
        for check in gate.checks:
            if check.verdict is not Verdict.PASS:
                parts.append(
                    _verdict(check.verdict).append(
                        f"  {clean(target)}, {clean(check.name)}: {clean(check.reason)}", style="not bold default"
                    )
                )
    return Group(*parts)


def _summary_table(rows: Iterable[tuple[str, Gate, dict[str, Text]]]) -> Table:
    table = _table("Target", "Verdict", whole=(0, 1))
    for target, gate, cells in rows:
        if len(table.columns) == 2:
            for name in cells:
                table.add_column(name, justify="right", no_wrap=True)
        table.add_row(Text(clean(target), style="bold"), _verdict(gate.verdict), *cells.values())
    return table


def _summary_blocks(rows: Iterable[tuple[str, Gate, dict[str, Text]]]) -> Group:
    blocks: list[RenderableType] = []
    for target, gate, cells in rows:
        blocks.append(Text(clean(target), style="bold").append("  ").append_text(_verdict(gate.verdict)))
        block = Table.grid(padding=(0, 2))
        for name, cell in cells.items():
            block.add_row(Text(f"  {name}", style="dim"), cell)
        blocks.append(block)
    return Group(*blocks)


def _summary_cells(manifest: Manifest) -> dict[str, Text]:
    acc, lat, ins = manifest.accuracy, manifest.latency, manifest.instructions
    absent = Text("not measured", style="dim")
    if lat is not None:
        speed = figures.milliseconds(lat.p50_ms)
        speed += f", {figures.ratio(lat.speedup)}" if lat.speedup is not None else ""
        cost = Text(f"{speed} {MARKS[lat.provenance]}")
    elif ins is not None:
        fewer = ""
        if ins.teacher_per_inference is not None:
            fewer = f", {figures.ratio(ins.teacher_per_inference / ins.per_inference)}"
        cost = Text(f"{figures.amount(ins.per_inference)} instr.{fewer} {MARKS[ins.provenance]}")
    else:
        cost = absent
    mark = "" if acc is None else MARKS[acc.provenance]
    floats = "" if acc is None else MARKS[acc.float_provenance]
    student = absent if acc is None or acc.student_fp32 is None else Text(f"{acc.student_fp32:.2f} {floats}")
    return {
        "Teacher %": absent if acc is None else Text(f"{acc.teacher:.2f} {floats}"),
        "Student %": student,
        "Artifact %": absent if acc is None else Text(f"{acc.artifact:.2f} {mark}"),
        "Drop in points (95 %)": absent
        if acc is None
        else Text(f"{figures.points(acc.drop).removesuffix(' points')} ({figures.interval(*acc.ci95)})"),
        "Inference, × teacher": cost,
        "File": Text(figures.size(manifest.model.device_bytes)),
    }


def checks(gate: Gate) -> Table:
    """Returns every check of a gate with value and its provenance, limit, verdict and reason."""
    table = _table("Check", "Value", "Limit", "Verdict", "Why", right=(1, 2), whole=(1, 2, 3))
    for check in gate.checks:
        mark = f" {MARKS[check.provenance]}" if check.provenance else "  "
        table.add_row(
            Text(clean(check.name)),
            figures.with_unit(check.value, check.unit) + mark,
            figures.with_unit(check.limit, check.unit),
            _verdict(check.verdict),
            Text(clean(check.reason)),
        )
    return table


def explanation(manifest: Manifest) -> RenderableType:
    """Returns what each stage did: seconds, cached or built and why, weights left, facts; then the gate."""
    table = _table("Stage", "", "Time", "Weights", "Why, and what came of it", right=(2, 3), whole=(0, 1, 2, 3))
    for step in manifest.lineage:
        state = Text("cached", style="dim") if step.cached else Text("built", style="green")
        facts = "; ".join(f"{figures.label(name)} {figures.named(name, value)}" for name, value in step.facts.items())
        why = Text(clean(step.reason))
        if facts:
            why.append(f"\n{facts}", style="dim")
        table.add_row(
            Text(clean(step.stage), style="bold"),
            state,
            figures.duration(step.seconds),
            "" if step.bytes is None else figures.size(step.bytes),
            why,
        )
    head = Text.assemble(
        (clean(manifest.target_name), "bold"),
        f"  {clean(manifest.task)}, from {clean(manifest.teacher.name)}, ",
        f"built {manifest.created} by edgekit {clean(manifest.edgekit)}",
    )
    total = sum(step.seconds for step in manifest.lineage)
    spent = sum(step.seconds for step in manifest.lineage if not step.cached)
    foot = Text(f"{figures.duration(total)} of work, {figures.duration(spent)} of it in this build", style="dim")
    gate = Text("Gate: ").append_text(_verdict(manifest.gate.verdict))
    reasons = [
        Text(f"{name}: not measured: {clean(why)}", style="yellow") for name, why in sorted(manifest.unmeasured.items())
    ]
    chosen: list[RenderableType] = []
    if manifest.candidates:
        chosen = [Text(), Text("Candidates", style="bold"), candidates(manifest), reasons_of(manifest)]
    gate_part: list[RenderableType] = [Text(), gate, checks(manifest.gate), Text(LEGEND, style="dim"), *reasons]
    return Group(head, table, foot, *chosen, *gate_part)


def candidates(manifest: Manifest) -> Table:
    """Returns the integer forms that were tried, with what they measured."""
    names = list(dict.fromkeys(name for one in manifest.candidates for name in one.figures))
    names = [name for name in names if any(one.figures.get(name) is not None for one in manifest.candidates)]
    places = tuple(range(1, len(names) + 1))
    table = _table("", *(figures.label(name) for name in names), right=places, whole=places)
    for one in manifest.candidates:
        cells = [one.figures.get(name) for name in names]
        table.add_row(
            Text(clean(one.name), style="bold green" if one.chosen else ""),
            *(
                "–"
                if cell is None
                else f"{figures.named(name, cell)} {MARKS[one.provenance[name]] if name in one.provenance else ' '}"
                for name, cell in zip(names, cells, strict=True)
            ),
        )
    return table


def reasons_of(manifest: Manifest) -> RenderableType:
    """Returns why each of the integer forms is shipped or not: below their table, where a narrow terminal has room."""
    grid = Table.grid(padding=(0, 2))
    for one in manifest.candidates:
        style = "bold green" if one.chosen else "dim"
        grid.add_row(Text(clean(one.name), style=style), Text(("shipped: " if one.chosen else "") + clean(one.reason)))
    return grid


def targets(profiles: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Returns one row a target profile, and below what is missing on this machine.

    Args:
        profiles: each as `Target.as_dict()` returns it, with its `edgekit.outlook.Outlook` as a dictionary in `here`.
    """
    table = _table("Target", "What", "Runtime", "Weights × activations", "Here, on", whole=(0, 4))
    for profile in profiles:
        quant, runtime = profile["quant"], profile["runtime"]
        table.add_row(
            Text(clean(str(profile["name"])), style="bold"),
            Text(clean(str(profile["summary"]))),
            Text(clean(f"{runtime['name']} {runtime['version']}")),
            Text(clean(f"{quant['weight']['dtype']} × {quant['activation']['dtype']}")),
            Text(_taken_here(profile["here"])),
        )
    lines: list[RenderableType] = [table, Text(LEGEND)]
    for profile in profiles:
        lines += [Text(clean(f"{profile['name']} lacks: {lack}")) for lack in profile["here"]["lacks"]]
    return Group(*lines)


def _taken_here(here: Mapping[str, Any]) -> str:
    """Says what is taken of a target, how and where."""
    kinds = {name: here[name] for name in ("accuracy", "latency", "instructions", "cycles") if here[name] is not None}
    marked = [f"{MARKS[kind]} {name}" for name, kind in kinds.items()]
    return "\n".join([clean(here["device"]) or "nothing", *marked])


def target(profile: Mapping[str, Any]) -> RenderableType:
    """Returns one target profile with all its keys; `profile` as `Target.as_dict()` returns it."""
    grid = Table.grid(padding=(0, 2))
    for name, value in _flat(profile):
        grid.add_row(Text(clean(name), style="dim"), Text(figures.named(name, value)))
    return grid


def findings(found: Sequence[Finding]) -> RenderableType:
    """Returns the findings of `edgekit lint`."""
    if not found:
        return Text("nothing found")
    blocks: list[RenderableType] = []
    for finding in found:
        blocks.append(Text(f"{clean(finding.check)}  ", style="bold yellow").append(clean(finding.place), style="bold"))
        grid = Table.grid(padding=(0, 2))
        for name in ("detail", "cost", "cure"):
            grid.add_row(Text(f"  {name}", style="dim"), Text(clean(getattr(finding, name))))
        blocks.append(grid)
    return Group(*blocks)


def ranges(found: RangeFile) -> RenderableType:
    """Returns a file of ranges: what each tensor's is and which product reads it; then what calibration noticed."""
    readers = {tensor: product for product, tensor in found.products.items()}
    table = _table("Tensor", "Read by", "Low", "High", "Step", "Method", right=(2, 3, 4), whole=(2, 3, 4, 5))
    for name, one in found.ranges.items():
        ends = [f"{value:.4g}" for value in (one.low, one.high, (one.high - one.low) / STEPS)]
        table.add_row(Text(clean(name)), Text(clean(readers.get(name, ""))), *ends, Text(clean(one.method)))
    others = [clean(method) for method in found.methods if method != next(iter(found.methods))]
    head = Text(
        f"{clean(found.target)}: {len(found.ranges)} tensors, policy {clean(found.policy)}, {found.rows:,} rows"
        + (f"; a build chooses between these and those by {', '.join(others)}" if others else "")
    )
    return Group(head, table, *([findings(found.findings)] if found.findings else []))


def range_differences(found: Sequence[Difference]) -> RenderableType:
    """Returns the tensors whose ranges differ, with both, and how far the end that moved most did."""
    if not found:
        return Text("no range differs by more than a hundredth")
    table = _table("Tensor", "Method", "Before", "After", "Moved by", right=(2, 3, 4), whole=(1, 2, 3, 4))
    for one in found:
        before, after = ("–" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}" for ends in (one.before, one.after))
        table.add_row(
            Text(clean(one.tensor)),
            Text(clean(one.method)),
            before,
            after,
            "–" if one.change is None else f"{100 * one.change:.1f} %",
        )
    return table


def evaluation(result: Evaluation) -> RenderableType:
    """Returns the result of `edgekit eval`."""
    rows = {figures.label(name): figures.percent(score) for name, score in result.scores.items()}
    rows["rows"] = figures.exact(result.examples)
    if result.examples < result.rows:
        rows["rows"] += f" of {figures.exact(result.rows)}"
    if result.cut:
        rows["rows at the longest input"] = f"{figures.exact(result.cut)}, cut where they were longer"
    rows["taken"] = _taken(result)
    return _record(clean(result.metric), rows)


def benchmark(
    latency: Latency | None,
    instructions: Instructions | None,
    memory: Memory | None,
    coverage: Coverage | None,
    unmeasured: Mapping[str, str],
) -> RenderableType:
    """Returns the result of `edgekit bench`: each figure with its provenance, or why it was not taken."""
    parts = []
    if latency is not None:
        rows = {
            "p50": figures.milliseconds(latency.p50_ms),
            "p90": figures.milliseconds(latency.p90_ms),
            "p95": figures.milliseconds(latency.p95_ms),
            "p99": figures.milliseconds(latency.p99_ms),
        }
        for name, value in (
            ("cold first inference", latency.cold_ms),
            ("teacher p50", latency.teacher_p50_ms),
            ("teacher, cold", latency.teacher_cold_ms),
        ):
            if value is not None:
                rows[name] = figures.milliseconds(value)
        if latency.speedup is not None:
            rows["speedup"] = figures.ratio(latency.speedup)
            if latency.speedup_low is not None and latency.speedup_high is not None:
                rows["speedup"] += (
                    f" ({figures.ratio(latency.speedup_low)} to {figures.ratio(latency.speedup_high)} "
                    f"over {latency.rounds} rounds)"
                )
        rows["runs"] = (
            f"{latency.runs:,}, {latency.threads} thread{'s' * (latency.threads != 1)}, batch "
            f"{latency.batch}, sequence length {latency.sequence_length}"
        )
        parts.append(_record("latency", {**rows, "taken": _taken(latency)}))
    if instructions is not None:
        rows = {"an inference": f"{figures.amount(instructions.per_inference)} instructions"}
        if instructions.teacher_per_inference is not None:
            times = figures.ratio(instructions.teacher_per_inference / instructions.per_inference)
            rows["teacher"] = f"{figures.amount(instructions.teacher_per_inference)}, {times} as many"
        parts.append(_record("instructions", {**rows, "taken": _taken(instructions), "note": PROXY}))
    if memory is not None:
        parts.append(_record("memory", {"peak resident": figures.size(memory.peak_rss_bytes), "taken": _taken(memory)}))
    if coverage is not None:
        rows = {
            "delegated": f"{coverage.delegated} of {coverage.nodes} nodes to {clean(coverage.delegate)}",
            "left to the CPU": clean(", ".join(coverage.fallback)) or "none",
            "taken": str(coverage.provenance),
        }
        parts.append(_record("coverage", rows))
    reasons = [
        Text(f"{name}: not measured: {clean(why)}", style="yellow")
        for name, why in sorted(unmeasured.items())
        if not name.startswith("accuracy")
    ]
    return Group(*parts, *reasons)


def _record(title: str, rows: Mapping[str, str]) -> Group:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        grid.add_row(Text(f"  {name}", style="dim"), Text(value))
    return Group(Text(title, style="bold"), grid)


def _taken(section: Evaluation | Latency | Instructions | Memory) -> str:
    reason = f": {clean(section.reason)}" if section.reason else ""
    return f"{section.provenance} on {clean(section.device)}{reason}"


def _table(*columns: str, right: tuple[int, ...] = (), whole: tuple[int, ...] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in right else "left", overflow="fold", no_wrap=place in whole)
    return table


def _verdict(verdict: Verdict) -> Text:
    return Text(str(verdict), style=_COLOURS[verdict])


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item
