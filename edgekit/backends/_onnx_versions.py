"""Which ONNX Runtime loads a file: by its operator set, and by Microsoft's own operators in it.

https://onnxruntime.ai/docs/reference/compatibility.html; for its own operators, the release after they were merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from edgekit.backends import Scheme

OPSET = 20
"""Of all exports: the first with a Gelu operator."""

MICROSOFT = "com.microsoft"
IR_OF_OPSET = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""Oldest IR version that may carry an operator set."""

_RUNTIME_OF_OPSET = {17: (1, 12), 18: (1, 14), 19: (1, 15), 20: (1, 17), 21: (1, 18)}
_RUNTIME_OF_OPERATOR = {("MatMulNBits", 4): (1, 17), ("MatMulNBits", 8): (1, 22)}


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX's own operators."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def oldest_of(opset: int) -> str:
    """Returns the oldest release that knows an operator set."""
    return ".".join(map(str, _RUNTIME_OF_OPSET[opset]))


def oldest(scheme: Scheme) -> str:
    """Returns the oldest release that loads a scheme's files, before there is one."""
    needs = [_RUNTIME_OF_OPSET[OPSET]]
    if scheme.family == "weight-only":
        needs.append(_RUNTIME_OF_OPERATOR["MatMulNBits", {"int8": 8, "int4": 4}[scheme.weight]])
    return ".".join(map(str, max(needs)))


def oldest_runtime(model: onnx.ModelProto) -> str:
    """Returns the oldest release that loads a model, such as "1.17".

    Raises:
        KeyError: an operator set or an operator that edgekit does not write.
    """
    needs = [_RUNTIME_OF_OPSET[opset_of(model)]]
    for node in model.graph.node:
        if node.domain == MICROSOFT:
            bits = next((int(a.i) for a in node.attribute if a.name == "bits"), 4)
            needs.append(_RUNTIME_OF_OPERATOR[node.op_type, bits])
    return ".".join(map(str, max(needs)))
