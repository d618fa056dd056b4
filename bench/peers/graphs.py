"""ONNX graphs in the peers' venvs: export by transformers' own code, and the choice of a file on dev.

Needs torch, transformers, onnx and onnxruntime only where a function is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peer import Split, feed

OPSET = 18
ALLOWED = 0.5
"""Points on dev that a faster file may lose against the most accurate: half of the drop that the table asks about."""

TIMED_ROWS = 60
TIMED_ROUNDS = 5


@dataclass(frozen=True)
class Score:
    """How one file does on dev.

    Attributes:
        accuracy: percent of the rows.
        p50_ms: median time of an inference, unpadded, one thread.
    """

    accuracy: float
    p50_ms: float


def export(model: Any, longest: int, out: Path) -> None:
    """Writes a sequence classifier of transformers with batch and length dynamic and the mask as an input.

    Args:
        model: in evaluation mode.
        longest: number of tokens that its position table reaches to.
        out: file to write, weights inside.
    """
    import onnx
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    batch, sequence = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("sequence", min=2, max=longest)
    row = torch.ones(2, 7, dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    program = torch.onnx.export(
        Logits().eval(),
        (row, torch.ones_like(row)),  # two tensors: given one twice, the exporter takes both inputs for the same
        input_names=names,
        output_names=["logits"],
        dynamic_shapes={name: {0: batch, 1: sequence} for name in names},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    graph = program.model_proto
    del graph.graph.value_info[:]  # contradicts onnxruntime's own inference, and its quantizer then refuses the graph
    onnx.save(graph, out)


def positions(config: Any) -> int:
    """Returns the longest input of a checkpoint; RoBERTa's kind starts counting behind the padding id."""
    offset = 2 if config.model_type in {"roberta", "xlm-roberta", "mpnet"} else 0
    return int(config.max_position_embeddings) - offset


def load(path: Path) -> Any:
    """Loads a graph for one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def score(path: Path, dev: Split) -> Score:
    """Runs a file over dev, row by row at their real lengths."""
    session = load(path)
    names = [node.name for node in session.get_inputs()]
    feeds = [feed(names, row) for row in dev.ids]
    answers = np.array([session.run(None, one)[0][0].argmax() for one in feeds])
    taken = []
    for _ in range(TIMED_ROUNDS):
        for one in feeds[:TIMED_ROWS]:
            start = time.perf_counter()
            session.run(None, one)
            taken.append((time.perf_counter() - start) * 1e3)
    return Score(float(np.mean(answers == dev.expected) * 100), float(np.median(taken)))


def best(scores: Mapping[str, Score]) -> str:
    """Returns the name of the fastest of those that are nearly as accurate as the most accurate one."""
    enough = max(score.accuracy for score in scores.values()) - ALLOWED
    within = {name: score for name, score in scores.items() if score.accuracy >= enough}
    return min(within, key=lambda name: (within[name].p50_ms, -within[name].accuracy))


def choose(ways: Mapping[str, Callable[[Path], None]], dev: Split, out: Path) -> tuple[str, dict[str, Any]]:
    """Makes a file in each way and keeps the best on dev as `out`.

    Args:
        ways: name → what writes the file that it is given.
        dev: rows to choose on.
        out: where the best file ends.

    Returns:
        Name of the way that was chosen, and what each scored; one that fails is noted with the reason.

    Raises:
        RuntimeError: every way failed.
    """
    scores: dict[str, Score] = {}
    tried: dict[str, Any] = {}
    for number, (name, write) in enumerate(ways.items()):
        path = out.with_name(f"candidate-{number}.onnx")
        try:
            write(path)
            scores[name] = score(path, dev)
        except Exception as error:  # a way that does not run on this model is a result, and the others go on
            tried[name] = f"{type(error).__name__}: {str(error)[:300]}"
            path.unlink(missing_ok=True)
            continue
        tried[name] = {"dev_accuracy": scores[name].accuracy, "p50_ms": scores[name].p50_ms}
        print(f"{name}: {scores[name].accuracy:.2f} % on dev, {scores[name].p50_ms:.2f} ms", flush=True)
    if not scores:
        raise RuntimeError(f"every way failed: {tried}")
    chosen = best(scores)
    for number, name in enumerate(ways):
        path = out.with_name(f"candidate-{number}.onnx")
        if name == chosen:
            path.replace(out)
        else:
            path.unlink(missing_ok=True)
    return chosen, tried
