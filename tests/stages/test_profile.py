"""The stage that takes costs: which students it runs, what it makes of times and counts, and whose table it takes."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builds
import numpy as np
import onnx
import pytest
from cost_tables import PRICES, price
from cost_tables import table as known_table
from test_evaluate import NullDevice, run_on

from edgekit import devices
from edgekit.artifact import Costs
from edgekit.backends import ethosu, litert
from edgekit.codec import encode
from edgekit.devices import InstructionCount, LatencyPlan, ModelFile, Samples
from edgekit.errors import RecipeError, StageContractError, UnmeasurableError
from edgekit.provenance import Provenance
from edgekit.search.costs import CostTable, read_costs
from edgekit.search.shapes import UNITS, Shape, units
from edgekit.stages import _cycles, _students, profile
from edgekit.stages.profile import LENGTHS, REFERENCE, Profile, by_length, factor_of, retimed, setting_of
from edgekit.target import TargetView, load_target, shipped_targets

STAGE = Profile(rounds=2, hidden=32, head_dim=8)
SHAPES = [Shape(32, 8, (h,), (f,), 3) for h, f in ((1, 16), (4, 128), (2, 64))] + [Shape(32, 8, (2, 4), (64, 96), 5)]


class PricedDevice(NullDevice):
    """A device without hardware that takes as long as `cost_tables.PRICES` say, times its own factor."""

    uri = "null"

    def __init__(self, timed: bool, factor: float = 1.0) -> None:
        super().__init__(Provenance.MEASURED if timed else Provenance.SIMULATED)
        self.times, self.factor = timed, factor

    def fingerprint(self, runtime: str) -> dict[str, str]:
        return {"device": "null", "cpu": "none", "onnxruntime": "1.31.1"}

    def costs(self, models: Any) -> Iterator[tuple[str, list[float]]]:
        for name, (model, rows) in models.items():
            place, family = name.split()
            shape = profile.spread(32, 8)[int(place)]
            self.seen.setdefault("files", {})[name] = onnx.load(model.path)
            yield name, [self.factor * price(shape, len(row), family) for row in rows.ids]

    def latency(self, models: Any, plan: LatencyPlan) -> Any:
        if not self.times:
            return self.timed
        self.seen["latency"] = models, plan
        random, found = np.random.default_rng(0), {}
        for name, own in self.costs(models):
            blocks = np.resize(np.array(own) / 1e6, (plan.rounds, plan.block_runs))
            swayed = random.choice([0.5, 1, 1, 1, 1, 1, 7], blocks.shape)  # a faster clock, something else that runs
            found[name] = Samples(1.0, 1.0, blocks * swayed, blocks[:, 0], None)
        return found

    def instructions(self, models: Any, threads: int, together: bool = False) -> Any:
        if self.times:
            return self.counted
        self.seen["instructions"] = models, threads, together
        return {n: InstructionCount(float(np.mean(c)), 1.0, len(c), tuple(c)) for n, c in self.costs(models)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, ModelFile]]:
    """`write_forms`, which writes each student once for all tests: an export takes seconds."""
    written: dict[Any, dict[str, ModelFile]] = {}

    def write(shape: Shape, max_length: int, target: TargetView, folder: Path, seed: int) -> dict[str, ModelFile]:
        key = shape, max_length, target["shape.sequence_length"], target["quant"]["scheme"], target["runtime.version"]
        if key not in written:
            into = tmp_path_factory.mktemp("student") / "forms"
            written[key] = _students.write_forms(shape, max_length, target, into, seed)
        return written[key]

    return write


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, made: Callable[..., dict[str, ModelFile]]) -> None:
    """Four students in place of twenty-three."""
    monkeypatch.setattr(profile, "spread", lambda hidden, head_dim: SHAPES)
    monkeypatch.setattr(profile, "write_forms", made)
    monkeypatch.setattr(profile, "REFERENCE", 2)


def taken(device: Any, folder: Path, stage: Profile = STAGE, target: str = "x86-64") -> tuple[CostTable, Any]:
    """Runs the stage; returns the table and the facts."""
    found = run_on(device, stage, [], folder, target)
    assert isinstance(found, Costs)
    return read_costs(found.file), found.facts


def test_counts_become_a_table(tmp_path: Path) -> None:
    device = PricedDevice(timed=False)
    table, facts = taken(device, tmp_path)
    assert (table.unit, table.provenance, table.lengths) == ("instructions", Provenance.SIMULATED, LENGTHS)
    assert [point.shape for point in table.points] == SHAPES
    for point in table.points:
        for family in PRICES:
            assert point.costs[family] == pytest.approx([price(point.shape, s, family) for s in LENGTHS])
    for family, fit in table.fits.items():
        for shape in SHAPES:
            assert table.cost(shape, [8, 22], [family]) == pytest.approx(
                np.mean([price(shape, s, family) for s in (8, 22)]), rel=1e-4
            )
        assert facts["errors"][family] == [fit.mean_error, fit.largest_error]
    assert (facts["source"], facts["models"]) == ("measured", len(SHAPES))
    assert device.seen["instructions"][2], "all of them together"


def test_the_students_have_the_shapes_and_integer_products(tmp_path: Path) -> None:
    device = PricedDevice(timed=False)
    taken(device, tmp_path)
    for place, shape in enumerate(SHAPES):
        products = sum(4 * 32 * 8 * h + 2 * 32 * f for h, f in zip(shape.heads, shape.ffn, strict=True))
        for family, only in (("static", "DequantizeLinear"), ("dynamic", "MatMulInteger")):
            graph = device.seen["files"][f"{place} {family}"].graph
            operators = {node.op_type for node in graph.node}
            assert only in operators
            stored = sum(int(np.prod(i.dims)) for i in graph.initializer if i.data_type == onnx.TensorProto.INT8)
            assert stored >= products + 32 * (32 + shape.labels)


@pytest.mark.skipif(ethosu.missing() is not None, reason=ethosu.missing() or "")
def test_an_npu_costs_the_cycles_that_its_compiler_says_wherever_that_runs(tmp_path: Path) -> None:
    device = PricedDevice(timed=True)
    table, facts = taken(device, tmp_path, target="ethos-u85")
    assert (table.unit, table.provenance, facts["factor"]) == ("cycles", Provenance.ESTIMATED, 1.0)
    assert table.lengths == _cycles.LENGTHS
    assert device.seen == {}, "no device is asked"
    assert set(table.setting.fingerprint) == {"accelerator", "compiler"}
    assert [point.shape for point in table.points] == SHAPES[::2]
    view = TargetView(load_target("ethos-u85"), Profile.READS, "profile")
    (file,) = _students.write_forms(SHAPES[0], 48, view, tmp_path / "forms", 0).values()
    command = [sys.executable, "-m", "ethosu.vela", "--accelerator-config", "ethos-u85-256"]
    command += ["--verbose-cycle-estimate", str(file.path)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (total,) = re.findall(r"Total cycles\s+(\d+) cycles", said)
    assert table.points[0].costs["static"][1] == float(total)
    for point in table.points:
        assert list(point.costs["static"]) == sorted(point.costs["static"])
    (tmp_path / "costs.json").write_text(json.dumps(encode(table)))
    given = dataclasses.replace(STAGE, table=str(tmp_path / "costs.json"))
    again, found = taken(device, tmp_path / "again", given, target="ethos-u85")
    assert (found["source"], again.reason, again.points) == ("given", table.reason, table.points)


def test_what_nothing_here_times_is_compared_by_multiply_adds(tmp_path: Path) -> None:
    device = PricedDevice(timed=True)
    table, facts = taken(device, tmp_path, target="mobile-npu")
    assert (table.unit, table.provenance, facts["factor"]) == ("multiply-adds", Provenance.ESTIMATED, 1.0)
    assert "latency" not in device.seen, "the times of another processor are none"
    assert table.cost(SHAPES[0], [8]) == sum(
        units(SHAPES[0], [8])[0, [UNITS.index(n) for n in ("products", "one_row")]]
    )


@pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")
def test_files_of_one_length_each_are_compared_by_multiply_adds(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.toml"
    text = shipped_targets()["android"].read_text(encoding="utf-8")
    for old, new in (('"android"', '"fixed"'), ('sequence_length = "dynamic"', 'sequence_length = "buckets"')):
        assert old in text
        text = text.replace(old, new)
    fixed.write_text(text, encoding="utf-8")
    device = PricedDevice(timed=True)
    table, _ = taken(device, tmp_path, target=str(fixed))
    assert (table.unit, table.provenance) == ("multiply-adds", Provenance.ESTIMATED)
    assert "latency" not in device.seen, "the times of another length are none"


def test_times_are_medians_that_neither_faster_nor_slower_moments_move(tmp_path: Path) -> None:
    device = PricedDevice(timed=True)
    table, _ = taken(device, tmp_path)
    _, plan = device.seen["latency"]
    assert (plan.rounds, plan.threads, plan.memory) == (2, 1, False)
    assert plan.block_runs >= 50
    assert plan.block_runs % (2 * len(LENGTHS)) == 0, "each length's place in a block is known"
    assert [len(row) for row in device.seen["latency"][0]["0 static"][1].ids] == [*LENGTHS, *reversed(LENGTHS)]
    assert (table.unit, table.reference) == ("ms", 2)
    for point in table.points:
        for family in PRICES:
            assert point.costs[family] == pytest.approx([price(point.shape, s, family) / 1e6 for s in LENGTHS])


def test_times_of_rows_are_told_apart() -> None:
    blocks = np.array([[3.0, 30, 300, 200, 20, 2], [1, 40, 400, 500, 10, 5], [4, 20, 300, 100, 20, 4]])
    assert by_length(blocks, 3) == (3, 25, 250)


def test_the_reference_is_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = taken(PricedDevice(timed=True), tmp_path)
    monkeypatch.setattr(devices, "connect", lambda uri: PricedDevice(timed=True, factor=1.5))
    monkeypatch.setattr(profile, "spread", lambda hidden, head_dim: [SHAPES[2]])  # what the device is priced by
    view = TargetView(load_target("x86-64"), Profile.READS, Profile.NAME)
    assert retimed(table, view, "null", 2, 0, lambda *_: None) == pytest.approx(1.5)
    counted = dataclasses.replace(table, unit="instructions")
    assert retimed(counted, view, "null", 2, 0, lambda *_: None) == 1.0
    before = table.points[table.reference].costs
    assert factor_of(table, {f: [2 * c for c in costs] for f, costs in before.items()}) == pytest.approx(2)


def test_of_a_fixed_length_that_one_is_run(tmp_path: Path) -> None:
    target = builds.write_target(
        tmp_path / "fixed.toml",
        ('sequence_length = "dynamic"', "sequence_length = 16"),
        ('scheme = "auto"', 'scheme = "static-qdq"'),
    )
    table, _ = taken(PricedDevice(timed=False), tmp_path, target=str(target))
    assert (table.lengths, table.setting.sequence_length) == ((16,), 16)
    assert table.families == ("static",), "the target allows no other"
    assert table.cost(SHAPES[0], [3]) == table.cost(SHAPES[0], [16])


def given(folder: Path, device: Any, **changes: Any) -> Path:
    """A table that was taken on the device for the target, as a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "connect", lambda uri: device)
        view = TargetView(load_target("x86-64"), Profile.READS, Profile.NAME)
        setting = dataclasses.replace(setting_of(view, "null", 32, 8), **changes)
    path = folder / "table.json"
    path.write_text(json.dumps(encode(dataclasses.replace(known_table(), setting=setting))), encoding="utf-8")
    return path


