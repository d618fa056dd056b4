"""What the tests of LiteRT's files share: quantization sections, ranges of random rows, and what a file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch

from edgekit.backends import Backend, Request
from edgekit.backends import _litert_file as file
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import factorise_words, share_words
from edgekit.quant.ranges import Range, observe, ranges_of
from edgekit.stages._students import random_student
from edgekit.target import field_of, load_target

MAX_LENGTH, PAD = 38, 1
FEW = field_of(load_target("android"), "quant")
ALL = FEW | {"ops": "all"}


def ranges_for(backend: Backend, graph: Path, quant: Mapping[str, Any]) -> dict[str, Range]:
    """Returns ranges of random rows."""
    tensors = backend.quantized_tensors(graph, quant["ops"])
    rows = tiny.token_rows(100, [9, 20, 31] * 8)
    return ranges_of(observe(backend.activations(graph, tensors, rows, PAD)), "minmax")


def request(tokenizer: Path, **device: str) -> Request:
    """Returns a request for a classifier of the tiny labels."""
    return Request(
        ["light"], [10], MAX_LENGTH, 0, tiny.LABELS, tokenizer, device, {"sequence_length": "buckets", "buckets": 1}
    )


def tensors_of(path: Path) -> dict[str, Any]:
    """Returns a file's tensors by their names."""
    return {file.name_of(tensor): tensor for tensor in file.read(path).subgraphs[0].tensors}


def constants_of(path: Path) -> dict[str, np.ndarray]:
    """Returns a file's constants by their names, in the types that they have there."""
    model = file.read(path)
    return {
        file.name_of(tensor): file.values_of(model, tensor)
        for tensor in model.subgraphs[0].tensors
        if file.is_constant(model, tensor)
    }


def operators_of(path: Path) -> list[str]:
    """Names a file's operators in their order."""
    return [op for op, _ in file.operators(file.read(path))]


def grid_of(tensor: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns scales and zero points of a tensor."""
    return np.asarray(tensor.quantization.scale), np.asarray(tensor.quantization.zeroPoint)


LENGTH = 40
"""Of the input: the longest row's 38, rounded up."""


def rows() -> list[np.ndarray]:
    return tiny.token_rows(100, (2, 3, 7, 16, 29, 38), seed=3)


def expected_of(model: Any) -> np.ndarray:
    """Returns the logits of torch, each row alone and unpadded."""
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(row)[None]).logits.numpy() for row in rows()])


def shared(model: EdgekitForSequenceClassification) -> EdgekitForSequenceClassification:
    return share_words(model, np.arange(model.config.vocab_size) // 2 * 2)


def factorised(model: EdgekitForSequenceClassification) -> EdgekitForSequenceClassification:
    return factorise_words(model, 8, np.ones(model.config.vocab_size))


def one_head(model: EdgekitForSequenceClassification) -> EdgekitForSequenceClassification:
    """Another student: of a single head in front, and of channels as many as the input has tokens."""
    sizes = {"heads": [1, 2], "ffn": [LENGTH, 24], "word_rank": 0}
    config = type(model.config).from_dict({**model.config.to_dict(), **sizes})
    return random_student(config, seed=3)


FORMS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "uneven": ("bert", lambda model: model),
    "relative": ("mpnet", lambda model: model),
    "projected": ("electra", lambda model: model),
    "epsilon": ("roberta", lambda model: model),
    "shared": ("bert", shared),
    "factorised": ("bert", factorised),
    "one-head": ("bert", one_head),
}
