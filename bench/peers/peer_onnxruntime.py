"""onnxruntime's own quantizer on the teacher's graph: the best on dev of what its documentation offers.

Tried are its three calibrators, int8 weights (in seven bits on CPUs without VNNI, as advised for them) and uint8
weights, products of two activations rounded or left alone (`MatMulConstBOnly`), all after `quant_pre_process` without
symbolic shapes, which dynamic inputs end in an error with. Its defaults lose points and are no faster than float on
AVX2 (docs/quantization.md), so they are no candidates.

Ref: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer import Built, Job, calibration_rows, feed, has_vnni, main, read_split

if TYPE_CHECKING:
    import numpy as np

VENV, TAKES, RUNTIME, FROM_GRAPH = "transformers", "tokens", "onnxruntime", True
WAYS = {
    "static": "onnxruntime quantize_static, best on dev",
    "dynamic": "onnxruntime quantize_dynamic, best on dev",
}
CALIBRATORS = ("MinMax", "Percentile", "Entropy")
SIGNED = "int8 weights" if has_vnni() else "int8 weights in 7 bits"
WEIGHTS: dict[str, dict[str, Any]] = {
    SIGNED: {"weight_type": "QInt8", "reduce_range": not has_vnni()},
    "uint8 weights": {"weight_type": "QUInt8", "reduce_range": False},
}
OPS = ["MatMul", "Gemm", "Gather"]


def build(job: Job) -> Built:
    """Quantizes in every way and keeps the best."""
    from graphs import choose
    from onnxruntime.quantization.shape_inference import quant_pre_process

    train, dev = (read_split(job.rows, name) for name in ("train", "dev"))
    prepared = job.out / "prepared.onnx"
    quant_pre_process(str(job.graph), str(prepared), skip_symbolic_shape=True)
    ways = static_ways(prepared, calibration_rows(train)) if job.way == "static" else dynamic_ways(prepared)
    chosen, tried = choose(ways, dev, job.out / "model.onnx")
    prepared.unlink()
    return Built(["model.onnx"], chosen, {"tried": tried})


def static_ways(graph: Path, rows: Sequence[np.ndarray]) -> dict[str, Callable[[Path], None]]:
    """Names the static ways, and what writes each."""
    return {
        f"{calibrator}, {weights}{', constant factors alone' if constant else ''}": partial(
            _static, graph, rows, calibrator, weights, constant
        )
        for weights in WEIGHTS
        for constant in (True, False)
        for calibrator in CALIBRATORS
    }


def dynamic_ways(graph: Path) -> dict[str, Callable[[Path], None]]:
    """Names the dynamic ways, and what writes each."""
    return {
        f"{weights}, per {'channel' if per_channel else 'tensor'}": partial(_dynamic, graph, weights, per_channel)
        for weights in WEIGHTS
        for per_channel in (True, False)
    }


def _static(graph: Path, rows: Sequence[np.ndarray], calibrator: str, weights: str, constant: bool, out: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(())

        def __len__(self) -> int:
            return len(rows)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(rows[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.left, None)
            return None if row is None else feed(["input_ids", "attention_mask"], row)

    quantize(
        str(graph),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=OPS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType[WEIGHTS[weights]["weight_type"]],
        reduce_range=WEIGHTS[weights]["reduce_range"],
        calibrate_method=CalibrationMethod[calibrator],
        # Row by row: given rows of unequal length at once, the histogram calibrators end in an error (1.31.1).
        extra_options={"CalibStridedMinMax": 1, "MatMulConstBOnly": constant},
    )


def _dynamic(graph: Path, weights: str, per_channel: bool, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(graph),
        str(out),
        op_types_to_quantize=OPS,
        per_channel=per_channel,
        weight_type=QuantType[WEIGHTS[weights]["weight_type"]],
        reduce_range=WEIGHTS[weights]["reduce_range"],
        extra_options={"MatMulConstBOnly": True},
    )


if __name__ == "__main__":
    main(build)
