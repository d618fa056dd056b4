"""The emulated Arm device; what needs the Arm userland is skipped by name where it cannot be made."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_models import CLASSES, dense_classifier, expected, masked_classifier, mean_classifier, token_rows

from edgekit.devices import (
    InstructionCount,
    LatencyPlan,
    Processor,
    TokenRows,
    Unavailable,
    _sysroot,
    connect,
    module_for,
    qemu,
)
from edgekit.devices._arm_cpus import CPUS, cpuinfo, feature_names
from edgekit.errors import DeviceError, InputError
from edgekit.paths import cache_dir
from edgekit.provenance import Provenance


@pytest.fixture(scope="session")
def prepared() -> None:
    """Makes the Arm userland in the real cache folder unless it is there, once a session."""
    try:
        module_for("qemu").prepare("qemu:cortex-a76", print)
    except DeviceError as error:
        pytest.skip(f"qemu cannot be prepared here: {error}")


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Points the cache at an empty folder."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("uri", ["qemu", "qemu:", "qemu:../x"])
def test_an_unknown_processor_is_refused_with_those_there_are(uri: str) -> None:
    with pytest.raises(InputError, match="known: cortex-a53, cortex-a72, cortex-a76, max, neoverse-n1"):
        connect(uri)


def test_a_misspelt_processor_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(InputError, match="no processor 'cortex-a67'; did you mean 'cortex-a76'"):
        connect("qemu:cortex-a67")


def test_without_the_emulator_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    monkeypatch.setattr(_sysroot.platform, "system", lambda: "Linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    missing = connect("qemu:cortex-a76").unavailable()
    assert missing == Unavailable("qemu-aarch64 is not on the PATH: apt install qemu-user")
    with pytest.raises(DeviceError, match=r"no qemu-aarch64 \(apt install qemu-user\), no apt-get"):
        module_for("qemu").prepare("qemu:cortex-a76", print)
    assert not empty_cache.exists()


def test_on_another_system_it_says_that_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sysroot.platform, "system", lambda: "Darwin")
    missing = connect("qemu:max").unavailable()
    assert missing is not None
    assert "needs Linux, this is Darwin" in missing.reason


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_unprepared_it_says_how_to_prepare(empty_cache: Path, tmp_path: Path) -> None:
    device = connect("qemu:cortex-a72")
    missing = device.unavailable()
    assert missing is not None
    assert missing.reason.endswith("run `edgekit devices prepare qemu:cortex-a72`")
    with pytest.raises(DeviceError, match="edgekit devices prepare"):
        device.logits(mean_classifier(tmp_path / "m.onnx"), token_rows(1), 1, None)
    assert device.fingerprint()["sysroot"] == "none"


def test_another_runtime_version_makes_the_userland_out_of_date(
    prepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {**_sysroot.wanted_stamp(), "onnxruntime": "99.0.0"}
    monkeypatch.setattr(_sysroot, "wanted_stamp", lambda: wanted)
    missing = connect("qemu:cortex-a76").unavailable()
    assert missing is not None
    assert re.search(r"out of date \(onnxruntime was \S+, is 99.0.0\): run `edgekit devices prepare", missing.reason)


def test_provenance_is_simulated_for_arm_alone() -> None:
    device = connect("qemu:cortex-a76")
    isa = ("asimd", "asimddp")
    assert device.provenance(Processor("aarch64", "cortex-a76", isa))[0] is Provenance.SIMULATED
    assert device.provenance(Processor("x86_64", "Haswell", ("avx2",)))[0] is Provenance.ESTIMATED


def test_another_arm_processor_simulates_only_what_it_has(prepared: None) -> None:
    wanted = Processor("aarch64", "cortex-a76", ("asimd", "asimddp"))
    kind, reason = connect("qemu:neoverse-n1").provenance(wanted)
    assert kind is Provenance.SIMULATED
    assert reason.endswith("neoverse-n1, not the target's cortex-a76")
    kind, reason = connect("qemu:cortex-a53").provenance(wanted)
    assert kind is Provenance.ESTIMATED
    assert "lacks asimddp" in reason


def test_there_is_no_latency_under_emulation(tmp_path: Path) -> None:
    models = {"m": (mean_classifier(tmp_path / "m.onnx"), token_rows(1))}
    answer = connect("qemu:cortex-a76").latency(models, LatencyPlan())
    assert isinstance(answer, Unavailable)
    assert "wall time" in answer.reason


def test_cpuinfo_has_the_identity_and_features_of_the_processor() -> None:
    text = cpuinfo("cortex-a76", "fp asimd", 2)
    assert text.count("processor\t:") == 2
    assert "CPU implementer\t: 0x41\n" in text
    assert "CPU part\t: 0xd0b\n" in text
    assert "CPU variant\t: 0x4\n" in text
    assert "Features\t: fp asimd\n" in text
    assert feature_names(1 << 20 | 1, 1 << 13) == "fp asimddp i8mm"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("EDGEKIT_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "edgekit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "edgekit"


def test_features_are_those_of_each_processor(prepared: None) -> None:
    stamp = _sysroot.read_stamp()
    assert stamp is not None
    assert set(stamp["features"]) == set(CPUS)
    assert "asimddp" in stamp["features"]["cortex-a76"].split()
    assert "asimddp" not in stamp["features"]["cortex-a53"].split()


def test_preparing_again_does_nothing(prepared: None) -> None:
    before = (_sysroot.sysroot_dir() / _sysroot.STAMP).stat()
    said: list[str] = []
    module_for("qemu").prepare("qemu:max", said.append)
    assert said == [f"qemu:max: ready in {_sysroot.sysroot_dir()}"]
    assert (_sysroot.sysroot_dir() / _sysroot.STAMP).stat() == before
    assert not [path for path in _sysroot.sysroot_dir().parent.iterdir() if path.name.startswith("tmp")]


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76", "max"])
def test_logits_agree_with_numpy_on_every_processor(prepared: None, tmp_path: Path, cpu: str) -> None:
    rows = token_rows(5)
    logits = connect(f"qemu:{cpu}").logits(mean_classifier(tmp_path / "m.onnx"), rows, 1, None)
    assert logits.shape == (5, CLASSES)
    np.testing.assert_allclose(logits, expected(rows), atol=1e-5)


def test_rows_dealt_out_to_two_processes_come_back_in_order(prepared: None, tmp_path: Path) -> None:
    rows, model = token_rows(21), masked_classifier(tmp_path / "m.onnx", 16)
    seen: list[tuple[int, int]] = []
    logits = connect("qemu:cortex-a76").logits(model, rows, 1, lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(logits, connect("local").logits(model, rows, 1, None), atol=1e-5)
    assert seen[-1] == (21, 21)


def test_an_error_of_the_runner_is_a_device_error(prepared: None, tmp_path: Path) -> None:
    model = masked_classifier(tmp_path / "m.onnx", 4)
    with pytest.raises(DeviceError, match="qemu:cortex-a76: row 0 has 9 tokens"):
        connect("qemu:cortex-a76").logits(model, TokenRows([np.arange(9)]), 1, None)


def test_instruction_counts_repeat_and_grow_with_the_rows(prepared: None, tmp_path: Path) -> None:
    model = dense_classifier(tmp_path / "m.onnx")
    rows = token_rows(4, 10, 10)
    double = TokenRows([np.concatenate([ids, ids]) for ids in rows.ids])
    device = connect("qemu:cortex-a76")
    first = device.instructions({"rows": (model, rows), "double": (model, double)}, 1)
    second = device.instructions({"rows": (model, rows)}, 1)
    assert not isinstance(first, Unavailable)
    assert not isinstance(second, Unavailable)
    assert isinstance(first["rows"], InstructionCount)
    assert first["rows"].rows == 4
    assert first["rows"].per_inference > 0
    assert first["rows"].runner_overhead > 0
    assert first["rows"].per_inference == pytest.approx(second["rows"].per_inference, rel=1e-3)
    assert first["double"].per_inference > 1.5 * first["rows"].per_inference


def test_each_row_has_a_count_also_of_models_that_share_a_process(prepared: None, tmp_path: Path) -> None:
    model = dense_classifier(tmp_path / "m.onnx")
    rows = TokenRows([np.arange(1, length + 1) for length in (2, 40, 10)])
    few = TokenRows(rows.ids[1:2])
    device = connect("qemu:cortex-a76")
    apart = device.instructions({"rows": (model, rows)}, 1)
    together = device.instructions(
        {"rows": (model, rows), "few": (model, few), "again": (model, rows)}, 1, together=True
    )
    assert not isinstance(apart, Unavailable)
    assert not isinstance(together, Unavailable)
    for counted in (apart["rows"], together["rows"], together["again"]):
        short, long, middle = counted.by_row
        assert 0 < short < middle < long
        assert counted.per_inference == pytest.approx((short + long + middle) / 3)
    assert together["rows"].by_row == pytest.approx(apart["rows"].by_row, rel=0.02)
    assert together["few"].by_row == pytest.approx([apart["rows"].by_row[1]], rel=0.02)


def test_a_runtime_that_comes_into_the_userland_leaves_the_others_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, stamp = connect("qemu:cortex-a76"), {"layout": 1, "onnxruntime": "1.31.1", "litert": "none", "features": {}}
    monkeypatch.setattr(qemu, "read_stamp", lambda: stamp)
    before = arm.fingerprint("onnxruntime"), arm.fingerprint("litert")
    monkeypatch.setattr(qemu, "read_stamp", lambda: {**stamp, "litert": "2.3.0"})
    assert arm.fingerprint("onnxruntime") == before[0]
    assert arm.fingerprint("litert")["sysroot"] != before[1]["sysroot"]
    monkeypatch.setattr(qemu, "read_stamp", lambda: {**stamp, "layout": 2})
    assert arm.fingerprint("onnxruntime")["sysroot"] != before[0]["sysroot"]


def test_fingerprint_identifies_emulator_userland_and_runner(prepared: None) -> None:
    one, other = connect("qemu:cortex-a76").fingerprint(), connect("qemu:cortex-a72").fingerprint()
    assert one["machine"] == "aarch64"
    assert len(one["sysroot"]) == 64
    assert one["onnxruntime"] == connect("local").fingerprint()["onnxruntime"]
    assert one != other
