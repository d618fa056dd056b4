"""Folders that cannot be written and disks that are full: explained, and nothing half-written stays."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import builds
import pytest
from builds import Sources, TinyBuild, check_store

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def bound_by_permissions() -> list[str]:
    """Returns what goes before a command so that permissions hold for it: root passes over them otherwise."""
    if not ROOT:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root passes over permissions, and setpriv, which takes that away, is not installed")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def errors(stderr: str) -> list[str]:
    assert "Traceback" not in stderr
    return re.findall(r"^Error: (.*)", stderr, re.MULTILINE)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("place", ["out", "cache"])
def test_a_folder_without_permission(place: str, tmp_path: Path, sources: Sources) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    out = (closed if place == "out" else tmp_path) / "dist"
    cache = (closed if place == "cache" else tmp_path) / "cache"
    command = [*bound_by_permissions(), sys.executable, "-m", "edgekit", *sources.args(out)]

    done = subprocess.run(command, env=builds.environment(cache), capture_output=True, text=True)

    assert done.returncode == 2, done.stderr
    (message,) = errors(done.stderr)
    assert re.search(r"cannot be written \(Permission denied\); (give another --out|set EDGEKIT_CACHE)", message)
    assert not list(closed.iterdir())
    assert not out.exists()
    check_store(tmp_path / "cache")


def mounts(folder: Path) -> list[str]:
    """Returns the command that runs `sh -c` with mounts of its own; skips where that is not permitted."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    command = ["unshare", "--mount"] if ROOT else ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    return [*command, "sh", "-c"]


def build_on_small_disk(
    sources: Sources, disk: Path, kbytes: int, cache: Path, out: Path, seen: Path, fill: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Builds with a disk of `kbytes` mounted at `disk`, copies what is on it to `seen`, and unmounts it.

    Args:
        fill: is copied to the disk first.
    """
    script = (
        "disk=$1 seen=$2 fill=$3; shift 3; mount -t tmpfs -o size=" + f"{kbytes}k" + ' tmpfs "$disk" || exit 99; '
        'test -z "$fill" || cp -r "$fill"/. "$disk"; "$@"; code=$?; cp -r "$disk" "$seen"; exit $code'
    )
    command = [*mounts(disk), script, "sh", str(disk), str(seen), str(fill or "")]
    command += [sys.executable, "-m", "edgekit", *sources.args(out)]
    return subprocess.run(command, env=builds.environment(cache), capture_output=True, text=True)


@pytest.mark.parametrize("kbytes", [16, 120, 360])
def test_the_cache_on_a_full_disk(kbytes: int, sources: Sources, tmp_path: Path) -> None:
    """The sizes let it fill up in one early stage or another: in what is written, mapped or saved by a library."""
    cache, out = tmp_path / "cache", tmp_path / "dist"
    cache.mkdir()
    done = build_on_small_disk(sources, cache, kbytes, cache, out, tmp_path / "seen")
    assert done.returncode == 2, done.stderr
    (message,) = errors(done.stderr)
    assert re.search(r"the disk that holds .*store is full; free some space", message)
    assert not out.exists()
    check_store(tmp_path / "seen")


def test_the_output_on_a_full_disk(tiny_build: TinyBuild, tmp_path: Path) -> None:
    cache, out = tiny_build.copy_cache(tmp_path / "cache"), tmp_path / "disk"
    out.mkdir()
    done = build_on_small_disk(tiny_build.sources, out, 40, cache, out, tmp_path / "seen")
    assert done.returncode == 2, done.stderr
    (message,) = errors(done.stderr)
    assert "No space left on device" in message
    assert str(out) in message
    assert not list((tmp_path / "seen").iterdir())
    check_store(cache)


def test_an_output_disk_that_fills_up_keeps_the_bundle_that_is_there(tiny_build: TinyBuild, tmp_path: Path) -> None:
    cache, out = tiny_build.copy_cache(tmp_path / "cache"), tmp_path / "disk"
    out.mkdir()
    size = sum(p.stat().st_size for p in tiny_build.bundle.rglob("*") if p.is_file())
    room = size * 3 // 2 // 1024
    done = build_on_small_disk(tiny_build.sources, out, room, cache, out, tmp_path / "seen", tiny_build.out)
    assert done.returncode == 2, done.stderr
    assert len(errors(done.stderr)) == 1
    assert [path.name for path in (tmp_path / "seen").iterdir()] == [builds.TARGET]
    assert builds.manifest(tmp_path / "seen" / builds.TARGET) == builds.manifest(tiny_build.bundle)


def test_a_full_temporary_folder_is_named(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """The devices write their jobs there; the store and the output have room."""
    cache, out, disk = tiny_build.copy_cache(tmp_path / "cache"), tmp_path / "dist", tmp_path / "disk"
    disk.mkdir()
    builds.forget(cache, tiny_build.bundle, ["evaluate"])
    script = 'mount -t tmpfs -o size=8k tmpfs "$1" || exit 99; export TMPDIR="$1"; shift; exec "$@"'
    command = [*mounts(disk), script, "sh", str(disk), sys.executable, "-m", "edgekit", *tiny_build.sources.args(out)]
    done = subprocess.run(command, env=builds.environment(cache), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (message,) = errors(done.stderr)
    assert f"the disk that holds {disk} is full" in message
    assert not out.exists()
    check_store(cache)
