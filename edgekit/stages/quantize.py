"""Writes the int8 student: of the schemes that cannot saturate, the one whose logits are nearest the float student's.

Full-range int8 weights times uint8 activations overflow the 16-bit pair sums of x86 CPUs without VNNI, so such a file
answers differently from CPU to CPU. Seven-bit weights and unsigned weights both avoid it; which loses less depends on
the weights, so both are made and compared on dev. The comparison is of logits, not of time: it must be the same on
every machine that builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, Graph, LabelledData, QuantizedGraph, Ranges, Vocabulary, write_json
from edgekit.backends import Scheme, load_backend
from edgekit.errors import RecipeError
from edgekit.quant.ranges import read_ranges
from edgekit.stage import Context, Inputs, Pass
from edgekit.tokenization import encode, load_tokenizer

SCHEMES = (Scheme("int8-reduced-range", "int8", True), Scheme("uint8-weights", "uint8", False))


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantizes statically.

    Attributes:
        scheme: "auto" compares all schemes on dev; or the name of one.
        rows: dev rows that schemes are compared on.
    """

    scheme: str = "auto"
    rows: int = 500

    NAME: ClassVar[str] = "quantize"
    VERSION: ClassVar[int] = 2
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
        """Writes the chosen graph and what each scheme measured."""
        backend = load_backend(ctx.target["runtime.name"])
        vocabulary, dataset = inputs[Vocabulary], data.read(inputs[LabelledData].path)
        tokenizer = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
        rows = encode(tokenizer, [text for text, _ in dataset.dev[: self.rows]])
        pad_id, ranges = vocabulary.facts["pad_token_id"], read_ranges(inputs[Ranges].file)
        float_logits = backend.logits(inputs[Graph].model, rows, pad_id)
        dtype = ctx.target["quant"]["weight"]["dtype"]
        tried = [s for s in SCHEMES if self.scheme in ("auto", s.name) and dtype in ("auto", s.weight)]
        if not tried:
            raise RecipeError(f"quantize.scheme is {self.scheme!r}, but the target's weights are {dtype}")
        candidates = []
        for scheme in tried:
            path = out_dir / f"{scheme.name}.onnx"
            backend.quantize(inputs[Graph].model, ranges, ctx.target["quant"], scheme, path)
            logits = backend.logits(path, rows, pad_id)
            candidates.append(
                {
                    "name": scheme.name,
                    "logit_rmse": float(np.sqrt(np.mean((logits - float_logits) ** 2))),
                    "agreement": float(np.mean(logits.argmax(-1) == float_logits.argmax(-1)) * 100),
                    "bytes": path.stat().st_size,
                }
            )
            ctx.progress(len(candidates), len(tried), "schemes")
        best = min(candidates, key=lambda c: (c["logit_rmse"], c["name"]))
        (out_dir / f"{best['name']}.onnx").rename(QuantizedGraph(out_dir, "").model)
        for candidate in candidates:
            (out_dir / f"{candidate['name']}.onnx").unlink(missing_ok=True)
        described = backend.describe(QuantizedGraph(out_dir, "").model)
        facts = {
            "scheme": best["name"],
            "candidates": candidates,
            "dev_rows": len(rows),
            "bytes": best["bytes"],
            "nodes": described.nodes,
            "min_runtime": described.min_runtime,
        }
        write_json(out_dir / FACTS, facts)
