"""Looks at the teacher before time is spent on it: what int8 will cost, where, and which option cures it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgekit import data, frontends
from edgekit.artifact import FACTS, LabelledData, Remarks, Teacher, write_json
from edgekit.backends import Backend, load_backend
from edgekit.checkpoint import load_classifier, read_labels
from edgekit.quant.findings import (
    NO_COST,
    OUTLIER_RATIO,
    WORTH_TELLING,
    Finding,
    constant_tensors,
    in_order,
    outlier_channels,
    unsteady_ranges,
)
from edgekit.quant.ranges import observe
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.equalise import MORE
from edgekit.stages.teach import encode_for_teacher
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification

CURE = f"stage equalise (on by default) divides them; {MORE}"


@dataclass(frozen=True)
class Lint(Pass):
    """Runs training rows through the teacher, and exports it as a student would be, for its graph.

    Attributes:
        rows: training rows, drawn by the seed.
    """

    rows: int = 64

    NAME: ClassVar[str] = "lint"
    VERSION: ClassVar[int] = 3
    IN: ClassVar = (Teacher, LabelledData)
    OUT: ClassVar = Remarks
    READS: ClassVar[tuple[str, ...]] = ("runtime.name", "quant.ops")
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "numpy")

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Refuses data whose labels the teacher does not know."""
        labels = data.read(inputs[LabelledData].path).labels
        load_task(ctx.task).align(read_labels(inputs[Teacher].path), labels)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes what was found, as facts."""
        model = frontends.build(load_classifier(inputs[Teacher].path))
        texts = [text for text, _ in data.read(inputs[LabelledData].path).train]
        rows = drawn_rows(inputs[Teacher].path, texts, self.rows, ctx.seed)
        found = [
            *outliers_seen(model, rows, WORTH_TELLING),
            *found_in_export(model, load_backend(ctx.target["runtime.name"]), ctx.target["quant.ops"]),
        ]
        told = [asdict(finding) for finding in in_order(found) if finding.cost != NO_COST]
        write_json(out_dir / FACTS, {"rows": len(rows), "findings": told})


def drawn_rows(model: Path, texts: Sequence[str], count: int, seed: int) -> list[np.ndarray]:
    """Draws texts; returns their token ids in the teacher's own tokenisation.

    Args:
        model: the checkpoint's folder.
        texts: to draw from.
        count: how many; all where there are fewer.
        seed: of the draw.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    return encode_for_teacher(model, [texts[i] for i in sorted(random.permutation(len(texts))[:count])])


def outliers_seen(
    model: EdgekitForSequenceClassification, rows: Sequence[np.ndarray], least: float = OUTLIER_RATIO
) -> list[Finding]:
    """Returns the outlier channels of every product's input over rows.

    Args:
        model: not changed.
        rows: token ids.
        least: ratio to the median channel from which one stands out.

    Raises:
        DataError: NaN or infinite values (product and row are named).
    """
    from edgekit.ir.simulate import watch

    found = [outlier_channels(name, one.magnitudes.numpy(), CURE, least) for name, one in watch(model, rows).items()]
    return [finding for finding in found if finding is not None]


def found_in_export(
    model: EdgekitForSequenceClassification,
    backend: Backend,
    ops: Sequence[str] | Literal["all"],
    rows: Sequence[np.ndarray] = (),
) -> list[Finding]:
    """Returns what the graph shows that a student of this model would have, whatever the processor.

    Args:
        model: not changed.
        backend: that exports it.
        ops: operators that the target quantizes.
        rows: token ids, whose halves are compared by the ranges that they make; none for no comparison.

    Raises:
        DataError: NaN or infinite values (tensor and row are named).
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / f"lint{backend.SUFFIX}"
        backend.export_student(model, "dynamic", model.config.max_positions, graph)
        found = backend.findings(graph, "", (), backend.OPS if ops == "all" else ops)
        if not rows:
            return found
        observed = observe(backend.activations(graph, backend.quantized_tensors(graph, ops), rows, pad_id=0))
        return [*found, *unsteady_ranges(observed), *constant_tensors(observed)]
