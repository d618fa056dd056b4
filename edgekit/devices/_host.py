"""Says what processor this machine has: its architecture, model name and the extensions that kernels are chosen by."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

# Only what ONNX Runtime's kernels are dispatched on: the whole list would make a fingerprint of every kernel update.
FLAGS_X86 = ("avx", "f16c", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
FLAGS_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")
MACOS_ARM = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}


def architecture(name: str | None = None) -> str:
    """Returns the architecture under one name wherever it comes from: `x86_64`, `aarch64`, or as given.

    Args:
        name: what a system calls it; None for this machine.
    """
    given = (platform.machine() if name is None else name).lower()
    return ARCHITECTURES.get(given, given)


def installed(package: str) -> str | None:
    """Returns the version of an installed package without importing it, None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Returns how many logical cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined, unused-ignore]
    except AttributeError:  # macOS and Windows cannot tell
        return os.cpu_count() or 1


def cpu_model() -> str:
    """Returns the processor's model name, `unknown` where the system does not say."""
    if platform.system() == "Darwin":
        return sysctl("machdep.cpu.brand_string") or "unknown"
    info = read_text(Path("/proc/cpuinfo"))
    named = field_of(info, "model name") or field_of(info, "Model")
    if named:
        return named
    # Arm kernels print numbers rather than a name; they identify the core just as well.
    implementer, part = field_of(info, "CPU implementer"), field_of(info, "CPU part")
    if implementer and part:
        return f"Arm implementer {implementer} part {part}"
    return platform.processor() or "unknown"


def isa_flags() -> tuple[str, ...]:
    """Returns the vector extensions of this processor, in the Linux kernel's names."""
    if platform.system() == "Darwin":
        if architecture() == "aarch64":
            return tuple(flag for key, flag in MACOS_ARM.items() if sysctl(key) == "1")
        listed = f"{sysctl('machdep.cpu.features')} {sysctl('machdep.cpu.leaf7_features')}".lower()
        have = set(re.sub("avx1\\.0", "avx", listed).split())
    else:
        info = read_text(Path("/proc/cpuinfo"))
        have = set((field_of(info, "flags") or field_of(info, "Features") or "").split())
    return tuple(flag for flag in (*FLAGS_X86, *FLAGS_ARM) if flag in have)


def field_of(info: str, name: str) -> str | None:
    """Returns the first value of a field of /proc/cpuinfo."""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else None


def read_text(path: Path) -> str:
    """Returns a file's text, empty if there is none: what it would say is then unknown."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def sysctl(key: str) -> str:
    """Returns a value of macOS's `sysctl`, empty if there is none."""
    try:
        asked = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""  # a fingerprint with `unknown` in it is better than none
    return asked.stdout.strip() if asked.returncode == 0 else ""
