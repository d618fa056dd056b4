"""Lets the tests of every folder import the shared builders beside this file, and keeps torch to one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from builds import Sources, TinyBuild

    from edgekit.artifact import Candidates

sys.path.insert(0, str(Path(__file__).parent))

# Before torch is loaded, and for the processes that tests start: the models are so small that a second thread only
# costs, and one that spins while it waits takes a core from the next test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A test that forgets `local_files_only` fails here instead of passing by way of the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The tiny teacher, base model, data and target."""
    import builds

    return builds.write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def tiny_build(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> TinyBuild:
    """One finished build in a cache of its own, for tests that only read it."""
    import builds

    root = tmp_path_factory.mktemp("build")
    done = builds.run(sources.args(root / "dist"), root / "cache")
    assert done.returncode == 0, done.stderr
    return builds.TinyBuild(sources, root / "cache", root / "dist")


@pytest.fixture(scope="session")
def candidates(tiny_build: TinyBuild, tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    """Every form that the target's runtime loads, of the finished build's student; the build itself made one."""
    import builds
    import tiny

    from edgekit.stages.quantize import Quantize

    given = [builds.made(tiny_build, kind) for kind in Quantize.IN]
    made: Candidates = tiny.run_stage(Quantize(), given, tmp_path_factory.mktemp("candidates"))
    return made
