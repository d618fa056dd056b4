"""Every form of a graph on every version of ONNX Runtime: which load it, and whether they answer alike.

Also drives the integer products of each version to their extremes. Versions are installed with pip into folders of
their own, each beside the numpy that it was built for; one that has no wheel for this Python is a column that says no.

    python bench/runtimes.py 1.17.3 1.18.1 1.20.1 1.22.1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgekit.backends import EMBEDDINGS, Precision, load_backend
from edgekit.ir.config import EdgekitConfig
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.quant.ranges import observe, ranges_of
from edgekit.stages.quantize import SCHEMES

QUANT = {
    "weight": {"dtype": "auto", "granularity": "per-channel", "symmetric": True},
    "activation": {"dtype": "uint8", "symmetric": False},
    "ops": ["Gemm", "Gather"],
}
LENGTHS, VOCABULARY, PAD = (2, 5, 9, 17, 31), 200, 1
NEEDS = ("coloredlogs", "humanfriendly", "flatbuffers", "protobuf", "sympy", "mpmath", "packaging")

CHILD = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
folder, options, found = Path(sys.argv[1]), onnxruntime.SessionOptions(), {}
options.log_severity_level, options.intra_op_num_threads = 4, 1
for path in sorted(folder.glob("*.onnx")):
    rows, expected = np.load(folder / f"{path.stem}.rows.npz"), np.load(folder / f"{path.stem}.npy")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        logits = np.concatenate([session.run(None, {"input_ids": rows[k][None]})[0] for k in rows.files])
        found[path.stem] = float(np.abs(logits - expected).max() / np.abs(expected).max())
    except Exception as error:
        found[path.stem] = str(error).splitlines()[0]
print(json.dumps(found))
"""


def write_forms(folder: Path) -> dict[str, str]:
    """Writes each form of a random model, its rows and what it answers here; returns the version that each needs."""
    torch.manual_seed(0)
    shape = {"embedding_size": 64, "hidden_size": 64, "head_dim": 16, "heads": [4, 4], "ffn": [128, 96]}
    config = EdgekitConfig(vocab_size=VOCABULARY, num_labels=5, **shape)
    backend, random = load_backend("onnxruntime"), np.random.Generator(np.random.PCG64(0))
    rows = [random.integers(2, VOCABULARY, length) for length in LENGTHS]
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "float.onnx"
        backend.export_student(EdgekitForSequenceClassification(config).eval(), "dynamic", max(LENGTHS), graph)
        tensors = backend.quantized_tensors(graph, QUANT["ops"])
        ranges = ranges_of(observe(backend.activations(graph, tensors, rows, PAD)), "minmax")
        needs = {}
        for scheme in SCHEMES:
            for embedding in EMBEDDINGS:
                name = f"{scheme.name}, {embedding} table"
                out = folder / f"{name}.onnx"
                backend.quantize(graph, ranges, QUANT, scheme, Precision(embedding=embedding), out)
                np.save(folder / f"{name}.npy", backend.logits(out, rows, PAD))
                np.savez(folder / f"{name}.rows.npz", *rows)
                needs[name] = backend.oldest(scheme)
    extremes, exact = backend.self_test(folder / "extreme products.onnx")
    np.savez(folder / "extreme products.rows.npz", *extremes)
    np.save(folder / "extreme products.npy", exact)
    return {**needs, "extreme products": "1.12"}


def installed(version: str, root: Path) -> Path | str:
    """Installs a version beside its numpy; returns the folder, or why there is none."""
    folder = root / version
    if not folder.is_dir():
        numpy = "numpy<2" if int(version.split(".")[1]) < 19 else "numpy<3"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
        done = subprocess.run([*command, f"onnxruntime=={version}", numpy, *NEEDS], capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
    return folder


def main() -> None:
    """Installs, runs and prints a Markdown table: the largest difference of a logit as a share of the largest one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "edgekit-runtimes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        needs = write_forms(folder)
        found: dict[str, dict[str, float | str]] = {}
        for version in given.versions:
            place = installed(version, given.root)
            if isinstance(place, str):
                found[version] = dict.fromkeys(needs, place)
                continue
            environment = {**os.environ, "PYTHONPATH": str(place)}
            command = [sys.executable, "-c", CHILD, str(folder)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found[version] = json.loads(done.stdout.splitlines()[-1])
    print("| Form | needs | " + " | ".join(found) + " |")
    print("| --- | ---: |" + " ---: |" * len(found))
    for name, least in needs.items():
        cells = [one[name] if isinstance(one[name], str) else f"{one[name]:.1g}" for one in found.values()]
        print(f"| {name} | {least} | " + " | ".join("no" if len(str(cell)) > 8 else str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    main()