def test_a_given_table_is_taken_in_place_of_measuring(tmp_path: Path) -> None:
    device = PricedDevice(timed=True)
    path = given(tmp_path, device)
    stage = dataclasses.replace(STAGE, table=str(path))
    table, facts = taken(device, tmp_path, stage)
    assert "latency" not in device.seen
    assert (facts["source"], table.points) == ("given", known_table().points)
    assert (table.provenance, table.reason) == (Provenance.MEASURED, "as the test says"), "of this device"
    target = load_target("x86-64")
    first = stage.resolved(target)
    path.write_text(path.read_text() + "\n")
    assert stage.resolved(target) != first, "an edited file is another action"


def test_a_table_of_times_is_scaled_to_how_fast_the_device_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = taken(PricedDevice(timed=True), tmp_path / "before")
    path = tmp_path / "table.json"
    path.write_text(json.dumps(encode(before)), encoding="utf-8")
    shapes = iter([[SHAPES[2]]])  # what the device is priced by: the reference alone is run
    monkeypatch.setattr(profile, "spread", lambda hidden, head_dim: next(shapes, [SHAPES[2]]))
    table, facts = taken(PricedDevice(timed=True, factor=1.5), tmp_path, dataclasses.replace(STAGE, table=str(path)))
    assert facts["factor"] == pytest.approx(1.5, abs=1e-3)
    for shape in SHAPES:
        assert table.cost(shape, [8, 22]) == pytest.approx(1.5 * before.cost(shape, [8, 22]), rel=1e-3)


