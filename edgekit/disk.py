"""Full disks: said as such, and which one it is, however a library words it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import EdgekitError, OutputError

RESERVE_BYTES = 1 << 20


@contextmanager
def full_explained(folders: Sequence[Path]) -> Iterator[None]:
    """Turns a full disk, however a library words it, into an error that says which.

    Args:
        folders: where a build writes: the store, the temporary folder, the output.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        full = full or "No space left on device" in str(error)
        fullest = min(folders, key=free_bytes)
        if full or free_bytes(fullest) < RESERVE_BYTES:
            raise OutputError(
                f"the disk that holds {fullest} is full; free some space (`edgekit cache prune` for the store) and run "
                "the same command again: what was finished is kept"
            ) from error
        raise


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk that holds a folder, or would hold it."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
