"""Where edgekit keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.errors import OutputError


def cache_dir() -> Path:
    """Returns the cache folder: `$EDGEKIT_CACHE`, else `$XDG_CACHE_HOME/edgekit`, else `~/.cache/edgekit`.

    Returns:
        An absolute path; the folder need not exist yet.

    Raises:
        OutputError: `EDGEKIT_CACHE` names the home of a user that there is not, or there is no home.
    """
    own = os.environ.get("EDGEKIT_CACHE")
    if own:
        try:
            return Path(own).expanduser().resolve()
        except RuntimeError as error:
            raise OutputError(f"EDGEKIT_CACHE is {own!r}: {error}") from error
    shared = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has a relative path ignored.
    if shared and Path(shared).is_absolute():
        return Path(shared) / "edgekit"
    try:
        return Path.home() / ".cache" / "edgekit"
    except RuntimeError as error:
        raise OutputError("there is no home folder to keep the cache in; set EDGEKIT_CACHE") from error
