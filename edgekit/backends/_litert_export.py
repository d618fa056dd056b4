"""Converts torch modules to .tflite files whose tensors have short names that say which part of the model they are of.

The converter names tensors by the classes that were called, a hundred characters each: two fifths of a small file, and
nothing to find a product by. Here they get the names of the modules: "layers.0.qkv.0.weight", "layers.0.gelu".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import _litert_file as file
from edgekit.backends._litert_lengths import open_length
from edgekit.errors import StageContractError
from edgekit.ir.form import Form

if TYPE_CHECKING:
    import torch
    from ai_edge_litert.schema_py_generated import ModelT
    from transformers import PreTrainedModel

    from edgekit.ir.encoder import EdgekitForSequenceClassification

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""In the order that MediaPipe's text classifier feeds; the model reads no segment ids, but that fills three inputs."""

STEP = 8
"""Lengths are multiples of it: rows of a product are taken in tiles."""


def gathered(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Chooses rows by LiteRT's own operator: what torch has for it, the converter checks against the table's bounds."""
    import torch
    from litert_torch.backend.experimental import torch_tfl  # noqa: F401  (registers the operator)

    rows: torch.Tensor = torch.ops.tfl.gather(table, places, 0)
    return rows


CPU = Form(gather=gathered, gathered_bias=True, spelled_norms=True)


def input_length(length: int | str, max_length: int, positions: int) -> int:
    """Returns the tokens that the input has: those asked for, or else those of the longest row, rounded up.

    Args:
        length: of the target's profile; a number, "buckets" or "dynamic".
        max_length: tokens of the longest row.
        positions: that the model has.
    """
    if isinstance(length, int):
        return length
    return max(max_length, min(-(-max_length // STEP) * STEP, positions))


def export_student(
    model: EdgekitForSequenceClassification, length: int | str, max_length: int, out: Path, form: Form = CPU
) -> None:
    """Writes the lean form of the student; see `edgekit.backends.Backend`.

    For a length that is given rows are filled up to it, for "buckets" to that of the longest one.

    Raises:
        ValueError: the model has fewer positions.
        StageContractError: the converter left no product of the model by its name.
    """
    import torch

    from edgekit.ir.lean import LeanClassifier

    tokens = input_length(length, max_length, model.config.max_positions)

    class Student(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lean = LeanClassifier(model, tokens, form)

        def forward(
            self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, attention_mask: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            return {"logits": self.lean(input_ids, attention_mask)}

    student = Student().eval()
    row = torch.zeros(1, tokens, dtype=torch.int32)
    made = _converted(student, {name: torch.ones_like(row) if name == INPUTS[-1] else row.clone() for name in INPUTS})
    _rename(made, _scopes(student.lean, "lean"))
    found = {file.name_of(tensor).removesuffix(".weight") for tensor in made.subgraphs[0].tensors}
    linear = {name for name, module in student.lean.named_modules() if isinstance(module, torch.nn.Linear)}
    if not linear <= found:
        raise StageContractError(f"{out.name}: the converter left no product named {min(linear - found)}")
    if length == "dynamic":
        open_length(made, tokens)
    file.write(made, out)


def export_teacher(model: PreTrainedModel, max_length: int, out: Path) -> None:
    """Writes the teacher as transformers' own code converts, for rows that are filled up to `max_length`.

    The converter (litert-torch 0.10) cannot leave the length open: it compares the symbolic ends of what transformers
    slices with numbers.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.model(input_ids=input_ids, attention_mask=attention_mask).logits}

    row = torch.ones(1, max_length, dtype=torch.int32)
    teacher = Logits().eval()
    made = _converted(teacher, {"input_ids": row, "attention_mask": torch.ones_like(row)})
    _rename(made, _scopes(model, "model"))
    file.write(made, out)


def _converted(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> ModelT:
    # Else it prints a dozen lines to stdout, and what is beneath it some to stderr.
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it says that it uses them; constants are all it computes
    import litert_torch

    converted = litert_torch.convert(module, sample_kwargs=dict(inputs))
    model = file.parsed(bytes(converted.model_content()), Path("converted"))
    model.description = b"edgekit"
    return model


def _scopes(root: torch.nn.Module, name: str) -> dict[tuple[str, ...], str]:
    """Returns the name of each module by the classes that are called on the way to it, as the converter writes them.

    Lists of modules are not called, and so are not on the way: "layers.0.up" has ("Layer_0", "Product_up").
    """
    import torch

    modules = dict(root.named_modules())
    found: dict[tuple[str, ...], str] = {}
    for path, last in modules.items():
        if isinstance(last, torch.nn.ModuleList):
            continue
        parts = path.split(".") if path else []
        called = [f"{type(root).__name__}_{name}"]
        for end in range(1, len(parts) + 1):
            module = modules[".".join(parts[:end])]
            if not isinstance(module, torch.nn.ModuleList):
                called.append(f"{type(module).__name__}_{parts[end - 1]}")
        found[tuple(called)] = path
    return found


def _scope(name: str, scopes: Mapping[tuple[str, ...], str]) -> str:
    """Returns the module that a converter's name is of, "" where it says none; of several it takes the first."""
    for piece in name.split(";"):
        called = tuple(part.rsplit(".", 1)[-1] for part in piece.split("/")[1:])
        if called in scopes:
            return scopes[called]
    return ""


def _rename(model: ModelT, scopes: Mapping[tuple[str, ...], str]) -> None:
    """Names tensors by their modules and operators, in place: the same model gets the same names."""
    graph = model.subgraphs[0]
    names: dict[int, str] = {}
    (signature,) = model.signatureDefs
    for entry in (*signature.inputs, *signature.outputs):
        names[entry.tensorIndex] = entry.name.decode() if isinstance(entry.name, bytes) else entry.name
    for op, operator in file.operators(model):
        for place in operator.outputs:
            names.setdefault(place, _joined(_scope(file.name_of(graph.tensors[place]), scopes), op.lower()))
        if op == "FULLY_CONNECTED":
            weight = _scope(file.name_of(graph.tensors[operator.inputs[1]]), scopes)
            for place, kind in zip(operator.inputs[1:], ("weight", "bias"), strict=False):
                if place >= 0 and file.is_constant(model, graph.tensors[place]):
                    names.setdefault(place, _joined(weight, kind))
    taken: Counter[str] = Counter()
    for place, tensor in enumerate(graph.tensors):
        name = names.get(place, "constant")
        taken[name] += 1
        tensor.name = (name if taken[name] == 1 else f"{name}.{taken[name]}").encode()


def _joined(*parts: Any) -> str:
    return ".".join(part for part in parts if part)
