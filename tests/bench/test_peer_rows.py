"""What peers are given: rows that come back as they were written, and modules that every venv can import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from building import HERE, PEERS, REQUIREMENTS, PeerError, open_peer, run
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
    assert "begun" in log.read_text()
    assert run([sys.executable, "-c", "import os; print(os.environ['HF_HUB_OFFLINE'])"], log) == "1\n"
