"""What a file of ranges holds: the ranges, what graph they are of, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit import codec
from edgekit.errors import ArtifactError, RecipeError
from edgekit.quant.findings import Finding
from edgekit.quant.ranges import Range

SCHEMA: Literal[1] = 1
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class RangeFile:
    """Ranges of one graph.

    Attributes:
        schema: of this format.
        edgekit: version that made it.
        target: name of the target that decides what is rounded.
        graph_sha256: of the float model file that they are of.
        policy: that drew the rows.
        rows: drawn.
        products: product of the encoder → the tensor that enters it.
        ranges: by tensor.
        findings: what calibration noticed.
    """

    schema: Literal[1]
    edgekit: str
    target: str
    graph_sha256: str
    policy: str
    rows: int
    products: Mapping[str, str]
    ranges: Mapping[str, Range]
    findings: tuple[Finding, ...]


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
        found: RangeFile = codec.decode(RangeFile, value, "")
    except OSError as error:
        raise RecipeError(
            f"ranges cannot be read from {path} ({error.strerror}); `edgekit calibrate … --out` writes such a file"
        ) from error
    except (ArtifactError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a file of ranges: {error}; make it with `edgekit calibrate`") from error
    wrong = [name for name, one in found.ranges.items() if not one.low <= 0 <= one.high]
    if wrong:
        raise RecipeError(f"{path}: the range of {wrong[0]!r} does not hold zero; make it with `edgekit calibrate`")
    if not found.ranges:
        raise RecipeError(f"{path} holds no ranges; make it with `edgekit calibrate`")
    return found
