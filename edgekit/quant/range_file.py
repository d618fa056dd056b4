"""What a file of ranges holds: the ranges, what graph they are of, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit import codec
from edgekit.errors import ArtifactError, RecipeError, suggestion
from edgekit.quant.findings import Finding
from edgekit.quant.ranges import AUTO, COMPARED, NAMES, Range
from edgekit.quant.weights import WEIGHT_METHODS

SCHEMA: Literal[1] = 1
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class RangeFile:
    """Ranges of one graph.

    Attributes:
        schema: of this format.
        edgekit: version that made it.
        target: name of the target that decides what is rounded.
        graph_sha256: of the float model file that they are of.
        policy: that drew the rows.
        method: of the policy: one of `edgekit.quant.ranges.NAMES`, or "auto", which leaves the choice to quantization.
        weight_method: of the policy, for the weights' scales.
        rows: drawn.
        products: product of the encoder → the tensor that enters it.
        methods: method → tensor → range; all that quantization chooses among.
        means: of tensors that enter products, each channel's mean, which corrected biases are made of.
        drawn: which rows those were, as in a bundle's calibration.json.
        findings: what calibration noticed.
    """

    schema: Literal[1]
    edgekit: str
    target: str
    graph_sha256: str
    policy: str
    method: str
    weight_method: str
    rows: int
    products: Mapping[str, str]
    methods: Mapping[str, Mapping[str, Range]]
    means: Mapping[str, tuple[float, ...]]
    drawn: Mapping[str, object]
    findings: tuple[Finding, ...]

    @property
    def ranges(self) -> Mapping[str, Range]:
        """Those of the first method, by tensor: the plain extremes where a choice is left."""
        return next(iter(self.methods.values()))


def read_range_file(path: Path) -> RangeFile:
    """Reads a file of ranges.

    Raises:
        RecipeError: it is missing, not JSON, or a key is unknown, missing or wrong (which is named).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not a file of ranges")
        value = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=codec.refuse_constant,
            object_pairs_hook=codec.refuse_repeated,
        )
        if not isinstance(value, dict):
            raise RecipeError(f"{path} is not a file of ranges: expected an object; make it with `edgekit calibrate`")
        found: RangeFile = codec.decode(RangeFile, value, "")
    except OSError as error:
        raise RecipeError(
            f"ranges cannot be read from {path} ({error.strerror}); `edgekit calibrate … --out` writes such a file"
        ) from error
    except (ArtifactError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a file of ranges: {error}; make it with `edgekit calibrate`") from error
    again = "make it with `edgekit calibrate`"
    unknown = sorted(set(found.methods) - set(NAMES))
    if unknown:
        raise RecipeError(f"{path}: unknown method {unknown[0]!r}{suggestion(unknown[0], NAMES)}")
    if not found.methods or not all(found.methods.values()):
        raise RecipeError(f"{path} holds no ranges; {again}")
    lacking = {
        "ranges by": set(COMPARED if found.method == AUTO else [found.method]) - set(found.methods),
        "ranges of": set(found.products.values()) - set(found.ranges),
        "means of": {tensor for tensor in found.products.values() if not found.means.get(tensor)},
        "of its rows": {"row_sha256", "length_histogram", "train_rows"} - set(found.drawn),
    }
    for what, names in lacking.items():
        if names:
            raise RecipeError(f"{path} lacks {what} {', '.join(sorted(names))}; {again}")
    if found.weight_method not in WEIGHT_METHODS:
        raise RecipeError(f"{path}: unknown weight_method {found.weight_method!r}; {again}")
    for method, ranges in found.methods.items():
        if set(ranges) != set(found.ranges):
            raise RecipeError(f"{path}: the methods have ranges of different tensors; {again}")
        wrong = [name for name, one in ranges.items() if one.low > one.high]
        if wrong:
            raise RecipeError(f"{path}: the range of {wrong[0]!r} by {method!r} is upside down; {again}")
        wrong = [name for name, one in ranges.items() if not one.low <= 0 <= one.high]
        if wrong:
            raise RecipeError(f"{path}: the range of {wrong[0]!r} by {method!r} does not hold zero; {again}")
    return found
