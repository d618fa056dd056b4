"""What heads and channels are worth, against gates that are multiplied in by hand and differences of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from builds import TinyBuild, made

from edgekit import frontends
from edgekit.artifact import WideStudent
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.ir.surgery import keep_widths
from edgekit.stages.distill import distillation_loss
from edgekit.stages.score import Score, importance, read_scores
from edgekit.training import Rows, collate


def student() -> EdgekitForSequenceClassification:
    """Returns a random model of the IR with layers of different widths."""
    model = frontends.build(tiny.classifier("mpnet", seed=4))
    return keep_widths(model, [[0, 1, 2], [0, 1, 2, 3], [1, 2], [0, 3]], [range(20), range(64), range(7), range(33)])


def training_rows(model: EdgekitForSequenceClassification, count: int = 10) -> Rows:
    """Returns rows of different lengths with random teacher outputs."""
    random = np.random.default_rng(1)
    ids = tiny.token_rows(model.config.vocab_size, [int(n) for n in random.integers(3, 20, size=count)])
    arrays = {
        "teacher_logits": random.normal(size=(count, 4)).astype(np.float32),
        "teacher_states": random.normal(size=(count, 5, tiny.HIDDEN)).astype(np.float16),
    }
    return Rows(ids, random.integers(0, 4, size=count), arrays)


def gate_gradients(
    model: EdgekitForSequenceClassification, batch: Mapping[str, torch.Tensor], loss: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns |dL/dgate| by autograd, with gates multiplied into what the output and down projections read."""
    heads = [torch.ones(count, dtype=torch.float64, requires_grad=True) for count in model.config.heads]
    channels = [torch.ones(count, dtype=torch.float64, requires_grad=True) for count in model.config.ffn]
    hooks = []
    for layer, head, channel in zip(model.layers, heads, channels, strict=True):
        for module, gate in ((layer.output, head.repeat_interleave(model.config.head_dim)), (layer.down, channel)):
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, gate=gate: (inputs[0] * gate,)))
    loss(model(batch["input_ids"], batch["attention_mask"]), batch).backward()
    for hook in hooks:
        hook.remove()
    return [g.grad.abs().numpy() for g in heads], [g.grad.abs().numpy() for g in channels]


def test_importance_is_the_gradient_of_gates_multiplied_in_by_hand() -> None:
    model = student()
    rows, loss = training_rows(model), distillation_loss(2.0, 1.0, 1.0, 0.1)
    found = importance(model, rows, loss, [[7, 2], [9, 0], [1]], pad_id=1)
    double = student().double()
    expected = [[np.zeros(n) for n in double.config.heads], [np.zeros(n) for n in double.config.ffn]]
    for group in ([7, 2], [9, 0], [1]):
        batch = collate(rows, group, 1)
        batch |= {name: batch[name].double() for name in ("teacher_logits", "teacher_states")}
        for total, part in zip(expected, gate_gradients(double, batch, loss), strict=True):
            for i, gradient in enumerate(part):
                total[i] += gradient
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_importance_agrees_with_finite_differences_of_the_loss() -> None:
    model = student().double()
    rows, loss = training_rows(model), distillation_loss(2.0, 1.0, 1.0, 0.1)
    batch = collate(rows, [3, 4, 5], 1)
    batch |= {name: batch[name].double() for name in ("teacher_logits", "teacher_states")}
    _, channels = importance(student(), rows, loss, [[3, 4, 5]], pad_id=1)
    step, column = 1e-5, 4
    values = []
    for factor in (1 + step, 1 - step):
        changed = student().double()
        with torch.no_grad():
            changed.layers[1].down.weight[:, column] *= factor
            values.append(float(loss(changed(batch["input_ids"], batch["attention_mask"]), batch)))
    assert channels[1][column] == pytest.approx(abs(values[0] - values[1]) / (2 * step), abs=1e-5)


def test_importance_leaves_the_weights_and_no_gradients() -> None:
    model = student()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    importance(model, training_rows(model), distillation_loss(2.0, 1.0, 1.0, 0.1), [range(4), range(4, 10)], pad_id=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_stage_scores_each_unit_of_the_wide_student(tiny_build: TinyBuild, tmp_path: Path) -> None:
    given = [made(tiny_build, kind) for kind in Score.IN]
    (wide,) = (one for one in given if isinstance(one, WideStudent))
    config = EdgekitForSequenceClassification.from_pretrained(wide.path).config
    found = tiny.run_stage(Score(rows=32), given, tmp_path / "found")
    heads, channels = read_scores(found.file)
    assert [len(layer) for layer in heads] == config.heads
    assert [len(layer) for layer in channels] == config.ffn
    assert all((layer >= 0).all() and layer.any() for layer in (*heads, *channels))
    assert found.facts == {"rows": 32, "layers": len(config.heads)}
    again = tiny.run_stage(Score(rows=32), given, tmp_path / "again")
    assert again.digest == found.digest
    other = tiny.run_stage(Score(rows=32), given, tmp_path / "other", seed=1)
    assert other.digest != found.digest, "other rows"


@pytest.mark.parametrize("given", [{"rows": 0}, {"temperature": 0.0}, {"labels": -1.0}])
def test_impossible_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Score(**given)
