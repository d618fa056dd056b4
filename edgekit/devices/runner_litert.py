"""LiteRT for `runner.py`: loads a .tflite file and runs one row. As there, nothing of edgekit is imported."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

VERSION = metadata.version("ai-edge-litert")
PROBABILITIES = "probabilities"  # the output that MediaPipe's classifiers want; its logarithm is logits less a constant


class Session:
    """A loaded model.

    Attributes:
        inputs: name, numpy dtype and shape of each, with integers for what is static.
        output: name of the one output that is read.
        options: none; the interpreter has none that a target sets.
    """

    def __init__(self, path: str, threads: int, spinning: bool, entries: dict[str, str]) -> None:
        """Loads for the processor, whose kernels are the interpreter's default; `spinning` is not for it to set.

        Raises:
            ValueError: session options are given, or the file has not one signature of one output.
        """
        if entries:
            raise ValueError(f"LiteRT has no session options, but the target gives {', '.join(sorted(entries))}")
        self._interpreter = Interpreter(model_path=path, num_threads=threads)
        self._interpreter.allocate_tensors()  # for static lengths; others are allocated for each
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1:
            raise ValueError(f"the file has {len(signatures)} signatures, expected one")
        runner = self._interpreter.get_signature_runner(next(iter(signatures)))
        outputs = runner.get_output_details()
        if len(outputs) != 1:
            raise ValueError(f"the file has {len(outputs)} outputs, expected one")
        ((self.output, output),) = outputs.items()
        details = runner.get_input_details()
        self._places = {name: detail["index"] for name, detail in details.items()}
        self.inputs = [(name, np.dtype(one["dtype"]).name, _shape(one)) for name, one in details.items()]
        self.options: dict[str, str] = {}
        self._dynamic = any(isinstance(size, str) for _, _, shape in self.inputs for size in shape)
        self._length = 0
        self._place: int = output["index"]
        self._scale, self._zero_point = output["quantization"]

    def run(self, feed: dict[str, Any]) -> Any:
        """Returns the logits of one row, as floats also where the file has integers, or probabilities instead."""
        interpreter = self._interpreter
        if self._dynamic and (length := feed["input_ids"].shape[1]) != self._length:
            for place in self._places.values():
                interpreter.resize_tensor_input(place, [1, length], strict=True)
            interpreter.allocate_tensors()
            self._length = length
        for name, value in feed.items():
            interpreter.set_tensor(self._places[name], value)
        interpreter.invoke()
        output = interpreter.get_tensor(self._place)
        if self._scale:
            output = (output.astype(np.float32) - self._zero_point) * self._scale
        if self.output == PROBABILITIES:
            output = np.log(np.maximum(output, np.finfo(np.float32).tiny))
        return output


def _shape(detail: dict[str, Any]) -> list[Any]:
    """Returns the shape of an input, "length" for what is dynamic."""
    return ["length" if size < 0 else int(size) for size in detail["shape_signature"]]
