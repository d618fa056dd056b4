"""Whether a recipe leaves the student's structure to the search: what the stages around it go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENABLED = True
"""Whether a recipe that says nothing searches."""

FIXES = {"distill": ("layers", "keep"), "prune": ("heads", "ffn", "layer_heads", "layer_ffn")}
"""Options that give the student's structure: with one of them there is nothing to search."""


def fixed(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names the options of a recipe that give the structure, as `stage.option`."""
    return [f"{stage}.{name}" for stage, names in FIXES.items() for name in names if name in options.get(stage, {})]


def wanted(options: Mapping[str, Mapping[str, Any]]) -> bool:
    """Says whether a recipe with these options leaves the structure to the search."""
    return not fixed(options) and options.get("search", {}).get("enabled", ENABLED) in (True, "true")


def sweeps(options: Mapping[str, Mapping[str, Any]]) -> bool:
    """Says whether a recipe with these options asks for the front."""
    return options.get("search", {}).get("sweep", False) in (True, "true")
