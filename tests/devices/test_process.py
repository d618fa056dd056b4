"""Runs that go wrong: each ends as a DeviceError that says how, and none leaves a process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.devices._process import Run, run_jobs
from edgekit.errors import DeviceError

SLEEPER = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"


def runs_of(folder: Path, *codes: str) -> list[Run]:
    """Returns runs of made-up runners, each with a folder of its own."""
    runs = []
    for index, code in enumerate(codes):
        (folder / str(index)).mkdir()
        (folder / str(index) / "runner.py").write_text(code)
        runs.append(Run((sys.executable,), dict(os.environ), folder / str(index)))
    return runs


def has_ended(pid: int) -> bool:
    """Says whether a process is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_lines_that_are_no_events_are_passed_over_and_progress_is_summed(tmp_path: Path) -> None:
    code = (
        'print("hello"); print("[1]"); print(\'{"event": "progress", "done": 3, "total": 4}\');'
        ' print(\'{"event": "result", "x": 1}\')'
    )
    seen: list[tuple[int, int]] = []
    results = run_jobs("d", runs_of(tmp_path, code, code), lambda done, total: seen.append((done, total)))
    assert [result["x"] for result in results] == [1, 1]
    assert seen[-1] == (6, 8)


def test_a_death_is_told_with_what_was_said_last(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"d: the runner ended with status 3 and left no result: out of luck"):
        run_jobs("d", runs_of(tmp_path, "import sys; sys.stderr.write('out of luck'); sys.exit(3)"))


def test_a_death_by_signal_is_told(tmp_path: Path) -> None:
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    with pytest.raises(DeviceError, match="ended by signal 9"):
        run_jobs("d", runs_of(tmp_path, code))


def test_silence_is_given_up_and_the_process_ended(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no sign of life for 2 s"):
        run_jobs("d", runs_of(tmp_path, SLEEPER), quiet_limit_s=2)
    assert has_ended(int((tmp_path / "0" / "pid").read_text()))


def test_one_failure_ends_the_other_runs(tmp_path: Path) -> None:
    failing = (
        "import pathlib, time\n"
        "while not pathlib.Path('../0/pid').exists(): time.sleep(0.05)\n"
        'print(\'{"event": "error", "message": "too bad"}\')'
    )
    with pytest.raises(DeviceError, match="d: too bad"):
        run_jobs("d", runs_of(tmp_path, SLEEPER, failing))
    assert has_ended(int((tmp_path / "0" / "pid").read_text()))


def test_a_program_that_is_not_there_is_a_device_error(tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path, "")
    with pytest.raises(DeviceError, match="cannot start"):
        run_jobs("d", [Run((str(tmp_path / "nothing"),), run.env, run.folder)])


def test_ctrl_c_ends_the_child(tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path, SLEEPER)
    caller = (
        "import os, pathlib, sys; from edgekit.devices._process import Run, run_jobs;"
        f" run_jobs('d', [Run((sys.executable,), dict(os.environ), pathlib.Path({str(run.folder)!r}))])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", caller],
        stderr=subprocess.DEVNULL,
        # Shells start background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid_file = run.folder / "pid"
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert has_ended(int(pid_file.read_text()))
