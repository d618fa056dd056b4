"""The 64-bit Arm userland in the cache folder: whether it is there and current, and how a guest is started in it.

`_sysroot_build.py` makes it. One sysroot serves every emulated processor: what differs between them, /proc/cpuinfo,
lies in an overlay of a few links that each run makes in its own temporary folder, so that two processors used at
once do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.devices import FORMATS, RUNTIMES
from edgekit.devices._arm_cpus import cpuinfo
from edgekit.devices._host import installed, usable_cores
from edgekit.errors import DeviceError
from edgekit.paths import cache_dir

LAYOUT = 1  # raise it when the build changes what it makes: older sysroots are then out of date
EMULATOR = "qemu-aarch64"
INSTALL_EMULATOR = "apt install qemu-user"
PLUGIN = "insn_count.so"
PLUGIN_SOURCE = Path(__file__).with_name("insn_count.c")
STAMP = "stamp.json"
MARK_FD = 1_000_003  # a file descriptor that no process has open: closing it marks a point in the count


@dataclass(frozen=True)
class Sysroot:
    """An Arm userland.

    Attributes:
        folder: holds `root` (the distribution's files), `site` (the wheels), the plugin and the stamp.
        python: name of the interpreter in `root/usr/bin`.
    """

    folder: Path
    python: str

    def command(self, cpu: str, overlay: Path, count_into: str | None = None) -> list[str]:
        """Returns the command that starts the guest's Python.

        Args:
            cpu: the processor to emulate.
            overlay: made by `write_overlay`, or the bare `root`.
            count_into: file, from the working folder, for the number of instructions executed up to each
                mark; None to not count, which is faster.
        """
        # qemu takes a comma as the end of a path, unless it is doubled.
        plugin = ",out=".join(path.replace(",", ",,") for path in (str(self.folder / PLUGIN), count_into or ""))
        counting = [] if count_into is None else ["-plugin", plugin]
        interpreter = str(self.folder / "root" / "usr" / "bin" / self.python)
        return [shutil.which(EMULATOR) or EMULATOR, "-cpu", cpu, *counting, "-L", str(overlay), interpreter]

    def env(self) -> dict[str, str]:
        """Returns the whole environment of a guest: fixed, because its size moves the stack, and counts with it."""
        return {
            "PYTHONPATH": str(self.folder / "site"),
            "PYTHONNOUSERSITE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }

    def write_overlay(self, folder: Path, cpu: str, features: str) -> Path:
        """Makes a folder that shows the sysroot's files and the processor's /proc/cpuinfo; returns that folder."""
        (folder / "proc").mkdir(parents=True)
        (folder / "proc" / "cpuinfo").write_text(cpuinfo(cpu, features, usable_cores()))
        for name in ("lib", "usr"):
            (folder / name).symlink_to(self.folder / "root" / name)
        return folder


def sysroot_dir() -> Path:
    """Returns the folder of the sysroot, which need not exist."""
    return cache_dir() / "devices" / "qemu-aarch64"


def read_stamp() -> Mapping[str, Any] | None:
    """Returns what the sysroot was made of, None if there is none."""
    try:
        stamp: Mapping[str, Any] = json.loads((sysroot_dir() / STAMP).read_text())
    except (OSError, json.JSONDecodeError):
        return None  # not prepared, or damaged: either way prepare makes it anew
    return stamp


def stamp_digest(stamp: Mapping[str, Any], runtime: str) -> str:
    """Returns the sha256 of a stamp, hex, without the runtimes beside one: those change nothing that it does."""
    kept = {name: value for name, value in stamp.items() if name == runtime or name not in RUNTIMES}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def wanted_stamp() -> dict[str, Any]:
    """Returns the entries of a stamp that this machine's installation determines."""
    return {
        "layout": LAYOUT,
        **{name: installed(RUNTIMES[name][0]) or "none" for name in FORMATS.values()},
        "qemu": qemu_version(),
        "insn_count": hashlib.sha256(PLUGIN_SOURCE.read_bytes()).hexdigest(),
    }


def qemu_version() -> str:
    """Returns the emulator's version, `none` if it is not installed."""
    emulator = shutil.which(EMULATOR)
    if emulator is None:
        return "none"
    asked = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"version (\S+)", asked.stdout)
    return found.group(1) if found else "unknown"


def not_ready(uri: str, runtime: str = "onnxruntime") -> str | None:
    """Says why the sysroot cannot be used for `uri` with a runtime now and what to do, or returns None if it can."""
    if platform.system() != "Linux":
        return f"user-mode emulation needs Linux, this is {platform.system()}"
    if shutil.which(EMULATOR) is None:
        return f"{EMULATOR} is not on the PATH: {INSTALL_EMULATOR}"
    again = f"run `edgekit devices prepare {uri}`"
    stamp = read_stamp()
    if stamp is None:
        return f"the Arm userland is not there yet: {again}"
    wanted = wanted_stamp()
    if runtime not in wanted:
        return f"{uri} is a CPU, which {runtime} is not for"
    package, install = RUNTIMES[runtime]
    if wanted[runtime] == "none":
        return f"{package} is not installed here, whose version the userland takes over: pip install {install}"
    changed = [
        f"{key} was {stamp.get(key, 'none')}, is {value}" if key in (*RUNTIMES, "qemu") else f"{key} changed"
        for key, value in wanted.items()
        if stamp.get(key) != value and (key not in RUNTIMES or key == runtime)
    ]
    return f"the Arm userland is out of date ({'; '.join(changed)}): {again}" if changed else None


def open_sysroot(uri: str, runtimes: Sequence[str]) -> tuple[Sysroot, Mapping[str, Any]]:
    """Returns the sysroot and its stamp.

    Raises:
        DeviceError: it is not there or out of date, or lacks one of the runtimes.
    """
    reason = next((reason for runtime in runtimes if (reason := not_ready(uri, runtime)) is not None), None)
    stamp = read_stamp()
    if reason is not None or stamp is None:
        raise DeviceError(f"{uri}: {reason}")
    return Sysroot(sysroot_dir(), str(stamp["python"])), stamp
