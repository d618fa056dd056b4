"""Costs of shapes that nothing here runs, but whose compiler estimates an inference: an NPU's cycles."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.backends import Request, load_backend
from edgekit.errors import StageContractError
from edgekit.search.shapes import Shape
from edgekit.stage import Progress
from edgekit.stages._students import write_forms
from edgekit.target import TargetView

LENGTHS = (16, 48, 112)
"""Tokens of the inputs. A compiler is run for each model and length, seconds each: three tell what goes with the length
and what with its square. The longest input is a multiple of sixteen (stage `trim`), as is what an NPU lays out."""


def cycles_of(
    shapes: Sequence[Shape], lengths: Sequence[int], target: TargetView, seed: int, progress: Progress
) -> list[dict[str, tuple[float, ...]]]:
    """Compiles a random student of each shape for each length.

    Args:
        shapes: of one width.
        lengths: tokens of the inputs.
        target: through the fields of `Profile.READS`.
        seed: of weights and rows.
        progress: is told of each student that is compiled.

    Returns:
        Of each shape the cycles at each length, by family.

    Raises:
        RecipeError: the target's runtime loads none of the forms.
        TargetError: the compiler refuses a student.
        StageContractError: it estimates nothing.
    """
    backend = load_backend(target["runtime.name"])
    device, found = {"accelerator": target["device.accelerator"]}, []
    for place, shape in enumerate(shapes):
        costs: dict[str, list[float]] = {}
        for length in lengths:
            with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as name:
                for family, file in write_forms(shape, length, target, Path(name) / "forms", seed).items():
                    request = Request((), (length,), length, 0, (), Path(name), device, {"sequence_length": length})
                    out = Path(name) / family
                    out.mkdir()
                    cycles = backend.compile(file.path, request, out).cycles
                    if cycles is None:
                        raise StageContractError(f"{backend.estimates()} estimates no cycles")
                    costs.setdefault(family, []).append(float(cycles.per_inference))
        found.append({family: tuple(taken) for family, taken in costs.items()})
        progress(place + 1, len(shapes), "students")
    return found
