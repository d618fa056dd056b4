"""Makes the peers' venvs and runs their files in them, each way in a process and a folder of its own."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer import BUILT, Peer

from edgekit.devices._process import runtime_env

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
PEERS = (
    "peer_teacher",
    "peer_optimum",
    "peer_onnxruntime",
    "peer_openvino",
    "peer_olive",
    "peer_distilbert",
    "peer_model2vec",
    "peer_tfidf",
)
TEACHER = "peer_teacher"
STAMP = "requirements.sha256"
SHARED = ("peer.py", "graphs.py")  # what a peer's file imports of this folder
LOG_TAIL = 300  # characters of a log that a reason quotes
# No network while a peer works, and no reports to its maker.
QUIET = {"HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "CI": "true", "OMP_WAIT_POLICY": "PASSIVE"}


class PeerError(Exception):
    """A peer cannot be installed, or does not work on this model; the text is the reason that its row shows."""


@dataclass(frozen=True)
class Way:
    """One way that was built.

    Attributes:
        peer: module of the peer.
        key: of its `WAYS`.
        name: in the table.
        folder: what it was built into.
        files: what is shipped; the first is what is loaded.
        seconds: the whole process that built it.
        chosen: what was chosen on dev, in words.
        facts: as the peer gave them.
        versions: of the packages of its requirements, as installed.
    """

    peer: str
    key: str
    name: str
    folder: Path
    files: Sequence[str]
    seconds: float
    chosen: str
    facts: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Size of what is shipped, without a tokenizer's file."""
        return sum((self.folder / file).stat().st_size for file in self.files)


def open_peer(name: str) -> Peer:
    """Imports a peer's file, which needs nothing but the standard library for that."""
    peer: Peer = importlib.import_module(name)  # type: ignore[assignment]
    return peer


def make_venv(work: Path, name: str) -> Path:
    """Makes a peer's venv, or brings it up to its requirements; returns its Python.

    Raises:
        PeerError: the requirements cannot be installed.
    """
    folder, requirements = work / "venvs" / name, REQUIREMENTS / f"{name}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python, stamp = folder / "bin" / "python", folder / STAMP
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    if not python.is_file():
        run([sys.executable, "-m", "venv", str(folder)], work / "venvs" / f"{name}.log")
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-r", str(requirements)]
    run(install, work / "venvs" / f"{name}.log")
    stamp.write_text(wanted, encoding="ascii")
    return python


def installed(python: Path, name: str) -> dict[str, str]:
    """Returns the versions of the packages that a requirements file names."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    packages = [line.partition("==")[0].partition("[")[0] for line in lines if "==" in line]
    code = "import json, sys; from importlib.metadata import version; "
    code += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def build(name: str, key: str, job: Mapping[str, str | int | None], python: Path, out: Path, before: float) -> Way:
    """Builds one way in its venv, or takes it from an earlier run that had the same job, inputs, files and versions.

    Args:
        name: module of the peer.
        key: of its `WAYS`.
        job: what the peer is told beside its way and folder: see `peer.Job`; `inputs` are the digests of what it reads.
        python: of its venv.
        out: folder to build into; what an earlier run with something else left there is removed.
        before: seconds that making the teacher's graph took, part of the time of who starts from it.

    Raises:
        PeerError: it fails.
    """
    peer = open_peer(name)
    script, log, record = HERE / f"{name}.py", out.with_suffix(".log"), out.with_suffix(".made.json")
    text = json.dumps({**job, "way": key, "out": str(out)}, indent=1)
    versions = installed(python, peer.VENV)
    files = [(HERE / file).read_text(encoding="utf-8") for file in (script.name, *SHARED)]
    wanted = hashlib.sha256(json.dumps([text, versions, *files]).encode()).hexdigest()
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if made.get("key") != wanted:
        record.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        write = out.with_suffix(".job.json")
        write.write_text(text, encoding="utf-8")
        start = time.monotonic()
        run([str(python), str(script), str(write)], log)
        made = {"key": wanted, "seconds": time.monotonic() - start}
        record.write_text(json.dumps(made), encoding="utf-8")
    seconds = made["seconds"] + (before if peer.FROM_GRAPH else 0.0)
    built = json.loads((out / BUILT).read_text(encoding="utf-8"))
    return Way(name, key, peer.WAYS[key], out, built["files"], seconds, built["chosen"], built["facts"], versions)


def run(command: Sequence[str], log: Path) -> str:
    """Runs a command on one core; returns what it printed.

    That is kept beside `log`, which has its errors, so that a run of hours can be followed.

    Raises:
        PeerError: it fails, with the last that it said.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **runtime_env(1), **QUIET}
    environment.pop("PYTHONPATH", None)  # the bench's own packages are not the peer's
    printed = log.with_suffix(".out")
    with log.open("w", encoding="utf-8") as stream, printed.open("w", encoding="utf-8") as out:
        done = subprocess.run(command, env=environment, stdout=out, stderr=stream, check=False)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise PeerError(f"its process was ended by {name}; for SIGKILL the usual reason is that memory ran out")
    if done.returncode:
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        said = (errors or lines or ["it ended without a word"])[-1]
        raise PeerError(said.strip()[:LOG_TAIL])
    return printed.read_text(encoding="utf-8")
