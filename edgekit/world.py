"""The processes of one build: one, or as many as `torchrun` started.

Under torchrun every process walks the same plan. Rank 0 alone owns the store and runs what is not data-parallel; the
others wait, look up what it made, and join in the stages that train.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from edgekit.errors import EdgekitError

STAGE_TIMEOUT = timedelta(hours=24)  # how long the others wait while rank 0 runs a stage of its own


@dataclass(frozen=True)
class World:
    """Rank of this process and number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process owns the store and prints."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Returns rank 0's value in every process; with one process, the value itself.

        Args:
            value: JSON-like; ignored on all ranks but 0.

        Raises:
            EdgekitError: another process has ended, which cuts the connection.
        """
        if self.size == 1:
            return value
        import torch.distributed

        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=STAGE_TIMEOUT)
        box = [value]
        try:
            torch.distributed.broadcast_object_list(box, src=0)
        except RuntimeError as error:
            raise EdgekitError("another process of this build has ended; its own message says why") from error
        return box[0]


def current_world() -> World:
    """Reads the rank and size that torchrun put into the environment."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
