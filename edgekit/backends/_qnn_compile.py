"""Contexts for Qualcomm's HTP: one for each chip and input length, and what the compiler says that it took."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import TargetError, suggestion
from edgekit.quant.findings import Finding

PROGRAM = Path(__file__).parent / "_qnn_compiler.py"
LIMIT_S = 3600
TAIL_CHARS = 800
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Soc:
    """A chip, as the compiler is told of it: its number and the version of its HTP."""

    model: int
    htp: int


SOCS = {
    "SM8450": Soc(36, 69),
    "SM8475": Soc(42, 69),
    "SM8550": Soc(43, 73),
    "SM8650": Soc(57, 75),
    "SM8750": Soc(69, 79),
    "SM8850": Soc(87, 81),
}
"""Snapdragon 8 Gen 1 to 8 Elite Gen 5. The compiler (QNN 2.51) takes the names too, and says these numbers of them; it
is given numbers because it knows no versions by name."""


@dataclass(frozen=True)
class Context:
    """What the compiler made of a graph.

    Attributes:
        nodes: operators of the graph, without the conversions around them.
        left: those that it left to the CPU: type and name.
        reasons: of operators by their names, as the compiler logs them.
        floats: tensors that it computes in float all the same.
    """

    nodes: int
    left: tuple[tuple[str, str], ...]
    reasons: Mapping[str, str]
    floats: tuple[str, ...]

    @property
    def delegated(self) -> int:
        """How many operators the accelerator takes."""
        return max(self.nodes - len(self.left), 0)

    @property
    def fallback(self) -> tuple[str, ...]:
        """Names what is left, with the reason where there is one."""
        return tuple(
            f"{op} {name}: {self.reasons[name]}" if name in self.reasons else f"{op} {name}" for op, name in self.left
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a user should know of it."""
        if not self.floats:
            return ()
        more = f" and {len(self.floats) - 1} more" if len(self.floats) > 1 else ""
        return (
            Finding(
                "float-on-accelerator",
                self.floats[0] + more,
                "computed in 16-bit floats on HTP, though the graph has integers there",
                "slower, and not what a CPU answers by the same file",
                "a form of the operator's constants that HTP has integers for",
            ),
        )


def soc_of(name: str) -> Soc:
    """Returns a chip by its name.

    Raises:
        TargetError: it is not known.
    """
    if name not in SOCS:
        raise TargetError(f"'device.socs' names {name!r}{suggestion(name, SOCS)}")
    return SOCS[name]


def compile_context(graph: Path, length: int, soc: str, out: Path) -> Context:
    """Compiles a graph for one chip and input length.

    Args:
        graph: Q/DQ graph of any length.
        length: tokens of the input.
        soc: name of the chip.
        out: ONNX file to write, in a folder that has none of that name; the context lies beside it.

    Raises:
        TargetError: the chip is unknown, or the compiler refuses the graph, crashes or takes too long.
    """
    chip = soc_of(soc)
    with tempfile.TemporaryDirectory(prefix="edgekit-qnn-") as name:
        folder = Path(name)
        job = {
            "graph": str(graph.resolve()),
            "context": str(out.resolve()),
            "length": length,
            "options": {"soc_model": str(chip.model), "htp_arch": str(chip.htp)},
            "report": str(folder / "report.json"),
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        log = folder / "log.txt"
        status = _run([sys.executable, "-P", str(PROGRAM), str(folder / "job.json")], folder, log)
        said = log.read_text(encoding="utf-8", errors="replace")
        if status or not (folder / "report.json").exists():
            raise TargetError(f"{graph.name} cannot be compiled for {soc} at {length} tokens: {_why(status, said)}")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    operators, left = ([one for one in report[key] if one[0] not in CONVERSIONS] for key in ("nodes", "left"))
    # Conversions belong to what they surround; they count where nothing else is left that explains them.
    left = left or report["left"]
    return Context(
        len(operators),
        tuple((op, name) for op, name in left),
        reasons_in(said),
        tuple(name for name in floats_in(said) if name not in report["casts"]),
    )


REFUSAL = re.compile(
    r"(?:backendValidateOpConfig\(\) failed for node `[^`]*` (of type `\w+` with error code \d+)[^\n]*\n[^\n]*\n)?"
    r"[^\n]*Validation FAILED[^\n]*\n((?:\tOperator type: [^\n]*\n)+)\tREASON : ([^\n]*)"
)
"""What the provider logs, verbose: where HTP's own check fails, its code; then a line for each node of the operator's
Q/DQ group, and the reason. Names in the first line may have a number appended."""


def reasons_in(log: str) -> dict[str, str]:
    """Returns why the compiler refuses operators, by their names."""
    found: dict[str, str] = {}
    for code, group, reason in REFUSAL.findall(log):
        # Two sentences run into each other; the second says that the node is not assigned, which is known.
        said = re.sub(r"\.(?=\S)\w+ node `[^`]*` will not be assigned to QNN EP\.?$", "", reason).strip()
        for name in re.findall(r"Node name: (\S+) Node index", group):
            found[name] = f"HTP's own check failed, {code}" if code else said
    return found


def floats_in(log: str) -> list[str]:
    """Names the tensors inside of contexts that are float, in order: neither inputs nor outputs of the graph."""
    native = r" name=(\S+) id=\d+ [^\n]*type=QNN_TENSOR_TYPE_NATIVE [^\n]*dataType=QNN_DATATYPE_FLOAT_"
    return list(dict.fromkeys(re.findall(native, log)))


def _run(command: Sequence[str], folder: Path, log: Path) -> int:
    """Runs the program with its output in a file; returns its exit status, 124 where it was ended for taking long."""
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124
    return done.returncode


def _why(status: int, log: str) -> str:
    """Says why there is no context, from what the compiler and Python left in the log."""
    if status == 124:
        return f"the compiler took more than {LIMIT_S} s"
    refused = [f"{name}: {reason}" for name, reason in reasons_in(log).items()]
    if status > 0:
        errors = re.findall(
            r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Fail|Invalid\w*|NotImplemented): .*)$", log, re.MULTILINE
        )
        said = errors[-1] if errors else log.strip()[-TAIL_CHARS:]
        return "; ".join([f"the compiler refuses it: {said}"[:TAIL_CHARS], *refused])
    how = f"was ended by signal {-status}" if status < 0 else "left no report"
    lines = [line for line in log.splitlines() if re.search(r"\[[EF]:onnxruntime|error", line, re.IGNORECASE)]
    return "; ".join([f"the compiler {how}", *lines[-2:], *refused])
