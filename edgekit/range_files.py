"""Files of ranges: made as a build would make them, looked at, compared, and given to a later build."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edgekit import pipeline
from edgekit.action import Observer
from edgekit.artifact import Graph, Ranges, file_digest, json_text
from edgekit.backends import load_backend
from edgekit.errors import RecipeError
from edgekit.quant.findings import Finding
from edgekit.quant.range_file import SCHEMA, RangeFile
from edgekit.quant.ranges import read_ranges
from edgekit.recipe import Recipe
from edgekit.stages.calibrate import MANIFEST
from edgekit.store import Store, write_file
from edgekit.target import load_target

SAME = 0.01
"""Share of a range that may differ without being told."""


@dataclass(frozen=True)
class Difference:
    """A tensor whose range differs between two files.

    Attributes:
        tensor: its name.
        method: of both ranges; empty where a file lacks the tensor.
        before, after: (low, high); None where the file does not have it.
        change: how far the end that moved most did, as a share of the span before; None where there is nothing to
            compare.
    """

    tensor: str
    method: str
    before: tuple[float, float] | None
    after: tuple[float, float] | None
    change: float | None


def make(recipe: Recipe, store: Store, observer: Observer) -> RangeFile:
    """Runs a build's stages up to calibration for one target.

    Args:
        recipe: with one target.
        store: where artifacts are kept; a build afterwards finds them there.
        observer: is told what happens.

    Raises:
        RecipeError: none or several targets.
        EdgekitError: as a build.
    """
    if len(recipe.targets) != 1:
        raise RecipeError("calibrate takes one target; name it with --target")
    if recipe.options.get("calibrate", {}).get("ranges"):
        raise RecipeError(
            "calibrate makes ranges; leave calibrate.ranges to a build. To look at a file of ranges, give it as MODEL; "
            "to compare, name it with --diff"
        )
    artifacts = pipeline.make_until(recipe, store, observer, "calibrate")
    ranges, graph = artifacts[Ranges], artifacts[Graph]
    assert isinstance(ranges, Ranges)
    assert isinstance(graph, Graph)
    target = load_target(recipe.targets[0])
    facts = ranges.facts
    products = load_backend(target.runtime.name).products(graph.model, target.quant.ops)
    return RangeFile(
        schema=SCHEMA,
        edgekit=version("edgekit"),
        target=target.name,
        graph_sha256=file_digest(graph.model),
        policy=facts["policy"],
        method=facts["method"],
        weight_method=facts["weight_method"],
        rows=facts["rows"],
        products={name: product.entering for name, product in products.items()},
        methods=read_ranges(ranges.file),
        means={name: tuple(means) for name, means in json.loads(ranges.means.read_text(encoding="utf-8")).items()},
        drawn=json.loads((ranges.path / MANIFEST).read_text(encoding="utf-8")),
        findings=tuple(Finding(**finding) for finding in facts["findings"]),
    )


def write(path: Path, ranges: RangeFile) -> None:
    """Writes a file of ranges, or nothing.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, "ranges", json_text(dataclasses.asdict(ranges)))


def diff(before: RangeFile, after: RangeFile) -> Sequence[Difference]:
    """Returns the tensors whose ranges differ, the largest change first; those that one file lacks come before all.

    Compared are the ranges by each method that both files have.

    Raises:
        RecipeError: they have none in common.
    """
    methods = [method for method in before.methods if method in after.methods]
    if not methods:
        have = [", ".join(file.methods) for file in (before, after)]
        raise RecipeError(f"one file has ranges by {have[0]}, the other by {have[1]}; compare those of one method")
    found = []
    for tensor in sorted({*before.ranges} ^ {*after.ranges}):
        ends = [(r.low, r.high) if (r := file.ranges.get(tensor)) else None for file in (before, after)]
        found.append(Difference(tensor, "", ends[0], ends[1], None))
    for method in methods:
        for tensor in sorted({*before.ranges} & {*after.ranges}):
            one, other = before.methods[method][tensor], after.methods[method][tensor]
            moved = max(abs(one.low - other.low), abs(one.high - other.high)) / max(one.high - one.low, 1e-30)
            if moved > SAME:
                found.append(Difference(tensor, method, (one.low, one.high), (other.low, other.high), moved))
    return sorted(found, key=lambda one: -float("inf") if one.change is None else -one.change)
