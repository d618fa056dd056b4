"""Runs a torch classifier over rows in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.stage import Progress
from edgekit.tokenization import batches, pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 2048


def run_rows(
    model: PreTrainedModel,
    rows: Sequence[np.ndarray],
    pad_id: int,
    progress: Progress,
    states: np.ndarray | None = None,
) -> np.ndarray:
    """Runs rows in batches of like length.

    Args:
        model: a sequence classifier, of transformers or of the IR; it is put into evaluation mode.
        rows: token ids of each row.
        pad_id: fills shorter rows.
        progress: called after each batch.
        states: gets an IR model's first-token states, (rows, layers + 1, hidden), where given.

    Returns:
        float32 logits, (rows, classes).
    """
    import torch

    model.eval()
    logits = np.zeros((len(rows), model.config.num_labels), dtype=np.float32)
    done = 0
    with torch.inference_mode():
        for group in batches(rows, TOKENS_PER_BATCH):
            ids, mask = pad([rows[i] for i in group], pad_id)
            output = model(torch.from_numpy(ids), torch.from_numpy(mask))
            logits[group] = output.logits.numpy()
            if states is not None:
                states[group] = torch.stack(output.hidden_states, dim=1).numpy()
            done += len(group)
            progress(done, len(rows), "rows")
    return logits
