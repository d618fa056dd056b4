"""The 64-bit Arm processors that qemu emulates for edgekit, and the /proc/cpuinfo that each would show.

ONNX Runtime reads /proc/cpuinfo, and without an Arm one it parses the host's and crashes (onnxruntime 1.31). Its
`Features` have to be those that the emulated processor has: claiming `asimddp` for a Cortex-A53 ends in an illegal
instruction, as it would on a board. So they are read from the guest (`getauxval`) rather than written down here.
"""

from __future__ import annotations

# Main ID register of each, as qemu gives it: implementer, variant, architecture, part and revision in bit fields.
CPUS = {
    "cortex-a53": 0x410FD034,
    "cortex-a72": 0x410FD083,
    "cortex-a76": 0x414FD0B1,
    "neoverse-n1": 0x414FD0C1,
    "max": 0x000F0510,
}

AT_HWCAP, AT_HWCAP2 = 16, 26

# Names of the bits of AT_HWCAP and AT_HWCAP2, from bit 0 up, as the kernel prints them (arch/arm64/kernel/cpuinfo.c).
HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3"
    " sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16"
    " dgh rng bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 smefa64 wfxt"
    " ebf16 sveebf16 cssc rprfm sve2p1 sme2 sme2p1 smei16i32 smebi32i32 smeb16b16 smef16f16 mops hbc sveb16b16"
)


def feature_names(hwcap: int, hwcap2: int) -> str:
    """Returns the `Features` of /proc/cpuinfo for the two words of the auxiliary vector."""
    low = [name for bit, name in enumerate(HWCAP.split()) if hwcap >> bit & 1]
    high = [name for bit, name in enumerate(HWCAP2.split()) if hwcap2 >> bit & 1]
    return " ".join([*low, *high])


def cpuinfo(cpu: str, features: str, cores: int) -> str:
    """Returns the text of /proc/cpuinfo of an emulated processor.

    Args:
        cpu: one of `CPUS`.
        features: the extensions it has, separated by spaces.
        cores: how many cores to show: as many as the host has, because the runtime counts them elsewhere too.
    """
    midr = CPUS[cpu]
    block = (
        "processor\t: {core}\n"
        "BogoMIPS\t: 50.00\n"
        f"Features\t: {features}\n"
        f"CPU implementer\t: 0x{midr >> 24:02x}\n"
        "CPU architecture: 8\n"
        f"CPU variant\t: 0x{midr >> 20 & 0xF:x}\n"
        f"CPU part\t: 0x{midr >> 4 & 0xFFF:03x}\n"
        f"CPU revision\t: {midr & 0xF}\n"
    )
    return "\n".join(block.format(core=core) for core in range(cores)) + "\n"
