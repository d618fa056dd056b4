"""Olive's workflow for BERT on CPUs: OnnxConversion, OrtTransformersOptimization, then dynamic or static int8.

The passes are those of its BERT example for CPUs. Of what these passes expose (calibrator, weights per channel, their
type, seven bits on CPUs without VNNI) the best on dev is taken, as Olive's own search would with accuracy as its goal;
the rest are its defaults.

Ref: https://microsoft.github.io/Olive/ (examples/bert, bert_ptq_cpu.json)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from peer import Built, Job, has_vnni, main, read_split

VENV, TAKES, RUNTIME, FROM_GRAPH = "olive", "tokens", "onnxruntime", False
WAYS = {
    "dynamic": "Olive, dynamic int8",
    "static": "Olive, static int8",
}
SIGNED = "int8 weights" if has_vnni() else "int8 weights in 7 bits"
RANGES: dict[str, dict[str, Any]] = {
    SIGNED: {"precision": "int8", "reduce_range": not has_vnni()},
    "uint8 weights": {"precision": "uint8", "reduce_range": False},
}
PRODUCTS = ["MatMul", "Gemm", "Gather"]
OPS: dict[str, dict[str, Any]] = {"": {}, ", products and tables": {"op_types_to_quantize": PRODUCTS}}
CALIBRATORS = ("MinMax", "Percentile", "Entropy")


def build(job: Job) -> Built:
    """Runs the workflow in each way and keeps the best."""
    from graphs import choose

    dev = read_split(job.rows, "dev")
    config = json.loads((job.teacher / "config.json").read_text(encoding="utf-8"))
    graph = _float_graph(job, config)
    data = _calibration_data(job)
    static = job.way == "static"
    ways: dict[str, Callable[[Path], None]] = {
        f"{calibrator + ', ' if static else ''}{name}, per {'channel' if per_channel else 'tensor'}{ops}": partial(
            _quantized, graph, data, {**options, "per_channel": per_channel, **OPS[ops]}, calibrator
        )
        for calibrator in (CALIBRATORS if static else ("",))
        for name, options in RANGES.items()
        for per_channel in ((True,) if static else (True, False))
        for ops in (OPS if static else ("",))
    }
    chosen, tried = choose(ways, dev, job.out / "model.onnx")
    return Built(["model.onnx"], chosen, {"tried": tried})


def _float_graph(job: Job, config: dict[str, Any]) -> Path:
    """Converts the checkpoint and fuses what onnxruntime's optimizer for transformers knows; returns the graph."""
    names = ("input_ids", "attention_mask", *(["token_type_ids"] if config.get("type_vocab_size", 0) > 1 else []))
    model = {
        "type": "HfModel",
        "model_path": str(job.teacher),
        "task": "text-classification",
        "io_config": {
            "input_names": list(names),
            "output_names": ["logits"],
            "input_shapes": [[2, 7] for _ in names],
            "input_types": ["int64" for _ in names],
            "dynamic_axes": {name: {"0": "batch", "1": "sequence"} for name in names} | {"logits": {"0": "batch"}},
        },
    }
    passes = {
        "conversion": {"type": "OnnxConversion", "target_opset": 17, "use_dynamo_exporter": False},
        "optimization": {
            "type": "OrtTransformersOptimization",
            "model_type": "bert",
            "num_heads": int(config.get("num_attention_heads") or config["n_heads"]),
            "hidden_size": int(config.get("hidden_size") or config["dim"]),
            "opt_level": 1,
        },
    }
    return _run(model, passes, [], job.out / "float")


def _calibration_data(job: Job) -> list[dict[str, Any]]:
    """Writes what the static pass calibrates with: a script that registers a data loader over the rows."""
    script = job.out / "calibration_rows.py"
    script.write_text(LOADER, encoding="utf-8")
    params = {"type": "calibration_rows", "params": {"folder": str(job.rows), "peers": str(Path(__file__).parent)}}
    loader = {"type": "no_auto_batch_dataloader", "params": {"batch_size": 1}}
    plain = {"type": "skip_pre_process"}
    return [
        {
            "name": "calibration",
            "user_script": str(script),
            "load_dataset_config": params,
            "pre_process_data_config": plain,
            "post_process_data_config": {"type": "skip_post_process"},
            "dataloader_config": loader,
        }
    ]


LOADER = """
import sys

from olive.data.registry import Registry


@Registry.register_dataset("calibration_rows")
def calibration(folder, peers, **_):
    from pathlib import Path

    sys.path.insert(0, peers)
    from peer import calibration_rows, feed, read_split

    names = ("input_ids", "attention_mask", "token_type_ids")
    return [(feed(names, row), 0) for row in calibration_rows(read_split(Path(folder), "train"))]
"""


def _quantized(graph: Path, data: list[dict[str, Any]], options: dict[str, Any], calibrator: str, out: Path) -> None:
    """Runs the quantization pass alone on the optimized graph."""
    if calibrator:
        # uint8 activations: what AVX2's kernels take; Olive's default of int8 ones is for other runtimes.
        kind = {"type": "OnnxStaticQuantization", "calibrate_method": calibrator, "activation_type": "uint8"}
        kind |= {"data_config": "calibration", "quant_format": "QDQ", "prepare_qdq_config": False}
    else:
        kind = {"type": "OnnxDynamicQuantization"}
    model = {"type": "ONNXModel", "model_path": str(graph)}
    found = _run(model, {"quantization": kind | options}, data if calibrator else [], out.with_suffix(""))
    found.replace(out)


def _run(model: dict[str, Any], passes: dict[str, Any], data: list[dict[str, Any]], out: Path) -> Path:
    """Runs a workflow for the CPU; returns the file that it leaves.

    Raises:
        RuntimeError: it leaves none, or several.
    """
    from olive.workflows import run

    system = {
        "type": "LocalSystem",
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
    }
    run(
        {
            "input_model": model,
            "systems": {"host": system},
            "host": "host",
            "target": "host",
            "data_configs": data,
            "passes": passes,
            "output_dir": str(out),
            "cache_dir": str(out.with_name("cache")),
            "log_severity_level": 3,
        }
    )
    found = sorted(out.rglob("*.onnx"))
    if len(found) != 1:
        raise RuntimeError(f"Olive left {len(found)} models for {list(passes)}; its log says why")
    return found[0]


if __name__ == "__main__":
    main(build)
