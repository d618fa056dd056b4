"""The device `local`, and how devices are found and named."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from tiny_models import CLASSES, expected, masked_classifier, mean_classifier, token_rows

from edgekit import devices
from edgekit.devices import LatencyPlan, Processor, Unavailable, _host, connect, local, module_for, qemu, schemes
from edgekit.errors import DeviceError, InputError
from edgekit.provenance import Provenance

HERE = _host.architecture()


def test_schemes_are_the_files_that_are_devices() -> None:
    assert {"local", "qemu"} <= set(schemes())
    assert not {name for name in schemes() if name.startswith("_") or name == "runner"}
    for scheme in schemes():
        module = module_for(scheme)
        assert module.SUMMARY
        assert callable(module.connect)
        assert callable(module.prepare)
        assert [connect(uri).uri for uri in module.uris()] == list(module.uris())


def test_the_list_of_devices_says_what_each_lacks() -> None:
    listed = {uri: (summary, missing) for uri, summary, missing in devices.listed()}
    assert listed["local"] == (local.SUMMARY, None)
    assert {"qemu:cortex-a53", "qemu:cortex-a76", "qemu:max"} <= set(listed)


@pytest.mark.parametrize("uri", ["qmeu:cortex-a76", "_process", "runner", ""])
def test_an_unknown_scheme_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError, match="no device scheme"):
        connect(uri)


def test_local_takes_nothing_after_the_scheme() -> None:
    with pytest.raises(InputError, match="expected just 'local'"):
        connect("local:0")


def test_logits_agree_with_numpy_and_progress_is_reported(tmp_path: Path) -> None:
    rows = token_rows(11)
    seen: list[tuple[int, int]] = []
    logits = connect("local").logits(
        mean_classifier(tmp_path / "m.onnx"), rows, 1, lambda done, total: seen.append((done, total))
    )
    assert logits.shape == (11, CLASSES)
    np.testing.assert_allclose(logits, expected(rows), atol=1e-5)
    assert seen[-1] == (11, 11)


def test_threads_do_not_change_the_answer(tmp_path: Path) -> None:
    rows, model = token_rows(5), masked_classifier(tmp_path / "m.onnx", 16)
    one, two = (connect("local").logits(model, rows, threads, None) for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_the_caller_does_not_import_the_runtime(tmp_path: Path) -> None:
    code = (
        "import sys; from edgekit.devices import connect; d = connect('local'); d.fingerprint(); d.unavailable();"
        " connect('qemu:max').fingerprint(); print({'onnxruntime', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_error_of_the_runner_is_a_device_error(tmp_path: Path) -> None:
    model = mean_classifier(tmp_path / "m.onnx")
    with pytest.raises(DeviceError, match=r"local: sha256 of .* not loaded") as caught:
        connect("local").logits(replace(model, sha256="0" * 64), token_rows(2), 1, None)
    assert caught.value.exit_code == 5
    with pytest.raises(DeviceError, match="cannot read the model"):
        connect("local").logits(replace(model, path=tmp_path / "none.onnx"), token_rows(2), 1, None)


def test_latency_gives_samples_of_each_model(tmp_path: Path) -> None:
    rows = token_rows(4)
    models = {
        "teacher": (mean_classifier(tmp_path / "t.onnx", hidden=64), rows),
        "student": (mean_classifier(tmp_path / "s.onnx"), rows),
    }
    samples = connect("local").latency(models, LatencyPlan(rounds=2, block_runs=6, warmup_runs=1))
    assert not isinstance(samples, Unavailable)
    assert list(samples) == ["teacher", "student"]
    for sample in samples.values():
        assert sample.block_ms.shape == (2, 6)
        assert (sample.block_ms > 0).all()
        assert sample.block_cold_ms.shape == (2,)
        assert (sample.block_cold_ms > 0).all()
        assert sample.load_ms > 0
        assert sample.cold_ms > 0
        assert sample.peak_rss_bytes is not None
        assert sample.peak_rss_bytes > 1_000_000


@pytest.mark.parametrize(("rounds", "loads", "shares"), [(5, 2, [3, 2]), (2, 4, [1, 1]), (4, 1, [4])])
def test_rounds_are_shared_by_processes_that_load_the_models_anew(
    rounds: int, loads: int, shares: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, given = list[Any](), local.write_job
    monkeypatch.setattr(local, "write_job", lambda folder, job: jobs.append(job) or given(folder, job))
    models = {"m": (mean_classifier(tmp_path / "m.onnx"), token_rows(4))}
    plan = LatencyPlan(rounds=rounds, block_runs=3, warmup_runs=1, loads=loads, memory=False)
    samples = connect("local").latency(models, plan)
    assert not isinstance(samples, Unavailable)
    assert samples["m"].block_ms.shape == (rounds, 3)
    assert (samples["m"].block_ms > 0).all()
    plans = [job.settings["latency"] for job in jobs]
    assert [one["rounds"] for one in plans] == shares
    assert [one["first_round"] for one in plans] == [sum(shares[:i]) for i in range(len(shares))]


def test_instructions_are_unavailable_with_a_reason(tmp_path: Path) -> None:
    answer = connect("local").instructions({"m": (mean_classifier(tmp_path / "m.onnx"), token_rows(1))}, 1)
    assert isinstance(answer, Unavailable)
    assert "counter" in answer.reason


def processor(arch: str = HERE, cpu: str = "Haswell", isa: tuple[str, ...] = ()) -> Processor:
    return Processor(arch, cpu, isa)


def test_provenance_is_measured_for_this_architecture_alone() -> None:
    other = "aarch64" if HERE == "x86_64" else "x86_64"
    device = connect("local")
    assert device.provenance(processor())[0] is Provenance.MEASURED
    kind, reason = device.provenance(processor(other))
    assert kind is Provenance.ESTIMATED
    assert other in reason


def test_a_machine_without_the_targets_extensions_only_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "isa_flags", lambda: ("avx", "fma"))
    kind, reason = connect("local").provenance(processor(isa=("avx2", "fma")))
    assert kind is Provenance.ESTIMATED
    assert reason.endswith("which lacks avx2")
    monkeypatch.setattr(local, "isa_flags", lambda: ("avx", "avx2", "avx512f", "fma"))
    assert connect("local").provenance(processor(isa=("avx2", "fma")))[0] is Provenance.MEASURED


def test_the_device_chosen_is_the_best_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = processor("aarch64", "cortex-a76", ("asimd", "asimddp"))
    ready, missing = (lambda self, runtime: None), (lambda self, runtime: Unavailable("no emulator"))
    monkeypatch.setattr(local, "architecture", lambda name=None: name or "x86_64")
    monkeypatch.setattr(qemu.QemuDevice, "unavailable", ready)
    assert devices.choose("t", arm, "") == ("qemu:cortex-a76", "")
    monkeypatch.setattr(qemu.QemuDevice, "unavailable", missing)
    uri, note = devices.choose("t", arm, "")
    assert uri == "local"
    assert note == "t: figures are estimated with this machine's kernels; no emulator"
    with pytest.raises(DeviceError, match="device qemu:cortex-a76 cannot be used: no emulator"):
        devices.choose("t", arm, "qemu:cortex-a76")
    monkeypatch.setattr(local.LocalDevice, "unavailable", lambda self, runtime: Unavailable("no runtime"))
    with pytest.raises(DeviceError, match="t: no device is ready: no emulator; no runtime"):
        devices.choose("t", arm, "")


def test_two_timings_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    models = {"m": (mean_classifier(tmp_path / "m.onnx"), token_rows(2))}
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / local.LOCK):
            waiting = pool.submit(connect("local").latency, models, LatencyPlan(1, 50))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=3)
        assert isinstance(waiting.result(timeout=60), dict)


@pytest.mark.parametrize(("name", "arch"), [("arm64", "aarch64"), ("AMD64", "x86_64"), ("riscv64", "riscv64")])
def test_architectures_have_one_name(name: str, arch: str) -> None:
    assert _host.architecture(name) == arch


def test_fingerprint_identifies_machine_runtime_and_runner() -> None:
    fingerprint = connect("local").fingerprint()
    assert fingerprint == connect("local").fingerprint()
    assert {"system", "machine", "cpu", "isa", "cores", "onnxruntime", "runner"} <= set(fingerprint)
    assert all(isinstance(value, str) for value in fingerprint.values())
    assert len(fingerprint["runner"]) == 64


def test_a_mac_is_described_by_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"machdep.cpu.brand_string": "Apple M9", "hw.optional.AdvSIMD": "1", "hw.optional.arm.FEAT_DotProd": "1"}
    monkeypatch.setattr(_host.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(_host.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(_host, "sysctl", lambda key: answers.get(key, ""))
    assert _host.cpu_model() == "Apple M9"
    assert _host.isa_flags() == ("asimd", "asimddp")


def test_without_the_runtime_local_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local, "installed", lambda package: None)
    lacks = connect("local").unavailable("litert")
    assert isinstance(lacks, Unavailable)
    assert "ai-edge-litert is not installed" in lacks.reason
    assert lacks.reason.endswith("pip install edgekit[litert]")
    missing = connect("local").unavailable()
    assert isinstance(missing, Unavailable)
    assert "pip install onnxruntime" in missing.reason
    with pytest.raises(DeviceError, match="pip install onnxruntime"):
        devices.module_for("local").prepare("local", print)
    with pytest.raises(DeviceError, match="pip install onnxruntime"):
        connect("local").logits(mean_classifier(tmp_path / "m.onnx"), token_rows(1), 1, None)
