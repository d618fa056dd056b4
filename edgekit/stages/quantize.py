"""Writes the int8 student: of the schemes and range methods, those whose logits are nearest the float student's.

Full-range int8 weights times uint8 activations overflow the 16-bit pair sums of x86 CPUs without VNNI, so such a file
answers differently from CPU to CPU. Bounded weights and unsigned weights both avoid it; which loses less depends on
the weights, so all are made and compared on dev, and then range methods with the best of them. The comparison is of
logits, not of time: it must be the same on every machine that builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, Graph, LabelledData, QuantizedGraph, Ranges, Vocabulary, write_json
from edgekit.backends import Backend, Scheme, load_backend
from edgekit.calibration import AUTO
from edgekit.errors import RecipeError
from edgekit.quant.ranges import ranges_of, read_observed
from edgekit.stage import Context, Inputs, Pass
from edgekit.tokenization import encode, load_tokenizer

SCHEMES = (
    Scheme("int8-pair-bounded", "int8", "pairs"),
    Scheme("int8-reduced-range", "int8", "seven-bit"),
    Scheme("uint8-weights", "uint8", None),
)
METHODS = ("minmax", "mse", "percentile-99.999", "percentile-99.99")
"""Range methods that "auto" tries. Entropy is not among them: it clips what is rare and large (docs/log.md)."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantizes statically.

    Attributes:
        scheme: "auto" compares all schemes on dev; or the name of one.
        rows: dev rows that schemes and methods are compared on.
    """

    scheme: str = "auto"
    rows: int = 500

    NAME: ClassVar[str] = "quantize"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Graph, Ranges, Vocabulary, LabelledData)
    OUT: ClassVar = QuantizedGraph
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "quant")
    TOOLS: ClassVar[tuple[str, ...]] = ("tokenizers", "numpy")

    def __post_init__(self) -> None:
        known = ("auto", *(s.name for s in SCHEMES))
        if self.scheme not in known:
            raise ValueError(f"scheme is {self.scheme!r}; known: {', '.join(known)}")
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes the chosen graph and what each scheme and method measured."""
        backend = load_backend(ctx.target["runtime.name"])
        vocabulary, dataset = inputs[Vocabulary], data.read(inputs[LabelledData].path)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        rows = encode(tokenizer, [text for text, _ in dataset.dev[: self.rows]])
        dtype, method = ctx.target["quant"]["weight"]["dtype"], inputs[Ranges].facts["method"]
        schemes = [s for s in SCHEMES if self.scheme in ("auto", s.name) and dtype in ("auto", s.weight)]
        if not schemes:
            raise RecipeError(f"quantize.scheme is {self.scheme!r}, but the target's weights are {dtype}")
        methods = METHODS if method == AUTO else (method,)
        trials = _Trials(backend, inputs, ctx, rows, out_dir, len(schemes) + len(methods) - 1)
        for scheme in schemes:
            trials.run(scheme, methods[0])
        scheme = next(s for s in schemes if s.name == trials.best()["scheme"])
        for name in methods[1:]:
            trials.run(scheme, name)
        candidates, best = trials.candidates, trials.best()
        (out_dir / f"{best['name']}.onnx").rename(QuantizedGraph(out_dir, "").model)
        for candidate in candidates:
            (out_dir / f"{candidate['name']}.onnx").unlink(missing_ok=True)
        described = backend.describe(QuantizedGraph(out_dir, "").model)
        facts = {
            "scheme": best["scheme"],
            "method": best["method"],
            "candidates": candidates,
            "dev_rows": len(rows),
            "bytes": best["bytes"],
            "nodes": described.nodes,
            "min_runtime": described.min_runtime,
        }
        write_json(out_dir / FACTS, facts)


class _Trials:
    """Makes candidates and compares their logits with the float graph's."""

    def __init__(
        self, backend: Backend, inputs: Inputs, ctx: Context, rows: list[np.ndarray], folder: Path, total: int
    ) -> None:
        self.backend, self.ctx, self.rows, self.folder, self.total = backend, ctx, rows, folder, total
        self.graph, self.pad_id = inputs[Graph].model, inputs[Vocabulary].facts["pad_token_id"]
        self.observed = read_observed(inputs[Ranges].statistics)
        self.expected = backend.logits(self.graph, rows, self.pad_id)
        self.candidates: list[dict[str, Any]] = []

    def run(self, scheme: Scheme, method: str) -> None:
        """Writes one candidate, `<name>.onnx`, and keeps what it measured."""
        name = f"{scheme.name}, {method}"
        path = self.folder / f"{name}.onnx"
        self.backend.quantize(self.graph, ranges_of(self.observed, method), self.ctx.target["quant"], scheme, path)
        logits = self.backend.logits(path, self.rows, self.pad_id)
        measured = {
            "name": name,
            "scheme": scheme.name,
            "method": method,
            "logit_rmse": float(np.sqrt(np.mean((logits - self.expected) ** 2))),
            "agreement": float(np.mean(logits.argmax(-1) == self.expected.argmax(-1)) * 100),
            "bytes": path.stat().st_size,
        }
        self.candidates.append(measured)
        self.ctx.progress(len(self.candidates), self.total, "candidates")

    def best(self) -> dict[str, Any]:
        """Returns the candidate of least error; of equals the first by name."""
        return min(self.candidates, key=lambda candidate: (candidate["logit_rmse"], candidate["name"]))
