"""Quantization-aware training: a few epochs against the teacher with weights and activations rounded as they will be.

Gradients pass the rounding straight through, and stop where a value is clipped. Ranges are those of the best static
form and stay as they are; weights' scales follow the weights by the method "max", which the file is written with too:
the integers that were trained are those that are written. Of the last layer the graph computes the query of the first
token alone, whose range is its own there; trained it is with that of all tokens.

Ref: Bengio et al. 2013 (1308.3432), section 4 (straight-through); Jacob et al. 2018 (1712.05877), section 3.1; Zafrir
et al. 2019 (1910.06188) for the effect on BERT.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from edgekit.artifact import EqualisedStudent, Vocabulary
from edgekit.errors import StageContractError, TargetError
from edgekit.stages.distill import TEACHER_LAYERS, distillation_loss, set_dropout, student_rows
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from edgekit.backends import Scheme
    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.search.trials import Trial, Trials
    from edgekit.stage import Context, Inputs

BATCH_SIZE = 32
TEMPERATURE = 2.0
LABELS_SHARE = 0.1
WRITTEN_WITH = "max"
"""Method of the weights' scales that `edgekit.ir.simulate.WeightRounder` plays through."""


def stored_ranges(
    student: EdgekitForSequenceClassification, products: Collection[str]
) -> dict[str, tuple[float, float]]:
    """Returns the ranges of those of the given products that integers enter as they are stored, by name.

    That is the product of a factorised word table with one scale: the table's range stands in for the calibrated one.
    """
    from edgekit.ir.simulate import table_extremes

    return {name: seen.range for name, seen in table_extremes(student).items() if name in products}


def trained(
    epochs: int, rate: float, inputs: Inputs, ctx: Context, trials: Trials, best: Trial, scheme: Scheme
) -> Trial:
    """Trains a copy of the student and writes it in the scheme and with the ranges of the best static form.

    Args:
        epochs: passes over the training split.
        rate: peak learning rate.
        inputs: of the stage; student, vocabulary, data and the teacher's outputs are read.
        ctx: of the stage.
        trials: gets one more.
        best: the static form to start from.
        scheme: its scheme.

    Raises:
        TargetError: no product is rounded.
        StageContractError: the trained student's graph is not like the student's.
    """
    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.ir.simulate import trainable, without_rounding
    from edgekit.training import Schedule, train

    subject, vocabulary = trials.subject, inputs[Vocabulary]
    folder = inputs[EqualisedStudent].path
    student = EdgekitForSequenceClassification.from_pretrained(folder, local_files_only=True)
    layers = json.loads((folder / TEACHER_LAYERS).read_text(encoding="utf-8"))
    ranges, ops = subject.ranges[best.method], subject.quant["ops"]
    products = subject.backend.products(subject.graph, ops)
    if not products:
        raise TargetError(f"quantize.qat_epochs: the target's quant.ops {ops} leave every product float")
    entering = {name: (ranges[p.entering].low, ranges[p.entering].high) for name, p in products.items()}
    if subject.embedding == "int8" and (ops == "all" or "Gather" in ops):
        entering |= stored_ranges(student, entering)
    model = trainable(student, entering, scheme.bound or "full")
    set_dropout(model, 0.0)
    rows, dev = student_rows(inputs, ctx, layers)
    loss = distillation_loss(TEMPERATURE, 1.0, 1.0, LABELS_SHARE)
    # The word table stays: whole, it is rounded by another operator, which this does not play through; factorised, its
    # grid is that of the ranges.
    schedule = Schedule(epochs, BATCH_SIZE, rate, 0.0)
    train(model, rows, dev, load_task(ctx.task).metric, loss, schedule, subject.pad_id, ctx)
    graph = subject.folder / f"trained{subject.backend.SUFFIX}"
    length = ctx.target["shape.sequence_length"]
    subject.backend.export_student(without_rounding(model), length, vocabulary.max_length, graph)
    if not set(ranges) <= set(subject.backend.quantized_tensors(graph, subject.quant["ops"])):
        raise StageContractError("the trained student's graph has other tensors than the student's")
    try:
        label = f"{epochs} epochs with rounding"
        return trials.run(scheme, best.method, graph=graph, weight_method=WRITTEN_WITH, label=label)
    finally:
        graph.unlink()