@pytest.mark.parametrize(
    "changes", [{"hidden": 64}, {"fingerprint": {"device": "null", "cpu": "other", "onnxruntime": "1.31.1"}}]
)
def test_a_table_of_another_setting_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    device = PricedDevice(timed=True)
    path = given(tmp_path, device)
    value = json.loads(path.read_text())
    value["setting"] |= changes
    for point in value["points"]:
        point["shape"]["hidden"] = value["setting"]["hidden"]
    path.write_text(json.dumps(value))
    with pytest.raises(RecipeError, match="another setting") as caught:
        taken(device, tmp_path, dataclasses.replace(STAGE, table=str(path)))
    assert "device null, cpu none" in str(caught.value)


def test_a_shipped_table_is_taken_where_it_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = PricedDevice(timed=True)
    path = given(tmp_path, device)
    (tmp_path / "costs").mkdir()
    path.rename(tmp_path / "costs" / "some-cpu.json")
    monkeypatch.setattr("edgekit.search.costs.shipped_folder", lambda: tmp_path)
    table, facts = taken(device, tmp_path / "one")
    assert facts["source"] == "shipped table some-cpu"
    assert table.points == known_table().points
    _, facts = taken(device, tmp_path / "two", dataclasses.replace(STAGE, shipped=False))
    assert facts["source"] == "measured"


