"""Content-addressed store of artifacts and the record of the actions that made them.

Layout under the root::

    objects/<digest>/       an artifact; the name is the digest of its files
    actions/<key>.json      which artifact an action (stage, options, inputs, tools, seed) made, written last
    running/<key>/          output of an action under way; removed when it fails
    resume/<key>/           what a killed action continues from (training checkpoints); removed when it succeeds
    locks/  sessions/       one lock an action; one lock a process, so that nothing is pruned under a build

An object is written in full, synced, then renamed into place; its action follows. So a kill at any moment leaves either
nothing or a whole entry. Failures are never recorded. An object whose digest no longer matches is deleted and reported
as missing: a damaged entry is rebuilt, never returned.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from edgekit.artifact import Artifact, tree_digest
from edgekit.errors import OutputError, StoreError

A = TypeVar("A", bound=Artifact)

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Action:
    """One entry of the record: what was run, on what, and what came out.

    Attributes:
        key: sha256 of `components`.
        components: all that the output depends on, as canonical JSON values.
        kind: the class of the output artifact (`Artifact.KIND`).
        digest: of the output.
        seconds: run time.
        created: Unix time in seconds.
    """

    key: str
    components: Mapping[str, Any]
    kind: str
    digest: str
    seconds: float
    created: float


@dataclass(frozen=True)
class StoreInfo:
    """Size of a store."""

    root: Path
    objects: int
    actions: int
    size_bytes: int


class Store:
    """A store on disk, shared by any number of processes of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: set[str] = set()
        for name in ("objects", "actions", "running", "resume", "locks", "sessions"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def find(self, key: str, kind: type[A]) -> tuple[Action, A] | None:
        """Returns the recorded action and its verified artifact, or None if there is no whole one.

        A damaged object, or a record that cannot be read, is deleted.
        """
        record = self._record(key)
        if record is None or record.kind != kind.KIND:
            return None
        path = self.root / "objects" / record.digest
        if record.digest not in self._verified:
            if not path.is_dir() or not _matches(path, record.digest):
                shutil.rmtree(path, ignore_errors=True)
                self._action_path(key).unlink(missing_ok=True)
                return None
            self._verified.add(record.digest)
        os.utime(self._action_path(key))
        return record, kind(path, record.digest)

    def record(self, key: str) -> Action | None:
        """Returns the record of an action without looking at its object: for explanations."""
        return self._record(key)

    @contextmanager
    def claim(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Holds the action's lock: of two builds of the same thing at once, one runs it and the other finds it.

        Args:
            key: of the action.
            waiting: called once if another process holds the lock, before waiting for it.
        """
        lock = FileLock(self.root / "locks" / key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Marks this process as using the store, which keeps `prune` away."""
        # Containers that share a store also share process ids, and a process may build in several threads.
        path = self.root / "sessions" / f"{os.getpid()}-{secrets.token_hex(4)}"
        lock = FileLock(path)
        with FileLock(self.root / "prune.lock"):  # a prune under way ends first
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
            path.unlink(missing_ok=True)

    def resume_dir(self, key: str) -> Path:
        """The folder that survives a kill of the action, made if need be."""
        path = self.root / "resume" / key
        path.mkdir(exist_ok=True)
        return path

    @contextmanager
    def output(self, key: str) -> Iterator[Path]:
        """Gives an empty folder to write the output to; it is removed unless `commit` has moved it."""
        path = self.root / "running" / key
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # it stays where there is something to continue from
                (self.root / "resume" / key).rmdir()

    def commit(self, key: str, components: Mapping[str, Any], folder: Path, kind: type[A], seconds: float) -> A:
        """Moves a finished output into the store and records its action; the caller holds the action's lock.

        Raises:
            OSError: the disk is full or not writable; nothing is recorded then.
            StoreError: the output is empty.
        """
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if not files:
            raise StoreError(f"the action {components.get('stage')} left no file")
        for path in files:
            _sync(path)
        digest = tree_digest(folder)
        destination = self.root / "objects" / digest
        if not (destination.is_dir() and _matches(destination, digest)):
            shutil.rmtree(destination, ignore_errors=True)
            try:
                os.replace(folder, destination)
            except OSError:  # another action has just put the same bytes there
                if not _matches(destination, digest):
                    raise
            _sync(destination.parent)
        self._verified.add(digest)
        action = Action(key, components, kind.KIND, digest, seconds, time.time())
        write_atomically(self._action_path(key), json.dumps(asdict(action), indent=2, sort_keys=True) + "\n")
        shutil.rmtree(self.root / "resume" / key, ignore_errors=True)
        return kind(destination, digest)

    def info(self) -> StoreInfo:
        """Counts entries and bytes."""
        objects = sum(1 for _ in (self.root / "objects").iterdir())
        actions = sum(1 for _ in (self.root / "actions").glob("*.json"))
        return StoreInfo(self.root, objects, actions, _size_bytes(self.root))

    def prune(self, keep_bytes: int) -> StoreInfo:
        """Deletes unfinished leftovers and the least recently used entries until the rest fits `keep_bytes`.

        Raises:
            OutputError: another process is using the store.
        """
        with FileLock(self.root / "prune.lock"):  # no session starts meanwhile
            self._refuse_if_busy()
            return self._prune(keep_bytes)

    def _prune(self, keep_bytes: int) -> StoreInfo:
        for name in ("running", "resume", "locks"):
            for path in (self.root / name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        actions = sorted((self.root / "actions").glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        kept: set[str] = set()
        total = 0
        for path in actions:
            record = self._record(path.stem)
            folder = self.root / "objects" / (record.digest if record else "")
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if record else 0
            new = size if record and record.digest not in kept else 0
            if record is None or not folder.is_dir() or total + new > keep_bytes:
                path.unlink(missing_ok=True)
                continue
            kept.add(record.digest)
            total += new
        for folder in (self.root / "objects").iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder)
        return self.info()

    def _refuse_if_busy(self) -> None:
        for path in (self.root / "sessions").iterdir():
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                raise OutputError(
                    f"process {path.name.partition('-')[0]} is using the store {self.root}; try again when it is done"
                ) from None
            path.unlink(missing_ok=True)

    def _action_path(self, key: str) -> Path:
        return self.root / "actions" / f"{key}.json"

    def _record(self, key: str) -> Action | None:
        path = self._action_path(key)
        try:
            action = Action(**json.loads(path.read_text(encoding="utf-8")))
            if action.key != key or not _DIGEST.fullmatch(action.digest):
                raise ValueError(f"{path} records another action, or no digest")
            return action
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # cut off or edited: as good as absent
            path.unlink(missing_ok=True)
            return None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new, whole, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, what: str) -> None:
    """Refuses a file that could not be written, before time is spent.

    Args:
        path: of the file.
        what: it holds, for the message.

    Raises:
        OutputError: it is a folder, or its folder is missing or cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{what} cannot be written to {path}: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{what} cannot be written to {path}: {error.strerror}") from error


def write_file(path: Path, what: str, text: str) -> None:
    """Writes a file that the user asked for, whole or not at all; arguments as `check_writable`.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise OutputError(f"{what} cannot be written to {path}: {error.strerror}") from error


def _size_bytes(root: Path) -> int:
    """Returns the bytes of all files under a folder, of which a build may delete some at this moment."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _matches(path: Path, digest: str) -> bool:
    try:
        return tree_digest(path) == digest
    except (OSError, ValueError):
        return False
