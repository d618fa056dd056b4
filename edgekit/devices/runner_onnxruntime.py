"""ONNX Runtime for `runner.py`: loads a model file and runs one row. As there, nothing of edgekit is imported."""

from __future__ import annotations

import os
from typing import Any

# onnxruntime 1.29 and later reports to its maker from the moment it is loaded, unless this is set before: nothing that
# a device runs shall leave it, and the thread that reports would be timed too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

VERSION = ort.__version__
DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32"}


class Session:
    """A loaded model.

    Attributes:
        inputs: name, numpy dtype (the runtime's own name where it is none of a text encoder's) and shape of each, with
            integers for what is static.
        output: name of the one output that is read.
        options: entries of the session's configuration that were asked for, read back from it.
    """

    def __init__(self, path: str, threads: int, spinning: bool, entries: dict[str, str]) -> None:
        """Loads on the CPU provider, with every option fixed that timing depends on, and the target's own."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [(one.name, DTYPES.get(one.type, one.type), list(one.shape)) for one in session.get_inputs()]
        names = [output.name for output in session.get_outputs()]
        self.output = "logits" if "logits" in names else names[0]
        in_use = session.get_session_options()
        self.options = {key: in_use.get_session_config_entry(key) for key in entries}
        self._run, self._outputs = session.run, [self.output]

    def run(self, feed: dict[str, Any]) -> Any:
        """Returns the output of one row."""
        return self._run(self._outputs, feed)[0]
