"""Makes the 64-bit Arm userland that qemu runs the runner in, without root.

`apt-get` resolves and downloads the distribution's own arm64 Python into a private state folder, with an empty
package status, so that the host's package database is neither read nor touched; `dpkg -x` unpacks without
installing; `pip --platform` fetches the aarch64 wheels of the very runtimes that are installed here. Then the plugin
that counts instructions is compiled, and the emulated processors are asked for their features. All of it
happens in a temporary folder beside the final one, which is moved into place whole, under a file lock.

Not debootstrap or a container image: both want root or a daemon, and several times the space.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgekit.devices import FORMATS, RUNTIMES
from edgekit.devices._arm_cpus import AT_HWCAP, AT_HWCAP2, CPUS, feature_names
from edgekit.devices._host import installed
from edgekit.devices._process import copy_runner, runtime_env
from edgekit.devices._sysroot import (
    EMULATOR,
    INSTALL_EMULATOR,
    MARK_FD,
    PLUGIN,
    PLUGIN_SOURCE,
    STAMP,
    Sysroot,
    not_ready,
    sysroot_dir,
    wanted_stamp,
)
from edgekit.errors import DeviceError

# python3-minimal is whichever Python the distribution has; the rest is what the wheels link against.
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
NUMPY = "numpy>=2,<3"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
PLUGIN_VERSIONS = range(1, 10)
LIMIT_S = 1800
TAIL_CHARS = 800
INSTALL = {
    EMULATOR: INSTALL_EMULATOR,
    "apt-get": "a Debian or Ubuntu system",
    "dpkg": "apt install dpkg",
    "gcc": "apt install gcc libc6-dev",
}
# What the runner imports, at its start and later: loaded once with bytecode written, since compiling it under emulation
# takes seconds a start.
WARM_UP = "import runner, resource, zipfile"
ASK_HWCAP = (
    "import ctypes; ask = ctypes.CDLL(None).getauxval; ask.restype = ctypes.c_ulong;"
    f" print(ask({AT_HWCAP}), ask({AT_HWCAP2}))"
)
MAKE_MARK = f"import contextlib, os\nwith contextlib.suppress(OSError): os.close({MARK_FD})"

Report = Callable[[str], None]


def build(uri: str, report: Report) -> None:
    """Makes the sysroot unless it is there and current.

    Raises:
        DeviceError: a program is missing or a step failed; nothing is left behind.
    """
    check_programs(uri)
    final = sysroot_dir()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=final.parent) as temporary:
            if all(not_ready(uri, runtime) is None for runtime in runtimes_here()):
                report(f"{uri}: ready in {final}")
                return
            made = Path(temporary) / "made"
            fill(made, Path(temporary), report)
            if final.exists():
                os.replace(final, Path(temporary) / "old")  # a folder that is not empty cannot be replaced
            os.replace(made, final)
    except OSError as error:
        raise DeviceError(f"{uri}: cannot make {final}: {error}") from error
    report(f"{uri}: ready in {final}")


def check_programs(uri: str) -> None:
    """Checks that everything that a build starts is there.

    Raises:
        DeviceError: something is not, with what to install for all of it.
    """
    missing = [f"{name} ({how})" for name, how in INSTALL.items() if shutil.which(name) is None]
    if util.find_spec("pip") is None:
        missing.append(f"pip ({sys.executable} -m ensurepip)")
    if "onnxruntime" not in runtimes_here():
        missing.append("onnxruntime (pip install onnxruntime)")
    if missing:
        raise DeviceError(f"{uri} cannot be prepared here, there is no {', no '.join(missing)}")


def fill(folder: Path, scratch: Path, report: Report) -> None:
    """Makes a whole sysroot in a new folder.

    Raises:
        DeviceError: a step failed.
    """
    root = folder / "root"
    root.mkdir(parents=True)
    report("resolving and downloading the distribution's arm64 Python")
    packages = download_packages(scratch / "apt")
    report(f"unpacking {len(packages)} packages")
    for package in packages:
        run(["dpkg", "-x", str(package), str(root)], "unpack a package")
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")  # distributions that have merged the two ship files under usr alone
    python = interpreter_name(root)
    wanted, runtimes = wanted_stamp(), runtimes_here()
    report(f"downloading {', '.join(f'{one} {wanted[one]}' for one in runtimes)} and numpy for aarch64 and {python}")
    wheels = [f"{RUNTIMES[one][0]}=={wanted[one]}" for one in runtimes]
    install_wheels(folder / "site", python, [*wheels, NUMPY])
    sysroot = Sysroot(folder, python)
    report("compiling the instruction counter, asking the emulated processors")
    features = {cpu: ask_features(sysroot, cpu) for cpu in CPUS}
    plugin_version = compile_plugin(sysroot, scratch)
    warm_up(sysroot, scratch, features)
    stamp: Mapping[str, Any] = {
        **wanted,
        "python": python,
        "numpy": installed_version(folder / "site", "numpy"),
        "packages": sorted(package.name for package in packages),
        "plugin_version": plugin_version,
        "features": features,
    }
    (folder / STAMP).write_text(json.dumps(stamp, indent=1))


def runtimes_here() -> list[str]:
    """Names the runtimes of CPUs that are installed on this machine: those that a sysroot gets."""
    return [name for name in FORMATS.values() if installed(RUNTIMES[name][0]) is not None]


def run(command: Sequence[str], purpose: str, env: Mapping[str, str] | None = None) -> str:
    """Runs one command and returns its stdout.

    Raises:
        DeviceError: it failed or took longer than `LIMIT_S`.
    """
    try:
        done = subprocess.run(
            command,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"cannot {purpose}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-TAIL_CHARS:]
        raise DeviceError(f"cannot {purpose}: {Path(command[0]).name} ended with status {done.returncode}: {said}")
    return done.stdout


def download_packages(folder: Path) -> list[Path]:
    """Downloads the arm64 packages and all that they depend on, and returns the files.

    Raises:
        DeviceError: the archive cannot be reached or has no arm64 packages.
    """
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    options = [
        "-qq",
        "-oAPT::Architecture=arm64",
        "-oAPT::Architectures=arm64",
        "-oAPT::Sandbox::User=root",  # as root, apt would download as a user who cannot enter this folder
        f"-oDir::State={folder}",
        f"-oDir::State::Lists={folder / 'lists'}",
        f"-oDir::State::status={folder / 'status'}",
        f"-oDir::Cache={folder / 'cache'}",
    ]
    env = {**os.environ, "LC_ALL": "C"}
    run(["apt-get", *options, "update"], "read the package lists", env)
    purpose = (
        "download arm64 packages (if the package sources serve another architecture only, as Ubuntu's do, name"
        " sources for arm64 in a file that the environment variable APT_CONFIG points to, as Dir::Etc::sourcelist)"
    )
    wanted = ["install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES]
    run(["apt-get", *options, *wanted], purpose, env)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def interpreter_name(root: Path) -> str:
    """Returns the name of the Python in a root, such as `python3.11`.

    Raises:
        DeviceError: there is none.
    """
    found = sorted(path.name for path in (root / "usr" / "bin").glob("python3.*") if path.name[8:].isdigit())
    if not found:
        raise DeviceError("the distribution's packages hold no usr/bin/python3.*")
    return found[-1]


def install_wheels(site: Path, python: str, requirements: Sequence[str]) -> None:
    """Unpacks aarch64 wheels into a folder, without what they depend on: the runner imports none of that.

    Raises:
        DeviceError: there is no such wheel for this Python, or the index cannot be reached.
    """
    version = python.removeprefix("python")
    run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"),
            *("--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(site)),
            *("--python-version", version, "--implementation", "cp"),
            *(f"--platform={name}" for name in PLATFORMS),
            *requirements,
        ],
        f"install {' and '.join(requirements)} for aarch64 and Python {version}",
    )


def installed_version(site: Path, name: str) -> str:
    """Returns the version of a package in a folder of wheels."""
    return next(found.version for found in metadata.distributions(name=name, path=[str(site)]))


def ask_features(sysroot: Sysroot, cpu: str) -> str:
    """Returns the features of an emulated processor, from the auxiliary vector that a guest sees.

    Raises:
        DeviceError: the guest does not start.
    """
    command = [*sysroot.command(cpu, sysroot.folder / "root"), "-c", ASK_HWCAP]
    hwcap, hwcap2 = run(command, f"start Python on an emulated {cpu}", sysroot.env()).split()
    return feature_names(int(hwcap), int(hwcap2))


def compile_plugin(sysroot: Sysroot, scratch: Path) -> int:
    """Compiles the plugin for the API version that this qemu accepts, and returns that version.

    qemu says which versions it takes in words that change from release to release, so each is tried in turn: a
    refusal comes before the guest starts.

    Raises:
        DeviceError: it does not compile, or no version is accepted.
    """
    refusal: DeviceError | None = None
    total = scratch / "count.txt"
    for version in PLUGIN_VERSIONS:
        options = ["-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={version}", f"-DMARK_FD={MARK_FD}"]
        target = sysroot.folder / PLUGIN
        run(["gcc", *options, "-o", str(target), str(PLUGIN_SOURCE)], "compile the instruction counter")
        command = sysroot.command("cortex-a76", sysroot.folder / "root", str(total))
        try:
            run([*command, "-c", MAKE_MARK], "count instructions", sysroot.env())
        except DeviceError as error:
            refusal = refusal or error
            continue
        if total.exists() and int(total.read_text()) > 0:
            return version
    raise DeviceError(f"{EMULATOR} takes no version of the instruction counter, or has no plugins: {refusal}")


def warm_up(sysroot: Sysroot, scratch: Path, features: Mapping[str, str]) -> None:
    """Imports the runner and its runtimes on every processor, which also leaves the bytecode of what they import.

    Raises:
        DeviceError: a runtime does not start.
    """
    copy_runner(scratch)
    env = {**runtime_env(1), **sysroot.env()}
    env["PYTHONPATH"] = os.pathsep.join([str(scratch), env["PYTHONPATH"]])
    del env["PYTHONDONTWRITEBYTECODE"]
    imports = ", ".join([WARM_UP, *(f"runner_{runtime}" for runtime in runtimes_here())])
    for cpu in features:
        overlay = sysroot.write_overlay(scratch / f"overlay-{cpu}", cpu, features[cpu])
        run([*sysroot.command(cpu, overlay), "-c", imports], f"import the runtimes on an emulated {cpu}", env)
