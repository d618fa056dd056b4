"""What every peer has in common: the job it is given, the rows it may learn from, and what it hands back.

A peer is one file, `peer_NAME.py`, which runs in a venv of its own: `python peer_NAME.py JOB.json`. Its constants say
what it needs and what it makes; `build` makes one way of it, and `load`, where the model is no ONNX file, answers with
it. Nothing here or at the head of a peer's file needs more than the standard library, so that every venv, and the
bench itself, can import it. The test split is not among the rows that a peer is given: what is chosen is chosen on dev.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

BUILT = "built.json"
CALIBRATION_ROWS = 512
SEED = 0


@dataclass(frozen=True)
class Job:
    """What a peer is to make.

    Attributes:
        way: one of the keys of its `WAYS`.
        teacher: folder of the fine-tuned checkpoint.
        graph: the teacher in ONNX, float32, as `peer_teacher` exports it; for those that start from a graph.
        rows: folder of the train and dev splits that `write_split` made.
        out: folder to write into; it exists and is empty.
        epochs: at most so many passes over train; None leaves the peer's own number.
    """

    way: str
    teacher: Path
    graph: Path
    rows: Path
    out: Path
    epochs: int | None = None


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        texts: of each row.
        ids: of each row, the teacher's token ids, int64, of its real length.
        expected: class of each row, an index of the teacher's head, int64, shape (rows,).
    """

    texts: Sequence[str]
    ids: Sequence[np.ndarray]
    expected: np.ndarray


@dataclass(frozen=True)
class Built:
    """What a peer made.

    Attributes:
        files: what has to be shipped, without the tokenizer; the first is what is loaded. Relative to the job's `out`.
        chosen: what was chosen on dev among the peer's options, in words; "" where there was nothing to choose.
        facts: anything else that a reader may want, JSON-like.
    """

    files: Sequence[str]
    chosen: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


Answer = Callable[[Any], Sequence[float]]
"""Takes the input of one row, a text or its ids (int64, one dimension), and returns the scores of the classes."""


class Peer(Protocol):
    """What a peer's file offers.

    Attributes:
        VENV: name of its venv, made from `requirements/VENV.txt`; peers may share one.
        TAKES: "tokens" or "text": what one inference starts from.
        RUNTIME: "onnxruntime", or the module that `load` runs with.
        FROM_GRAPH: whether it starts from the teacher's graph, whose export then counts as part of its own time.
        WAYS: key → name in the table.
    """

    VENV: str
    TAKES: str
    RUNTIME: str
    FROM_GRAPH: bool
    WAYS: Mapping[str, str]

    def build(self, job: Job) -> Built:
        """Makes one way; an exception's text becomes the reason in the table."""
        ...


def main(build: Callable[[Job], Built]) -> None:
    """Runs the job of the command line and writes what was built into its folder."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    paths = {name: Path(given[name]) for name in ("teacher", "graph", "rows", "out")}
    built = build(Job(way=given["way"], epochs=given["epochs"], **paths))
    text = {"files": list(built.files), "chosen": built.chosen, "facts": dict(built.facts)}
    (paths["out"] / BUILT).write_text(json.dumps(text, indent=1), encoding="utf-8")


def write_split(folder: Path, name: str, split: Split) -> None:
    """Writes a split as `NAME.json` (texts) and `NAME.npz` (ids, one after the other, offsets, expected)."""
    import numpy as np

    lengths = [len(row) for row in split.ids]
    (folder / f"{name}.json").write_text(json.dumps(list(split.texts)), encoding="utf-8")
    np.savez(
        folder / f"{name}.npz",
        ids=np.concatenate(split.ids),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        expected=np.asarray(split.expected, dtype=np.int64),
    )


def read_split(folder: Path, name: str) -> Split:
    """Reads what `write_split` wrote."""
    import numpy as np

    texts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        ids, offsets, expected = arrays["ids"], arrays["offsets"], arrays["expected"]
    rows = [ids[start:end] for start, end in itertools.pairwise(offsets)]
    return Split(texts, rows, expected)


def has_vnni() -> bool:
    """Says whether this x86 processor sums products of uint8 and int8 without overflow on the way."""
    info = Path("/proc/cpuinfo")
    return info.exists() and not {"avx512_vnni", "avx_vnni"}.isdisjoint(info.read_text(encoding="utf-8").split())


def calibration_rows(train: Split, count: int = CALIBRATION_ROWS) -> list[np.ndarray]:
    """Draws the ids of training rows to calibrate with: the same for every peer that does."""
    import numpy as np

    order = np.random.default_rng(SEED).permutation(len(train.ids))[:count]
    return [train.ids[i] for i in order]


def feed(names: Sequence[str], row: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the input mapping of one unpadded row for a model with these inputs, each int64 of shape (1, tokens)."""
    import numpy as np

    values = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    return {name: values[name][None] for name in names}
