"""Runs a model that is no ONNX file, in its peer's venv: answers on test, memory, and times beside the teacher's.

`python other_runtime.py JOB.json` does one of three things:

    answers: the class of every row, one by one, to an .npy file.
    memory: loads the model and runs its longest rows in a process that has loaded nothing else but numpy.
    latency: blocks of the model in turn with blocks of the teacher's ONNX file, in this one process, so that their
        ratio is taken within one run. The blocks are those of edgekit's own runner, whose program the job names.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from peer import Answer, Split, read_split

MEMORY_ROWS = 4


class Session:
    """A model behind the call that edgekit's runner times."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def run(self, feed: dict[str, Any]) -> Any:
        """Answers one row."""
        return self.answer(feed["row"])


def inputs(split: Split, takes: str) -> list[Any]:
    """Returns what one inference of each row starts from."""
    return list(split.texts if takes == "text" else split.ids)


def answers(answer: Answer, rows: list[Any], job: dict[str, Any]) -> dict[str, Any]:
    """Saves the class of every row."""
    np.save(job["out"], np.array([int(np.argmax(answer(row))) for row in rows]))
    return {"rows": len(rows)}


def memory(answer: Answer, rows: list[Any], job: dict[str, Any]) -> dict[str, Any]:
    """Runs the longest rows and reads this process's peak, None where the system does not say."""
    for row in sorted(rows, key=len, reverse=True)[:MEMORY_ROWS]:
        answer(row)
    status = Path("/proc/self/status")
    if not status.is_file():
        return {"peak_rss_bytes": None}
    peak = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return {"peak_rss_bytes": int(peak.split()[1]) * 1024}


def latency(answer: Answer, rows: list[Any], job: dict[str, Any]) -> dict[str, Any]:
    """Times the model and the teacher's graph in alternating blocks."""
    runner = import_file(Path(job["runner"]))
    teacher = runner.load_model(job["teacher"], job["threads"], False)
    feeds = [{"row": row} for row in rows]
    session = Session(answer)
    cold_ms = runner.time_run(session, feeds[0])
    model = runner.Model("model", session, feeds, job["load_ms"], cold_ms, (job["peer"], ""))
    runner.run_latency([model, teacher], job)
    return {}


def import_file(path: Path) -> ModuleType:
    """Imports a Python file by its path, and lets it import what lies beside it.

    Raises:
        ImportError: it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


MODES: dict[str, Callable[[Answer, list[Any], dict[str, Any]], dict[str, Any]]] = {
    "answers": answers,
    "memory": memory,
    "latency": latency,
}


def main() -> None:
    """Runs the job of the command line; the last line printed is its result in JSON."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    peer = importlib.import_module(job["peer"])
    rows = inputs(read_split(Path(job["rows"]), job["split"]), peer.TAKES)
    start = time.perf_counter()
    answer = peer.load(Path(job["folder"]))
    load_ms = (time.perf_counter() - start) * 1e3
    print(json.dumps(MODES[job["mode"]](answer, rows, {**job, "load_ms": load_ms})))


if __name__ == "__main__":
    main()
