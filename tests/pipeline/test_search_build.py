"""Builds that search the structure: what the search trains is what is built, found again, and swept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import builds
import pytest
from builds import Sources, check_store, cli, lineage, ran
from cost_tables import table
from tiny import HEADS, HIDDEN

import edgekit
from edgekit import devices
from edgekit.artifact import write_json
from edgekit.codec import encode
from edgekit.devices.local import LocalDevice
from edgekit.errors import DeviceError, UnmeasurableError
from edgekit.pipeline import check_measurable
from edgekit.recipe import Limits
from edgekit.search.limits import ROOM
from edgekit.stages.profile import Profile, setting_of
from edgekit.target import TargetView, load_target

SETTINGS = (
    "search.enabled=true", "search.epochs=12", "search.probe_epochs=6", "search.min_steps=0", "search.trainings=3",
    "prune.learning_rate=3e-3", "teach.views=1", "quantize.scheme=int8-pair-bounded", "benchmark.rounds=2",
    "benchmark.block_runs=50", "trim.min_tokens=0", "trim.coverage=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def costs(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a table of costs of this very machine, its prices made up."""
    view = TargetView(load_target(str(sources.target)), Profile.READS, Profile.NAME)
    setting = setting_of(view, "local", HIDDEN, HIDDEN // HEADS)
    known = table(hidden=HIDDEN, head_dim=HIDDEN // HEADS)
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    write_json(path, encode(dataclasses.replace(known, setting=setting, unit="ms")))
    return path


@dataclasses.dataclass(frozen=True)
class Searched:
    """A finished build with a search."""

    args: list[str]
    cache: Path
    out: Path

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.out / builds.TARGET


@pytest.fixture(scope="module")
def searched(sources: Sources, costs: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Builds once with a search."""
    root = tmp_path_factory.mktemp("searched")
    settings = [a for setting in (*SETTINGS, f"profile.table={costs}") for a in ("--set", setting)]
    places = ["--data", str(sources.data), "--target", str(sources.target), "--out", str(root / "dist")]
    args = ["build", str(sources.teacher), *places, "--device", "local", *settings]
    result = cli(*args, cache=root / "cache")
    assert result.exit_code == 0, result.output
    check_store(root / "cache")
    return Searched(args, root / "cache", root / "dist")


def test_the_student_is_the_one_that_the_search_chose(searched: Searched) -> None:
    steps = lineage(searched.bundle)
    assert list(steps)[4:11] == ["teach", "outline", "profile", "search", "distill", "score", "prune"]
    facts = steps["search"]["facts"]
    layers = f"{'layer' if len(steps['prune']['facts']['heads']) == 1 else 'layers'} "
    heads = "/".join(map(str, steps["prune"]["facts"]["heads"]))
    assert facts["structure"].startswith(layers)
    assert f"heads {heads}, FFN {'/'.join(map(str, steps['prune']['facts']['ffn']))}" in facts["structure"]
    assert steps["distill"]["cached"], "the search had it made"
    assert steps["prune"]["cached"]
    assert steps["trim"]["facts"]["table_rows"] < steps["trim"]["facts"]["tokens_after"], "some tokens share rows"


def test_the_same_command_finds_everything(searched: Searched) -> None:
    planned = cli(*searched.args, "--plan", "--json", cache=searched.cache)
    assert all(step["cached"] for step in json.loads(planned.stdout))
    assert cli(*searched.args, cache=searched.cache).exit_code == 0
    assert ran(searched.bundle) == []


def test_a_plan_before_the_search_does_not_know_the_student(searched: Searched, tmp_path: Path) -> None:
    planned = json.loads(cli(*searched.args, "--plan", "--json", cache=tmp_path / "empty").stdout)
    reasons = {step["stage"]: step["reason"] for step in planned}
    assert reasons["data"] == "no such entry in the store"
    assert reasons["distill"] == reasons["prune"] == "depends on what runs before it"


def test_another_targets_search_trains_nothing_anew(
    searched: Searched, sources: Sources, costs: Path, tmp_path: Path
) -> None:
    other = builds.write_target(tmp_path / "other.toml", ("min_examples = 40", "min_examples = 50"))
    args = [str(other) if a == str(sources.target) else a for a in searched.args]
    args[args.index("--out") + 1] = str(tmp_path / "dist")
    result = cli(*args, cache=searched.cache)
    assert result.exit_code == 0, result.output
    # The table is scaled to how fast the device is then, so the search chooses anew, of what is trained already.
    assert ran(tmp_path / "dist" / "other") == ["profile", "search", "gate"]


def test_words_are_stored_in_four_bits_where_the_file_would_be_too_large(searched: Searched, tmp_path: Path) -> None:
    before = lineage(searched.bundle)
    told = before["search"]["facts"]["foretold"]["file_bytes"]
    words = before["prune"]["facts"]["word_rows"] * HIDDEN
    limit = (told - 0.2 * words) / ROOM / 1e6
    args = [*searched.args, "--max-size-mb", str(limit)]
    args[args.index("--out") + 1] = str(tmp_path / "dist")
    result = cli(*args, cache=searched.cache)
    assert result.exit_code == 0, result.output
    bundle = tmp_path / "dist" / builds.TARGET
    assert "in int4-blocks" in lineage(bundle)["search"]["facts"]["structure"]
    assert lineage(bundle)["prune"]["cached"], "trained without knowing of it"
    model = builds.manifest(bundle)["model"]
    assert model["min_runtime"] == "1.17", "in ONNX's own operators"
    assert model["bytes"] <= limit * 1e6


def test_a_sweep_leaves_what_nothing_beats(searched: Searched) -> None:
    result = cli(*searched.args, "--sweep", cache=searched.cache)
    assert result.exit_code == 0, result.output
    written = json.loads((searched.out / f"{builds.TARGET}.sweep.json").read_text())
    points = written["points"]
    assert len(points) + len(written["beaten"]) > 2, "more than the rungs that so small a teacher has"
    for better in points:
        for worse in points:
            assert better is worse or better["score"] > worse["score"] or better["cost"] < worse["cost"]
    page = (searched.out / f"{builds.TARGET}.sweep.html").read_text()
    assert page.count("<circle") == len(points)
    assert f"{builds.TARGET}.sweep.html" in result.stdout
    check_store(searched.cache)


def test_an_earlier_sweep_does_not_stay_beside_another_bundle(searched: Searched) -> None:
    assert cli(*searched.args, "--sweep", cache=searched.cache).exit_code == 0
    assert len(list(searched.out.glob("*.sweep.*"))) == 2
    assert cli(*searched.args, cache=searched.cache).exit_code == 0
    assert list(searched.out.glob("*.sweep.*")) == []


def test_a_sweep_that_cannot_be_measured_leaves_the_bundle_without_a_front(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DeviceError("ended by signal 9")

    args = list(searched.args)
    args[args.index("--out") + 1] = str(tmp_path / "dist")
    assert cli(*args, "--sweep", cache=searched.cache).exit_code == 0
    monkeypatch.setattr(LocalDevice, "latency", broken)
    result = cli(*args, "--sweep", cache=searched.cache)
    assert result.exit_code == DeviceError.exit_code, result.output
    assert "the bundle is complete" in " ".join(result.stderr.split())
    assert (tmp_path / "dist" / builds.TARGET / "manifest.json").is_file()
    assert list((tmp_path / "dist").glob("*.sweep.*")) == [], "an earlier one's is not of this bundle"


def test_a_sweep_of_a_structure_that_is_given_is_refused(searched: Searched) -> None:
    result = cli(*searched.args, "--sweep", "--set", "distill.layers=2", cache=searched.cache)
    assert result.exit_code == 2, result.output
    assert "leave --sweep out" in result.stderr.replace("\n", " ")


def test_a_limit_that_nothing_meets_ends_with_three_and_says_how_near(searched: Searched, tmp_path: Path) -> None:
    args = [*searched.args, "--max-latency-ms", "0.001", "--json"]
    args[args.index("--out") + 1] = str(tmp_path / "dist")
    result = cli(*args, cache=searched.cache)
    assert result.exit_code == 3, result.output
    assert "limits-out-of-reach" in result.stderr
    assert "against 0.001" in result.stderr


def test_a_table_of_another_device_is_refused_with_both_fingerprints(
    searched: Searched, costs: Path, tmp_path: Path
) -> None:
    other = json.loads(costs.read_text())
    other["setting"]["fingerprint"]["cpu"] = "a board's"
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(other))
    args = [a.replace(str(costs), str(foreign)) for a in searched.args]
    result = cli(*args, cache=searched.cache)
    assert result.exit_code == 2, result.output
    assert "floor" not in result.stderr, "before anything is run"
    assert "cpu a board's" in result.stderr.replace("\n", " ")
    assert "the device here is" in result.stderr.replace("\n", " ")


def test_a_sweep_that_a_setting_forbids_is_refused(searched: Searched) -> None:
    result = cli(*searched.args, "--sweep", "--set", "search.enabled=false", cache=searched.cache)
    assert result.exit_code == 2, result.output
    assert "search.enabled is false" in result.stderr.replace("\n", " ")
    result = cli(*searched.args, "--sweep", "--set", "search.sweep=false", cache=searched.cache)
    assert result.exit_code == 2, result.output
    assert "search.sweep is set to false" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("device", "limit", "told", "cure"),
    [
        ("", "--max-latency-ms", "arm64: nothing here can judge max_latency_ms 5", "--max-instructions"),
        ("", "--max-memory-mb", "arm64: nothing here can judge max_memory_mb 5", "--device local"),
        ("local", "--max-instructions", "nothing here can judge max_instructions 5", "--max-latency-ms"),
    ],
)
def test_a_limit_that_nothing_can_judge_ends_with_four_at_once(
    searched: Searched, tmp_path: Path, device: str, limit: str, told: str, cure: str
) -> None:
    args = [*searched.args, limit, "5"]
    if not device:  # the best that is ready here, whose times are of another processor
        place = args.index("--device")
        del args[place : place + 2]
        args[args.index("--target") + 1] = "arm64"
    args[args.index("--out") + 1] = str(tmp_path / "dist")
    result = cli(*args, cache=tmp_path / "cache")
    assert result.exit_code == 4, result.output
    said = result.stderr.replace("\n", " ")
    assert told in said
    assert cure in said
    assert not (tmp_path / "dist").exists()


def test_memory_is_said_to_be_taken_along_with_times(searched: Searched, tmp_path: Path) -> None:
    if missing := devices.connect("qemu:cortex-a76").unavailable():
        pytest.skip(missing.reason)
    recipe = edgekit.make_recipe(
        str(searched.out), str(searched.out), targets=("arm64",), limits=Limits(max_memory_mb=5),
        device="qemu:cortex-a76", out=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(UnmeasurableError, match=r"max_memory_mb 5: .* the emulator too\. Build on a machine"):
        check_measurable(load_target("arm64"), recipe)


def test_a_file_of_texts_without_labels_is_what_students_learn_from_too(searched: Searched, tmp_path: Path) -> None:
    missing = cli(*searched.args, "--unlabelled", str(tmp_path / "none.jsonl"), cache=searched.cache)
    assert missing.exit_code == 2
    assert "is no file" in missing.stderr
    file = tmp_path / "more.jsonl"
    file.write_text('{"text": "play the song"}\n')
    planned = json.loads(
        cli(*searched.args, "--unlabelled", str(file), "--plan", "--json", cache=searched.cache).stdout
    )
    assert next(step["stage"] for step in planned if not step["cached"]) == "teach"


def test_rows_to_judge_by_and_rows_that_are_too_long_can_be_given_by_flags(searched: Searched, tmp_path: Path) -> None:
    planned = json.loads(cli(*searched.args, "--examples", "9", "--plan", "--json", cache=searched.cache).stdout)
    # The search leaves a margin for what so few rows scatter by.
    assert next(step["stage"] for step in planned if not step["cached"]) == "search"
    out = ("--out", tmp_path / "dist")
    refused = cli(*searched.args, *out, "--strict", "--set", "trim.max_length=8", cache=searched.cache)
    assert refused.exit_code == 2
    assert "have more than 8 tokens" in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "dist").exists()
