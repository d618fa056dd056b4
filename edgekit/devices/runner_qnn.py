"""Qualcomm's HTP for `runner.py`: loads a compiled context and runs one row. As there, nothing of edgekit is imported.

On a phone the provider runs it on the NPU; on x86-64 the same library simulates the NPU's instructions, slowly.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # see runner_onnxruntime.py

import onnxruntime as ort
import onnxruntime_qnn as qnn

VERSION = metadata.version("onnxruntime-qnn")
DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32"}

ort.register_execution_provider_library(qnn.get_ep_name(), qnn.get_library_path())  # once a process


class Session:
    """A loaded context, with what the compiler left to the CPU.

    Attributes:
        inputs: name, numpy dtype and shape of each.
        output: name of the one output that is read.
        options: entries of the session's configuration that were asked for, read back from it.
    """

    def __init__(self, path: str, threads: int, spinning: bool, entries: dict[str, str]) -> None:
        """Loads for HTP; the chip is the one that the context was compiled for.

        Raises:
            ValueError: the file is none that edgekit compiled, or its context is not the one written with it.
        """
        check_contexts(Path(path))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        devices = [one for one in ort.get_ep_devices() if one.ep_name == qnn.get_ep_name()]
        options.add_provider_for_devices(devices[:1], {"backend_path": qnn.get_qnn_htp_path()})
        session = ort.InferenceSession(path, options)
        self.inputs = [(one.name, DTYPES.get(one.type, one.type), list(one.shape)) for one in session.get_inputs()]
        names = [output.name for output in session.get_outputs()]
        self.output = "logits" if "logits" in names else names[0]
        in_use = session.get_session_options()
        self.options = {key: in_use.get_session_config_entry(key) for key in entries}
        self._run, self._outputs = session.run, [self.output]

    def run(self, feed: dict[str, Any]) -> Any:
        """Returns the output of one row."""
        return self._run(self._outputs, feed)[0]


def check_contexts(path: Path) -> None:
    """Checks the contexts beside a graph against the digests in it: the runtime would answer by damaged ones.

    Raises:
        ValueError: it names none, or one is missing or not the one that was written with it.
    """
    content = path.read_bytes()
    contexts = re.findall(rb'"([^"]+)": "([0-9a-f]{64})"', content)
    if b"EPContext" not in content or not contexts:
        raise ValueError("it is no program for HTP, or was not compiled by edgekit")
    for name, digest in contexts:
        context = path.parent / name.decode()
        if not context.is_file():
            raise ValueError(f"its context {context.name} is not beside it: push both files")
        if hashlib.sha256(context.read_bytes()).hexdigest() != digest.decode():
            raise ValueError(f"its context {context.name} is cut short or another one's: push both files again")
