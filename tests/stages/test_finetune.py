"""Fine-tuning a tiny base model: what comes out is a teacher that learned the task."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from edgekit.artifact import Model, Teacher
from edgekit.checkpoint import inspect, load_classifier
from edgekit.errors import ModelError
from edgekit.stages.finetune import Finetune


def test_a_base_model_becomes_a_teacher(tmp_path: Path) -> None:
    base = inspect(tiny.write_base(tmp_path / "base"), "text-classification")
    assert not base.fine_tuned
    model = base.artifact()
    assert type(model) is Model
    data = tiny.labelled(tmp_path / "data", tiny.write_data(tmp_path / "raw"))
    stage = Finetune(epochs=8, learning_rate=3e-3, embedding_rate=1.0, patience=3)
    teacher = tiny.run_stage(stage, [model, data], tmp_path / "teacher")
    assert type(teacher) is Teacher
    made = inspect(teacher.path, "text-classification")
    assert made.fine_tuned
    assert made.labels == tiny.LABELS
    scores = teacher.facts["dev"]
    assert set(scores) == {"accuracy", "macro_precision", "macro_recall", "macro_f1"}
    assert scores["accuracy"] == teacher.facts["dev_best"] == max(teacher.facts["dev_by_epoch"])
    assert scores["accuracy"] > 60  # four labels: a constant answer has 25 %


def test_missing_weights_are_refused_not_filled_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.write_teacher(tmp_path / "teacher", tiny.LABELS)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".layer.1." not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 16 of its model's weights"):
        load_classifier(folder)


def test_weights_of_another_shape_than_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_teacher(tmp_path / "teacher", tiny.LABELS)
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace('"intermediate_size": 64', '"intermediate_size": 48'))
    with pytest.raises(ModelError, match="do not fit config"):
        load_classifier(folder)
