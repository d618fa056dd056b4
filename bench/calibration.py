"""Calibration's memory over the number of rows, and its time beside that of running the rows.

Rows are drawn with replacement from a data set's training split. Each number of rows runs in a process of its own, so
that its peak memory is its own; time is the ratio of a pass that takes statistics to one that only runs the graph, in
alternation.

    python bench/calibration.py path/to/teacher path/to/data --rows 100 --rows 10000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgekit import data
from edgekit.backends import load_backend
from edgekit.devices.runner import peak_rss_bytes
from edgekit.quant.ranges import observe
from edgekit.stages.calibrate import ahead
from edgekit.stages.teach import encode_for_teacher, load_teacher
from edgekit.tasks import load_task

OPS = ("Gemm", "Gather")
ROUNDS = 3


def export(model: str, folder: Path) -> tuple[Path, int]:
    """Writes a fine-tuned model as it is; returns the file and its padding id."""
    teacher, pad_id = load_teacher(Path(model))
    graph = folder / "float.onnx"
    load_backend("onnxruntime").export_student(teacher, "dynamic", teacher.config.max_positions, graph)
    return graph, pad_id


def rows_of(model: str, source: str, count: int) -> list[np.ndarray]:
    """Returns the token ids of training rows, drawn with replacement."""
    columns = data.Columns(candidates=load_task("text-classification").COLUMNS)
    texts = [row[data.TEXT] for row in data.read_rows(data.find_splits(Path(source)).train, columns)]
    encoded = encode_for_teacher(Path(model), texts)
    random = np.random.Generator(np.random.PCG64(0))
    return [encoded[i] for i in random.integers(0, len(encoded), count)]


def calibrate(graph: Path, rows: list[np.ndarray], pad_id: int) -> None:
    """Takes the statistics of all that is rounded, as stage `calibrate` does."""
    backend = load_backend("onnxruntime")
    tensors = backend.quantized_tensors(graph, OPS)
    observe(ahead(backend.activations(graph, tensors, rows, pad_id)), backend.input_weights(graph, OPS))


def one(graph: Path, rows_file: Path, pad_id: int, what: str) -> dict[str, float]:
    """Does one pass in this process; returns its seconds and the process's peak memory."""
    with np.load(rows_file) as stored:
        rows = np.split(stored["ids"], stored["ends"][:-1])
    start = time.perf_counter()
    if what == "calibrate":
        calibrate(graph, rows, pad_id)
    else:
        load_backend("onnxruntime").logits(graph, rows, pad_id)
    seconds = time.perf_counter() - start
    # Not getrusage's: on Linux a child inherits its parent's, and this parent has exported a model.
    peak = peak_rss_bytes()
    assert peak is not None, "this system does not say how much memory a process took"
    return {"seconds": seconds, "peak_rss_mb": peak / 1e6}


def main() -> None:
    """Measures and prints one JSON line a number of rows, then the figures that count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, action="append")
    parser.add_argument("--one", nargs=4, metavar=("GRAPH", "ROWS", "PAD", "WHAT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        graph, rows_file, pad_id, what = given.one
        print(json.dumps(one(Path(graph), Path(rows_file), int(pad_id), what)))
        return
    peaks, ratio = [], 0.0
    counts = given.rows or [100, 10_000]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph, pad_id = export(given.model, folder)
        for count in counts:
            rows = rows_of(given.model, given.data, count)
            np.savez(folder / "rows.npz", ids=np.concatenate(rows), ends=np.cumsum([len(row) for row in rows]))
            taken: dict[str, list[dict[str, float]]] = {"run": [], "calibrate": []}
            for _ in range(ROUNDS):
                for what, found in taken.items():
                    arguments = ["--one", str(graph), str(folder / "rows.npz"), str(pad_id), what]
                    command = [sys.executable, __file__, given.model, given.data, *arguments]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    found.append(json.loads(done.stdout))
            ratios = [c["seconds"] / r["seconds"] for c, r in zip(taken["calibrate"], taken["run"], strict=True)]
            ratio = float(np.median(ratios))
            peaks.append(max(c["peak_rss_mb"] for c in taken["calibrate"]))
            line = {"rows": count, "ratio": ratio, "ratios": ratios, "peak_rss_mb": peaks[-1]}
            line["run_seconds"] = float(np.median([r["seconds"] for r in taken["run"]]))
            print(json.dumps(line), flush=True)
    print(f"peak memory grows by {peaks[-1] - peaks[0]:.1f} MB from {counts[0]:,} to {counts[-1]:,} rows")
    print(f"{counts[-1]:,} rows calibrate in {ratio:.2f} times the time of running them")


if __name__ == "__main__":
    main()
