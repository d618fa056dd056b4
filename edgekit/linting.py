"""Looks at a model before time is spent on it: what int8 will cost, where, and which option cures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit import data, frontends
from edgekit.backends import load_backend, names, ready_backend
from edgekit.checkpoint import inspect, load_classifier, locate
from edgekit.errors import RecipeError
from edgekit.quant.findings import Finding, in_order, outlier_channels
from edgekit.quiet import quiet_libraries
from edgekit.source import resolve
from edgekit.stages.lint import CURE, drawn_rows, found_in_export, outliers_seen
from edgekit.target import Target
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification

ROWS = 64
"""Training rows that are run where no number is given."""


def is_graph(model: str) -> bool:
    """Whether a model is given as a file that a runtime loads, by its suffix."""
    return model.endswith(tuple(load_backend(name).SUFFIX for name in names()))


def lint(
    model: str,
    target: Target,
    task: str,
    rows: str | None,
    count: int | None,
    columns: Mapping[str, str],
    allow_download: bool,
) -> list[Finding]:
    """Returns what is found in a model or a graph, by check and place.

    Args:
        model: a folder, hub id or `package:NAME/PATH`; or a model file of the target's format.
        target: decides what saturates and what stays float.
        task: name of the task.
        rows: labelled data whose training rows are run through the model; None estimates from the weights.
        count: rows to run; 64 by default.
        columns: role → column of the data; the others are found.
        allow_download: whether a hub id may be fetched.

    Raises:
        InputError: the model or the data cannot be used, or are not of each other.
    """
    if count is not None and count < 1:
        raise RecipeError(f"rows is {count}; it must be at least 1")
    if is_graph(model) and (rows is not None or count is not None):
        raise RecipeError(f"{model} is a graph: it is looked at as it is, without data or rows")
    if rows is None and count is not None:
        raise RecipeError("rows is given, but no data to take them from")
    load_task(task)
    backend = ready_backend(target.runtime.name)
    if is_graph(model):
        path = resolve(model, "graph")
        if path.suffix != backend.SUFFIX:
            raise RecipeError(f"{model} is no {backend.SUFFIX} file, which {target.name} runs; name another --target")
        ops = backend.OPS if target.quant.ops == "all" else target.quant.ops
        return in_order(backend.findings(path, target.device.arch, target.device.isa, ops))
    checkpoint = inspect(locate(model, allow_download), task)
    frontends.check(checkpoint.model_type)
    texts = _texts(rows, task, columns, checkpoint.labels) if rows is not None else None
    labels = checkpoint.labels or ("0", "1")  # a new head's channels do not matter: it has no outliers yet
    with quiet_libraries(("transformers",)):
        encoder = frontends.build(load_classifier(checkpoint.path, () if checkpoint.fine_tuned else labels))
        drawn = [] if texts is None else drawn_rows(checkpoint.path, texts, count or ROWS, 0)
        found = outliers_seen(encoder, drawn) if drawn else estimated(encoder)
        return in_order([*found, *found_in_export(encoder, backend, target.quant.ops, drawn)])


def estimated(model: EdgekitForSequenceClassification) -> list[Finding]:
    """Returns the outlier channels that the layer norms' own weights make, without running anything."""
    from edgekit.ir.encoder import Layer
    from edgekit.ir.equalise import norm_reach

    found = []
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    norms = {"layers.0.qkv": model.embeddings.norm}
    for index, layer in enumerate(layers):
        norms[f"layers.{index}.up"] = layer.attention_norm
        reader = f"layers.{index + 1}.qkv" if index + 1 < len(layers) else "head.dense"
        norms[reader] = layer.ffn_norm
    if model.embeddings.projection is not None:
        norms["embeddings.projection"] = norms.pop("layers.0.qkv")
    for place, norm in norms.items():
        finding = outlier_channels(place, norm_reach(norm).numpy(), CURE)
        found += [finding] if finding is not None else []
    return found


def _texts(rows: str, task: str, chosen: Mapping[str, str], classes: Sequence[str]) -> list[str]:
    columns = data.Columns(candidates=load_task(task).COLUMNS, chosen=chosen)
    train, labels = data.train_rows(resolve(rows, "data"), columns)
    if classes:
        load_task(task).align(classes, labels)
    return [text for text, _ in train]
