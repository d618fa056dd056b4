"""Runs .tflite files on this machine, one row at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import _litert_file as file
from edgekit.backends._litert_positions import position_axes
from edgekit.errors import ModelError, StageContractError, TargetError
from edgekit.quiet import quiet_stderr

PROBABILITIES = "probabilities"
"""Name of an output that has them instead of logits."""


class Session:
    """A loaded file.

    Args:
        graph: the file.
        keep_all: whether what is between inputs and outputs can be read: a delegate's kernels do not keep that.

    Raises:
        ModelError: it is damaged, or has not one signature with one output.
        TargetError: the runtime lacks an operator, which is named.
    """

    def __init__(self, graph: Path, keep_all: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        file.read(graph)
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if keep_all else OpResolverType.AUTO
        try:
            with quiet_stderr():  # it says which delegate it made; what is wrong it raises
                self._interpreter = Interpreter(
                    str(graph),
                    num_threads=1,
                    experimental_preserve_all_tensors=keep_all,
                    experimental_op_resolver_type=resolver,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            if "unresolved" in str(error):
                raise TargetError(f"{graph.name} has operators that LiteRT lacks: {error}") from error
            raise ModelError(f"{graph} is a damaged .tflite file: {error}") from error
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1 or len(self._interpreter.get_output_details()) != 1:
            raise ModelError(f"{graph} has not one signature with one output")
        ((self.output,),) = (one["outputs"] for one in signatures.values())
        self._inputs = self._interpreter.get_signature_runner().get_input_details()
        (self._result,) = self._interpreter.get_output_details()
        self._length = int(self._inputs["input_ids"]["shape"][1])
        self._open = bool(self._inputs["input_ids"]["shape_signature"][1] < 0)
        self._places = {one["name"]: one["index"] for one in self._interpreter.get_tensor_details()}

    @property
    def filled_up(self) -> int | None:
        """Tokens that each row is filled up to; None where it is run as long as it is."""
        return None if self._open else self._length

    def run(self, row: np.ndarray, pad_id: int) -> np.ndarray:
        """Runs one row; returns its logits, float32, (1, classes).

        Raises:
            StageContractError: the row is longer than the input.
        """
        if self._open and len(row) != self._length:
            for detail in self._inputs.values():
                self._interpreter.resize_tensor_input(detail["index"], [1, len(row)], strict=True)
            self._interpreter.allocate_tensors()
            self._length = len(row)
        if len(row) > self._length:
            raise StageContractError(f"a row has {len(row)} tokens, but the model's input takes {self._length}")
        for name, detail in self._inputs.items():
            value = np.full((1, self._length), pad_id if name == "input_ids" else 0, dtype=detail["dtype"])
            value[0, : len(row)] = {"input_ids": row, "attention_mask": 1}.get(name, 0)
            self._interpreter.set_tensor(detail["index"], value)
        self._interpreter.invoke()
        output = self._interpreter.get_tensor(self._result["index"])
        scale, zero_point = self._result["quantization"]
        if scale:
            output = (output.astype(np.float32) - zero_point) * scale
        if self.output == PROBABILITIES:
            output = np.log(np.maximum(output, np.finfo(np.float32).tiny))
        found: np.ndarray = output.astype(np.float32)
        return found

    def values(self, name: str) -> Any:
        """Returns a tensor of the last run, where all are kept."""
        return self._interpreter.get_tensor(self._places[name])


def logits(graph: Path, rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """Runs rows one by one, by the kernels that a device of this machine's kind takes; `Session` says what it raises.

    Returns:
        Logits, float32, (rows, classes); less a constant in each row where the file gives probabilities.
    """
    session = Session(graph)
    return np.concatenate([session.run(row, pad_id) for row in rows])


def activations(
    graph: Path, tensors: Sequence[str], rows: Sequence[np.ndarray], pad_id: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the named activations of each row: one row is in memory at a time, and padding is cut off."""
    session = Session(graph, keep_all=True)
    axes = {} if session.filled_up is None else position_axes(file.read(graph), session.filled_up)
    for row in rows:
        session.run(row, pad_id)
        yield {name: _unpadded(session.values(name), axes.get(name, ()), len(row)) for name in tensors}


def _unpadded(values: np.ndarray, axes: Sequence[int], used: int) -> np.ndarray:
    for axis in axes:
        values = np.take(values, range(used), axis=axis)
    return values
