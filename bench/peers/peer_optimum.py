"""optimum-onnx 0.1: its own exporter, and `ORTQuantizer` with its configuration for this processor, per channel.

Static int8 takes whichever of its calibrations (minmax, moving average, percentiles, entropy) does best on dev; without
VNNI each is tried in full range and in seven bits, as its documentation says to.

Ref: https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer import Built, Job, calibration_rows, feed, has_vnni, main, read_split

if TYPE_CHECKING:
    import numpy as np

VENV, TAKES, RUNTIME, FROM_GRAPH = "optimum", "tokens", "onnxruntime", False
WAYS = {
    "fp32": "optimum-onnx, fp32",
    "dynamic": "optimum-onnx, dynamic int8",
    "static": "optimum-onnx, static int8",
}


def build(job: Job) -> Built:
    """Exports with optimum and, for the integer ways, quantizes."""
    from graphs import choose
    from optimum.onnxruntime import ORTModelForSequenceClassification

    exported = job.out / "float"
    model = ORTModelForSequenceClassification.from_pretrained(job.teacher, export=True, local_files_only=True)
    model.save_pretrained(exported)
    if job.way == "fp32":
        (exported / "model.onnx").replace(job.out / "model.onnx")
        return Built(["model.onnx"])
    train, dev = (read_split(job.rows, name) for name in ("train", "dev"))
    ways = dynamic_ways(exported) if job.way == "dynamic" else static_ways(exported, calibration_rows(train))
    chosen, tried = choose(ways, dev, job.out / "model.onnx")
    return Built(["model.onnx"], chosen, {"tried": tried})


def dynamic_ways(exported: Path) -> dict[str, Callable[[Path], None]]:
    """Names the dynamic ways, and what writes each."""
    return {name: partial(_quantize, exported, None, configure) for name, configure in _configurations().items()}


def static_ways(exported: Path, rows: Sequence[np.ndarray]) -> dict[str, Callable[[Path], None]]:
    """Names the static ways, and what writes each."""
    from optimum.onnxruntime import AutoCalibrationConfig

    dataset = _dataset(exported, rows)
    calibrations = {
        "minmax": AutoCalibrationConfig.minmax(dataset),
        "moving average": AutoCalibrationConfig.minmax(dataset, moving_average=True),
        "percentiles": AutoCalibrationConfig.percentiles(dataset),
        "entropy": AutoCalibrationConfig.entropy(dataset),
    }
    return {
        f"{method}, {name}": partial(_quantize, exported, (dataset, calibration), configure)
        for method, calibration in calibrations.items()
        for name, configure in _configurations().items()
    }


def _configurations() -> dict[str, Callable[..., Any]]:
    """Names the configurations that optimum documents for this processor, and what makes each."""
    from optimum.onnxruntime import AutoQuantizationConfig as Presets

    if has_vnni():
        return {"avx512_vnni": Presets.avx512_vnni}
    return {"avx2, full range": Presets.avx2, "avx2, 7 bits": partial(Presets.avx2, reduce_range=True)}


def _dataset(exported: Path, rows: Sequence[np.ndarray]) -> Any:
    """Makes the calibration rows a data set with the columns that the exported graph has as inputs."""
    import onnx
    from datasets import Dataset

    names = [node.name for node in onnx.load(exported / "model.onnx").graph.input]
    feeds = [feed(names, row) for row in rows]
    return Dataset.from_dict({name: [one[name][0].tolist() for one in feeds] for name in names})


def _quantize(exported: Path, calibration: tuple[Any, Any] | None, configure: Callable[..., Any], out: Path) -> None:
    """Quantizes the exported graph into a file."""
    from optimum.onnxruntime import ORTQuantizer

    quantizer = ORTQuantizer.from_pretrained(exported, file_name="model.onnx")
    config = configure(is_static=calibration is not None, per_channel=True)
    ranges = None
    if calibration is not None:
        dataset, method = calibration
        augmented = out.with_name("augmented.onnx")
        ranges = quantizer.fit(
            dataset=dataset,
            calibration_config=method,
            onnx_augmented_model_name=str(augmented),
            operators_to_quantize=config.operators_to_quantize,
        )
        augmented.unlink(missing_ok=True)
    folder = out.with_suffix("")
    quantizer.quantize(
        save_dir=folder, calibration_tensors_range=ranges, quantization_config=config, file_suffix="quantized"
    )
    (folder / "model_quantized.onnx").replace(out)


if __name__ == "__main__":
    main(build)
