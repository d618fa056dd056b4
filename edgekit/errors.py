"""One exception per kind of fault, each with the exit code that the command line returns for it.

A message says what was given, what was expected and what to do. The command line prints it without a traceback;
only an exception that is not an `EdgekitError` is an internal error (exit code 1). A gate that fails (3) or cannot tell
(4) is a result, not an exception: see `edgekit.verdict`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgekitError(Exception):
    """Base of every fault that edgekit explains."""

    exit_code = 1


class InputError(EdgekitError):
    """The user gave something that cannot be used: exit code 2, nothing is left behind."""

    exit_code = 2


class DataError(InputError):
    """The labelled data cannot be read, or does not fit the task."""


class ModelError(InputError):
    """The model folder cannot be read, or no frontend knows its architecture."""


class TargetError(InputError):
    """A target profile is unknown or invalid."""


class RecipeError(InputError):
    """A recipe, a flag or a `--set` option is invalid."""


class OutputError(InputError):
    """The output folder cannot be written: a file is in the way, no permission, or the disk is full."""


class ArtifactError(InputError):
    """A built artifact (the folder in `dist/`) is damaged or is not one."""


class DeviceError(EdgekitError):
    """A device cannot be reached, or broke off."""

    exit_code = 5


class UnmeasurableError(EdgekitError):
    """A figure is asked for that the device cannot take: exit code 4."""

    exit_code = 4


class StoreError(EdgekitError):
    """The artifact store is inconsistent in a way that a rebuild does not cure."""


class StageContractError(EdgekitError):
    """A stage broke its contract: read an undeclared target field, or left an output it should not have."""


def suggestion(given: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the closest known name, or the list of the known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
