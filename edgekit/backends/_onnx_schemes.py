"""Ways to quantize a graph for ONNX Runtime on CPUs, the one to beat first."""

from __future__ import annotations

from edgekit.backends import Scheme

STATIC = (
    Scheme("int8-pair-bounded", "static", "int8", "pairs"),
    Scheme("int8-reduced-range", "static", "int8", "seven-bit"),
    Scheme("uint8-weights", "static", "uint8", "full"),
)
OTHERS = (
    Scheme("dynamic-int8", "dynamic", "int8", "pairs"),
    Scheme("weight-only-int8", "weight-only", "int8", None),
    Scheme("weight-only-int4", "weight-only", "int4", None),
)
SCHEMES = (*STATIC, *OTHERS)