def test_what_nothing_can_time_is_told(tmp_path: Path) -> None:
    class Silent(NullDevice):
        uri = "null"

        def fingerprint(self, runtime: str) -> dict[str, str]:
            return {"device": "null"}

        def instructions(self, models: Any, threads: int, together: bool = False) -> Any:
            return self.counted

    with pytest.raises(UnmeasurableError, match=r"no clock; it has no counter.*--device") as caught:
        taken(Silent(), tmp_path)
    assert caught.value.exit_code == 4


def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rounds"):
        Profile(rounds=1)
    with pytest.raises(RecipeError, match="cannot be read"):
        Profile(table=str(tmp_path / "none.json"))
    with pytest.raises(StageContractError, match="hidden"):
        taken(PricedDevice(timed=True), tmp_path, Profile())


def test_a_runtime_too_old_for_any_form_is_told(tmp_path: Path) -> None:
    target = builds.write_target(tmp_path / "old.toml", ('version = "1.18"', 'version = "1.1"'))
    with pytest.raises(RecipeError, match=r"runtime\.version"):
        taken(PricedDevice(timed=True), tmp_path, target=str(target))


@pytest.mark.parametrize(("hidden", "head_dim"), [(128, 64), (256, 64), (312, 26), (384, 32), (768, 64), (1024, 64)])
def test_the_spread_suits_any_width(hidden: int, head_dim: int) -> None:
    shapes = _students.spread(hidden, head_dim)
    assert len(set(shapes)) == len(shapes) == len(_students.SHARES)
    assert len(shapes) > REFERENCE
    for shape in shapes:
        assert max(shape.heads) <= hidden // head_dim
        assert max(shape.ffn) <= 4 * hidden
    assert {len(shape.heads) for shape in shapes} == {1, 2, 3, 4, 5, 6}
