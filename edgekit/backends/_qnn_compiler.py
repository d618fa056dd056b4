"""Compiles one graph for one chip: the program that `_qnn_compile` starts in a process of its own.

`python -P _qnn_compiler.py JOB.json` fixes the length of a Q/DQ graph, lets Qualcomm's compiler make a context of it,
and writes what it took. It is a process because the compiler is native code that logs to stderr, whence its reasons
are read, and may crash. As what devices run, it imports nothing of edgekit (-P: this folder has an `onnxruntime.py`).

The job: `graph` and `context` (paths), `length`, `options` (of the QNN provider), `report` (path of the JSON written:
`nodes` and `left`, each a list of operator type and name, and `casts`, the tensors that a Cast gives).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is loaded: a build reports to nobody

import onnx
import onnxruntime as ort
import onnxruntime_qnn as qnn
from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

CONTEXTS = "edgekit.contexts"
VERBOSE, ERROR = 0, 3


def fixed(graph: str, length: int) -> onnx.ModelProto:
    """Returns a graph with one input length, and what is known of its shapes computed.

    The Q/DQ pairs have to stay, those of constants too: without its own a layer norm's beta is float, and the compiler
    then computes in float silently.
    """
    model = onnx.load(graph)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                make_dim_param_fixed(model.graph, dim.dim_param, length)
    fix_output_shapes(model)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/fixed.onnx"
        options.log_severity_level = ERROR
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(f"{folder}/fixed.onnx")


def make_context(model: onnx.ModelProto, path: Path, provider_options: dict[str, str]) -> None:
    """Writes the context beside `path`, and there the graph that refers to it.

    The graph is handed over as bytes: of a file, its path would become part of the program's name.
    """
    ort.register_execution_provider_library(qnn.get_ep_name(), qnn.get_library_path())
    devices = [one for one in ort.get_ep_devices() if one.ep_name == qnn.get_ep_name()]
    options = ort.SessionOptions()
    options.log_severity_level = VERBOSE  # its reasons are told at no other level
    options.intra_op_num_threads = 1
    entries = {"enable": "1", "file_path": str(path), "embed_mode": "0"}
    for name, value in entries.items():
        options.add_session_config_entry(f"ep.context_{name}", value)
    # Without offload the conversions of the graph's own inputs and outputs are the accelerator's too.
    given = {"backend_path": qnn.get_qnn_htp_path(), "offload_graph_io_quantization": "0", **provider_options}
    options.add_provider_for_devices(devices[:1], given)
    ort.InferenceSession(model.SerializeToString(), options)


def sign(path: Path) -> onnx.ModelProto:
    """Adds the digests of its contexts to a graph, so that its own digest covers them; returns the graph.

    The runtime loads a context with bytes missing or changed without a word, and answers something.
    """
    model = onnx.load(path)
    names = {a.s.decode() for n in model.graph.node for a in n.attribute if a.name == "ep_cache_context" and a.s}
    digests = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in sorted(names)}
    onnx.helper.set_model_props(
        model, {**{p.key: p.value for p in model.metadata_props}, CONTEXTS: json.dumps(digests)}
    )
    onnx.save(model, path)
    return model


def main(path: str) -> None:
    """Runs the job in a file."""
    job: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    model = fixed(job["graph"], job["length"])
    make_context(model, Path(job["context"]), job["options"])
    made = sign(Path(job["context"]))
    report = {
        "nodes": [(node.op_type, node.name) for node in model.graph.node],
        "left": [(node.op_type, node.name) for node in made.graph.node if node.op_type != "EPContext"],
        "casts": [name for node in model.graph.node if node.op_type == "Cast" for name in node.output],
    }
    Path(job["report"]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
