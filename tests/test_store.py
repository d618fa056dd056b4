"""The store: whole entries or none, whatever is killed, damaged or under way at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekit.artifact import Artifact, Graph, QuantizedGraph, file_digest, tree_digest, write_json
from edgekit.errors import OutputError, StoreError
from edgekit.store import Store, write_atomically

KEY, OTHER = "a" * 64, "b" * 64
PARTS = {"stage": "export", "options": {"epochs": 1}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, key: str = KEY, content: str = "weights", kind: type[Artifact] = Graph) -> Artifact:
    """Runs an action that writes one file."""
    with store.output(key) as folder:
        (folder / "model.onnx").write_text(content)
        return store.commit(key, PARTS, folder, kind, 1.5)


def names(store: Store, folder: str) -> list[str]:
    return sorted(path.name for path in (store.root / folder).iterdir())


def test_finds_what_was_committed(store: Store) -> None:
    made = put(store)
    found = Store(store.root).find(KEY, Graph)
    assert found is not None
    action, artifact = found
    assert artifact == made
    assert artifact.path == store.root / "objects" / artifact.digest
    assert (artifact.path / "model.onnx").read_text() == "weights"
    assert (action.components, action.kind, action.seconds) == (PARTS, "graph", 1.5)
    assert store.record(KEY) == action
    assert names(store, "running") == []


def test_a_missing_action_is_none(store: Store) -> None:
    assert store.find(KEY, Graph) is None
    assert store.record(KEY) is None


def test_an_artifact_of_another_kind_is_not_returned(store: Store) -> None:
    put(store, kind=QuantizedGraph)
    assert store.find(KEY, Graph) is None
    assert store.find(KEY, QuantizedGraph) is not None


def test_equal_outputs_are_one_object(store: Store) -> None:
    assert put(store, KEY).digest == put(store, OTHER).digest
    assert len(names(store, "objects")) == 1
    assert len(names(store, "actions")) == 2


def test_a_damaged_object_is_replaced_by_the_next_commit(store: Store) -> None:
    made = put(store)
    (made.path / "model.onnx").write_text("wrong")
    assert put(Store(store.root), OTHER) == made
    assert (made.path / "model.onnx").read_text() == "weights"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', '{"key": 1}'])
def test_an_unreadable_record_is_deleted(store: Store, content: str) -> None:
    put(store)
    (store.root / "actions" / f"{KEY}.json").write_text(content)
    assert Store(store.root).find(KEY, Graph) is None
    assert names(store, "actions") == []


@pytest.mark.parametrize(("field", "value"), [("digest", ""), ("digest", ".."), ("digest", "/"), ("key", OTHER)])
def test_a_record_that_leads_elsewhere_deletes_nothing_else(store: Store, field: str, value: str) -> None:
    made = put(store)
    put(store, OTHER, "other")
    path = store.root / "actions" / f"{KEY}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    fresh = Store(store.root)
    assert fresh.find(KEY, Graph) is None
    assert made.path.is_dir()
    assert fresh.find(OTHER, Graph) is not None


def test_a_damaged_object_is_deleted_not_returned(store: Store) -> None:
    made = put(store)
    (made.path / "model.onnx").write_text("weighty")
    assert Store(store.root).find(KEY, Graph) is None
    assert names(store, "objects") == names(store, "actions") == []


def test_a_failure_is_not_recorded(store: Store) -> None:
    def half_way() -> None:
        with store.output(KEY) as folder:
            (folder / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_way()
    assert names(store, "running") == names(store, "actions") == names(store, "objects") == []


def test_an_empty_output_is_refused(store: Store) -> None:
    with store.output(KEY) as folder, pytest.raises(StoreError, match="the action export left no file"):
        store.commit(KEY, PARTS, folder, Graph, 0.0)
    assert names(store, "actions") == []


def test_a_symbolic_link_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x")
    with store.output(KEY) as folder:
        (folder / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="is a symbolic link; artifacts hold files only"):
            store.commit(KEY, PARTS, folder, Graph, 0.0)
    assert names(store, "actions") == names(store, "objects") == []


def test_output_starts_empty_after_a_kill(store: Store) -> None:
    (store.root / "running" / KEY).mkdir()
    (store.root / "running" / KEY / "half").write_text("half")
    with store.output(KEY) as folder:
        assert list(folder.iterdir()) == []


def test_the_resume_folder_lives_until_the_action_succeeds(store: Store) -> None:
    (store.resume_dir(KEY) / "checkpoint").write_text("x")
    with pytest.raises(ZeroDivisionError), store.output(KEY):
        raise ZeroDivisionError
    assert [path.name for path in store.resume_dir(KEY).iterdir()] == ["checkpoint"]
    put(store)
    assert names(store, "resume") == []


def test_a_second_claim_waits_and_says_so(store: Store) -> None:
    told: list[str] = []
    held, done = threading.Event(), threading.Event()

    def second() -> None:
        with Store(store.root).claim(KEY, lambda: (told.append("waiting"), held.set())):  # type: ignore[arg-type, func-returns-value]
            told.append("claimed")
        done.set()

    with store.claim(KEY, lambda: told.append("never")):
        threading.Thread(target=second, daemon=True).start()
        assert held.wait(30)
        assert told == ["waiting"]
        told.append("released")
    assert done.wait(30)
    assert told == ["waiting", "released", "claimed"]


def test_claims_of_other_actions_do_not_wait(store: Store) -> None:
    with store.claim(KEY, lambda: None), Store(store.root).claim(OTHER, lambda: pytest.fail("it waited")):
        pass


def test_a_session_ends_with_the_build_however_it_ends(store: Store) -> None:
    with store.session(), Store(store.root).session():
        assert len(names(store, "sessions")) == 2
    with pytest.raises(ZeroDivisionError), store.session():
        raise ZeroDivisionError
    assert names(store, "sessions") == []


def test_prune_refuses_while_another_process_builds(store: Store) -> None:
    put(store)
    program = (
        "import sys; from pathlib import Path; from edgekit.store import Store\n"
        "with Store(Path(sys.argv[1])).session(): print('ready', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", program, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(OutputError, match=f"process {other.pid} is using the store .*; try again when it is done"):
            store.prune(0)
        assert store.find(KEY, Graph) is not None
        other.kill()
        other.wait()
    assert store.prune(0).objects == 0, "a killed process keeps nobody away"
    assert names(store, "sessions") == []


def test_prune_keeps_what_was_used_last(store: Store) -> None:
    old, new = put(store, KEY, "x" * 1000), put(store, OTHER, "y" * 1000)
    os.utime(store.root / "actions" / f"{KEY}.json", (1, 1))
    os.utime(store.root / "actions" / f"{OTHER}.json", (2, 2))
    assert Store(store.root).find(KEY, Graph) is not None  # now it is the one used last
    info = store.prune(1500)
    assert (info.objects, info.actions) == (1, 1)
    assert old.path.is_dir()
    assert not new.path.exists()


def test_prune_removes_leftovers_and_orphans(store: Store) -> None:
    made = put(store)
    (store.resume_dir(OTHER) / "checkpoint").write_text("x")
    for name in ("running", "objects"):
        (store.root / name / OTHER).mkdir()
        (store.root / name / OTHER / "file").write_text("x")
    (store.root / "actions" / f"{OTHER}.json").write_text("{")
    info = store.prune(1 << 20)
    assert names(store, "running") == names(store, "resume") == []
    assert names(store, "objects") == [made.digest]
    assert info.actions == 1


def test_info_counts(store: Store) -> None:
    put(store, content="x" * 1000)
    info = store.info()
    assert (info.root, info.objects, info.actions) == (store.root, 1, 1)
    record = store.root / "actions" / f"{KEY}.json"
    assert info.size_bytes == 1000 + record.stat().st_size


def test_info_while_a_build_deletes_files(store: Store) -> None:
    """Checkpoints come and go during training; counting them must not fail."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            folder = store.resume_dir(KEY) / "checkpoint"
            folder.mkdir()
            for n in range(20):
                (folder / str(n)).touch()
            for n in range(20):
                (folder / str(n)).unlink()
            folder.rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            store.info()
    finally:
        stop.set()
        thread.join()


def test_the_digest_of_a_tree(tmp_path: Path) -> None:
    def tree(name: str, **files: str) -> Path:
        for path, content in files.items():
            target = tmp_path / name / path.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return tmp_path / name

    digest = tree_digest(tree("one", a="1", sub__b="2"))
    assert tree_digest(tree("two", sub__b="2", a="1")) == digest, "neither its place nor the order counts"
    assert len({
        digest,
        tree_digest(tree("content", a="1", sub__b="3")),
        tree_digest(tree("names", a="1", sub__c="2")),
        tree_digest(tree("places", a="1", b="2")),
        tree_digest(tree("more", a="1", sub__b="2", c="")),
        tree_digest(tree("swapped", a="2", sub__b="1")),
    }) == 6  # fmt: skip
    chosen = tree_digest(tmp_path / "one", [tmp_path / "one" / "a"])
    assert chosen == tree_digest(tree("only", a="1"))


def test_json_is_canonical(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": [1, 2.5], "a": "ü"})
    write_json(tmp_path / "two.json", {"a": "ü", "b": [1, 2.5]})
    assert file_digest(tmp_path / "one.json") == file_digest(tmp_path / "two.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()


def test_writing_atomically_leaves_the_old_text_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
