"""What peers are given: rows that come back as they were written, and modules that every venv can import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import building
import numpy as np
import pytest
from building import HERE, PEERS, REQUIREMENTS, PeerError, build, open_peer, run
from peer import Split, calibration_rows, feed, read_split, write_split


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [np.arange(1, length + 1) for length in (3, 1, 7)]
    write_split(tmp_path, "dev", Split(["a b", "ü", ""], rows, np.array([2, 0, 1])))
    found = read_split(tmp_path, "dev")
    assert found.texts == ["a b", "ü", ""]
    assert [row.tolist() for row in found.ids] == [row.tolist() for row in rows]
    assert found.expected.tolist() == [2, 0, 1]
    drawn = calibration_rows(found, 2)
    assert len(drawn) == 2
    assert all(any(np.array_equal(one, row) for row in rows) for one in drawn)


def test_a_row_is_fed_unpadded() -> None:
    fed = feed(["input_ids", "attention_mask", "token_type_ids"], np.array([5, 6, 7]))
    assert {name: value.tolist() for name, value in fed.items()} == {
        "input_ids": [[5, 6, 7]],
        "attention_mask": [[1, 1, 1]],
        "token_type_ids": [[0, 0, 0]],
    }


def test_every_file_is_a_peer_and_every_name_is_used_once() -> None:
    assert {path.stem for path in HERE.glob("peer_*.py")} == set(PEERS)
    names = [name for peer in PEERS for name in open_peer(peer).WAYS.values()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", PEERS)
def test_peer_keeps_to_the_interface(name: str) -> None:
    peer = open_peer(name)
    assert peer.TAKES in ("tokens", "text")
    assert callable(peer.build)
    assert peer.RUNTIME == "onnxruntime" or callable(peer.load)  # type: ignore[attr-defined]
    lines = (REQUIREMENTS / f"{peer.VENV}.txt").read_text().split()
    assert all("==" in line for line in lines)


@pytest.mark.parametrize("name", [*PEERS, "peer"])
def test_head_of_a_peer_needs_the_standard_library_alone(name: str) -> None:
    tree = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    heads = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in heads}
    assert {module.partition(".")[0] for module in modules} <= {*sys.stdlib_module_names, "peer"}


def test_a_failure_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log" / "peer.log"
    with pytest.raises(PeerError, match=r"^ValueError: no such calibrator$"):
        run([sys.executable, "-c", "print('begun'); raise ValueError('no such calibrator')"], log)
    assert log.with_suffix(".out").read_text() == "begun\n"
    with pytest.raises(PeerError, match="SIGKILL"):
        run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], log)
    assert run([sys.executable, "-c", "import os; print(os.environ['HF_HUB_OFFLINE'])"], log) == "1\n"


def test_what_was_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "peer_fake.py"
    source.write_text(FAKE)
    for name in building.SHARED:
        (tmp_path / name).write_text((HERE / name).read_text(encoding="utf-8"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(building, "HERE", tmp_path)
    monkeypatch.setattr(building, "installed", lambda python, venv: {"some": "1"})
    job = {"teacher": "t", "graph": "g", "rows": "r", "epochs": None, "inputs": "x"}

    def made(job: dict[str, str | None], before: float = 0.0) -> tuple[float, str]:
        way = build("peer_fake", "one", job, Path(sys.executable), tmp_path / "out", before)
        assert (way.name, way.chosen, way.bytes) == ("fake way", "x", 32)
        return way.seconds, (way.folder / way.files[0]).read_text()

    first = made(job)
    assert made(job) == first
    assert made(job, 5.0) == (first[0] + 5, first[1])  # the export that it starts from
    other = made({**job, "inputs": "y"})
    assert other[1] != first[1]
    source.write_text(FAKE.replace('"x"', '"x" ""'))
    assert made({**job, "inputs": "y"})[1] != other[1]


FAKE = """
import uuid
from peer import Built, main

VENV, TAKES, RUNTIME, FROM_GRAPH, WAYS = "fake", "text", "fake", True, {"one": "fake way"}


def build(job):
    (job.out / "model").write_text(uuid.uuid4().hex)
    return Built(["model"], "x")


if __name__ == "__main__":
    main(build)
"""
