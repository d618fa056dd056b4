"""OpenVINO on the CPU: the teacher as it is, NNCF's int8, and NNCF's int8 with accuracy control.

The checkpoint is converted from PyTorch, which keeps more of what OpenVINO fuses than a detour by ONNX. The latency
hint and one thread are set, shapes stay dynamic, and float stays float32: as with the other runtimes.

Ref: https://docs.openvino.ai/2026/openvino-workflow/model-optimization.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer import Answer, Built, Job, Split, calibration_rows, feed, main, read_split

if TYPE_CHECKING:
    import numpy as np

VENV, TAKES, RUNTIME, FROM_GRAPH = "openvino", "tokens", "openvino", False
WAYS = {
    "fp32": "OpenVINO, fp32",
    "int8": "OpenVINO, NNCF int8",
    "controlled": "OpenVINO, NNCF int8 with accuracy control",
}
NAMES = ("input_ids", "attention_mask")
MAX_DROP = 0.01  # NNCF's default, a share of all rows


def build(job: Job) -> Built:
    """Converts the checkpoint and, for the integer ways, quantizes it."""
    import openvino as ov

    model, chosen = convert(job.teacher), ""
    if job.way != "fp32":
        train, dev = (read_split(job.rows, name) for name in ("train", "dev"))
        rows = calibration_rows(train)
        model = _controlled(model, rows, dev) if job.way == "controlled" else _quantized(model, rows)
        chosen = f"accuracy control, at most {100 * MAX_DROP:g} points on dev" if job.way == "controlled" else ""
    ov.save_model(model, job.out / "model.xml", compress_to_fp16=False)
    return Built(["model.xml", "model.bin"], chosen)


def convert(teacher: Path) -> Any:
    """Converts a checkpoint from PyTorch, batch and length dynamic."""
    import openvino as ov
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(teacher, local_files_only=True).eval()
    row = torch.ones(1, 7, dtype=torch.int64)
    with torch.no_grad():
        return ov.convert_model(
            model,
            example_input={"input_ids": row, "attention_mask": torch.ones_like(row)},
            input=[(name, [-1, -1], ov.Type.i64) for name in NAMES],
        )


def load(folder: Path) -> Answer:
    """Compiles a model for one thread."""
    import openvino as ov

    return _answer(ov.compile_model(folder / "model.xml", "CPU", _settings()))


def _settings() -> dict[str, Any]:
    import openvino as ov

    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": ov.Type.f32,
    }


def _answer(compiled: Any) -> Answer:
    request = compiled.create_infer_request()
    return lambda row: request.infer(feed(NAMES, row))[0][0]


def _quantized(model: Any, rows: Sequence[np.ndarray]) -> Any:
    import nncf

    return nncf.quantize(model, _dataset(rows), model_type=nncf.ModelType.TRANSFORMER)


def _controlled(model: Any, rows: Sequence[np.ndarray], dev: Split) -> Any:
    import nncf
    import numpy as np

    def accuracy(compiled: Any, feeds: Any) -> tuple[float, list[float]]:
        request = compiled.create_infer_request()
        right = [float(request.infer(one)[0][0].argmax() == label) for one, label in feeds]
        return float(np.mean(right)), right

    labelled = [(feed(NAMES, row), int(label)) for row, label in zip(dev.ids, dev.expected, strict=True)]
    return nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=_dataset(rows),
        validation_dataset=nncf.Dataset(labelled),
        validation_fn=accuracy,
        max_drop=MAX_DROP,
        drop_type=nncf.DropType.ABSOLUTE,
        model_type=nncf.ModelType.TRANSFORMER,
    )


def _dataset(rows: Sequence[np.ndarray]) -> Any:
    import nncf

    return nncf.Dataset([feed(NAMES, row) for row in rows])


if __name__ == "__main__":
    main(build)
