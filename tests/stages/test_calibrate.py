"""Ranges against NumPy's own extremes of the activations over the chosen rows, which are training rows alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from builds import TinyBuild, made
from test_calibration import write
from test_export import token_ids

from edgekit import data
from edgekit.artifact import Graph, LabelledData, Ranges, TeacherOutputs, Vocabulary
from edgekit.errors import DataError, RecipeError
from edgekit.quant.ranges import read_observed
from edgekit.stage import Inputs, components, key_of
from edgekit.stages.calibrate import MANIFEST, Calibrate
from edgekit.target import load_target

MOMENTUM = 0.95


def calibrate(build: TinyBuild, folder: Path, stage: Calibrate, dataset: data.Dataset | None = None) -> Ranges:
    """Runs the stage on what the finished build gave it, or on other rows."""
    rows = made(build, LabelledData)
    if dataset is not None:
        (folder / "rows").mkdir(parents=True)
        data.write(dataset, folder / "rows")
        rows = LabelledData(folder / "rows", "")
    given = [made(build, Graph), made(build, Vocabulary), rows, made(build, TeacherOutputs)]
    found: Ranges = tiny.run_stage(stage, given, folder / "run")
    return found


def extremes(build: TinyBuild, names: Sequence[str], rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and largest value of activations on training rows, each (rows, tensors)."""
    dataset = data.read(made(build, LabelledData).path)
    model = onnx.load(made(build, Graph).model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = token_ids(made(build, Vocabulary), [dataset.train[i][0] for i in rows])
    found = [session.run(list(names), {"input_ids": row[None]}) for row in ids]
    low, high = ([[reduce(tensor) for tensor in tensors] for tensors in found] for reduce in (np.min, np.max))
    return np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)


def bounds(ranges: Ranges) -> dict[str, dict[str, Any]]:
    """Reads the first method's part of ranges.json."""
    found: dict[str, dict[str, Any]] = next(iter(json.loads(ranges.file.read_text()).values()))
    return found


def of_rows(ranges: Ranges) -> dict[str, Any]:
    """Reads calibration.json."""
    found: dict[str, Any] = json.loads((ranges.path / MANIFEST).read_text())
    return found


@pytest.mark.parametrize("method", ["minmax", "moving-average"])
def test_ranges_are_the_extremes_over_the_chosen_training_rows(
    tiny_build: TinyBuild, tmp_path: Path, method: str
) -> None:
    policy = write(tmp_path, rows="40", method=f'"{method}"')
    ranges = calibrate(tiny_build, tmp_path, Calibrate(policy=policy))
    chosen, found = of_rows(ranges)["train_rows"], bounds(ranges)
    assert len(chosen) == len(set(chosen)) == 40
    assert chosen == sorted(chosen)
    lows, highs = extremes(tiny_build, list(found), chosen)
    low, high = lows.min(0), highs.max(0)
    if method == "moving-average":
        low, high = lows[0], highs[0]
        for row in range(1, 40):
            low = MOMENTUM * low + (1 - MOMENTUM) * lows[row]
            high = MOMENTUM * high + (1 - MOMENTUM) * highs[row]
    np.testing.assert_allclose([r["low"] for r in found.values()], np.minimum(low, 0), rtol=0, atol=1e-4)
    np.testing.assert_allclose([r["high"] for r in found.values()], np.maximum(high, 0), rtol=0, atol=1e-4)
    assert {(r["method"], r["rows"]) for r in found.values()} == {(method, 40)}


def test_ranges_are_of_all_that_is_rounded_for_the_targets_operators(tiny_build: TinyBuild) -> None:
    graph = onnx.load(made(tiny_build, Graph).model).graph
    nodes = [node for node in graph.node if node.op_type in ("Gemm", "Gather")]  # as the shipped profile asks
    constants, indices = {t.name for t in graph.initializer}, {n.input[1] for n in nodes if n.op_type == "Gather"}
    read = {name for node in nodes for name in node.input} - constants - indices
    # What a table gives is rounded like the table; what a product gives stays float.
    expected = read | {name for node in nodes if node.op_type == "Gather" for name in node.output}
    assert len(expected) > 8
    assert set(bounds(made(tiny_build, Ranges))) == expected


def test_facts_count_the_rows_that_were_drawn(tiny_build: TinyBuild, tmp_path: Path) -> None:
    ranges = calibrate(tiny_build, tmp_path, Calibrate(rows=30))
    facts = ranges.facts
    dataset = data.read(made(tiny_build, LabelledData).path)
    rows = [dataset.train[i] for i in of_rows(ranges)["train_rows"]]
    lengths = [len(row) for row in token_ids(made(tiny_build, Vocabulary), [text for text, _ in rows])]
    assert (facts["rows"], facts["rows_asked"], facts["policy"], facts["method"]) == (30, 30, "default", "auto")
    assert (facts["length_max"], facts["length_median"]) == (max(lengths), np.median(lengths))
    assert facts["classes"] == len({label for _, label in rows}) == 4
    whole = made(tiny_build, Ranges)
    assert (whole.facts["rows"], whole.facts["rows_asked"], of_rows(whole)["train_rows"]) == (
        240,
        256,
        list(range(240)),
    )


def test_dev_and_test_rows_have_no_part_in_it(tiny_build: TinyBuild, tmp_path: Path) -> None:
    dataset, strange = data.read(made(tiny_build, LabelledData).path), (("zebra quantum zebra", "alarm"),)
    stage = Calibrate(rows=20)
    plain = calibrate(tiny_build, tmp_path / "plain", stage)
    held = calibrate(tiny_build, tmp_path / "held", stage, dataclasses.replace(dataset, dev=strange, test=strange))
    assert held.digest == plain.digest
    train = list(dataset.train)
    train[of_rows(plain)["train_rows"][0]] = strange[0]
    other = calibrate(tiny_build, tmp_path / "train", stage, dataclasses.replace(dataset, train=tuple(train)))
    assert bounds(other) != bounds(plain)


def test_an_edited_policy_is_another_action(tiny_build: TinyBuild, tmp_path: Path) -> None:
    target = load_target("x86-64")
    inputs = Inputs({kind: made(tiny_build, kind) for kind in Calibrate.IN}, Calibrate.IN)

    def key(stage: Calibrate) -> str:
        return key_of(components(stage.resolved(target), inputs, target, "text-classification", 0, None))

    stage = Calibrate(policy=write(tmp_path))
    before = stage.resolved(target).policy_digest
    assert key(stage) == key(stage)
    assert key(stage) != key(Calibrate())
    old = key(stage)
    write(tmp_path, seed="1")
    assert stage.resolved(target).policy_digest != before
    assert key(stage) != old
    write(tmp_path)
    assert key(stage) == old


def test_the_policys_seed_draws_other_rows(tiny_build: TinyBuild, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", "0"), ("b", "1"), ("c", "0")):
        (tmp_path / name).mkdir()
        stage = Calibrate(policy=write(tmp_path / name, seed=seed))
        found.append(of_rows(calibrate(tiny_build, tmp_path / name, stage))["train_rows"])
    assert found[0] == found[2] != found[1]


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows is -1"):
        Calibrate(rows=-1)
    with pytest.raises(RecipeError, match="'defualt'; did you mean 'default'"):
        Calibrate(policy="defualt")
    with pytest.raises(RecipeError, match=r"own\.toml.*unknown method"):
        Calibrate(policy=write(tmp_path, method='"mean"'))


def test_rows_of_test_set_no_range(tiny_build: TinyBuild, tmp_path: Path) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    (text, label), *rest = dataset.train
    leaky = dataclasses.replace(dataset, test=((f" {text}", label), *dataset.test))
    ranges = calibrate(tiny_build, tmp_path, Calibrate(), leaky)
    again = sum(other.strip() == text.strip() for other, _ in dataset.train)
    assert ranges.facts["left_out_in_test"] == again >= 1
    hashes = of_rows(ranges)["row_sha256"]
    assert hashlib.sha256(text.strip().encode()).hexdigest() not in hashes
    assert len(hashes) == ranges.facts["rows"] == len(rest) + 1 - again
    with pytest.raises(DataError, match="every training row is also a row of test"):
        calibrate(tiny_build, tmp_path / "all", Calibrate(), dataclasses.replace(dataset, test=dataset.train))


def test_the_manifest_of_a_calibration_names_no_text(tiny_build: TinyBuild) -> None:
    ranges = made(tiny_build, Ranges)
    found, dataset = of_rows(ranges), data.read(made(tiny_build, LabelledData).path)
    texts = [dataset.train[i][0] for i in found["train_rows"]]
    assert found["row_sha256"] == [hashlib.sha256(text.strip().encode()).hexdigest() for text in texts]
    lengths = Counter(len(row) for row in token_ids(made(tiny_build, Vocabulary), texts))
    assert found["length_histogram"] == {str(length): count for length, count in lengths.items()}
    assert texts[0] not in (ranges.path / MANIFEST).read_text()


def test_too_few_rows_are_said_to_be(tiny_build: TinyBuild, tmp_path: Path) -> None:
    (few,) = (f for f in calibrate(tiny_build, tmp_path, Calibrate()).facts["findings"] if f["check"] == "few-rows")
    assert few["detail"] == "policy default asks for 256 rows, there are 240: all of them are used"
    enough = calibrate(tiny_build, tmp_path / "enough", Calibrate(rows=240)).facts["findings"]
    assert "few-rows" not in {f["check"] for f in enough}


def test_a_class_that_was_not_drawn_is_named_and_the_cure_cures(tiny_build: TinyBuild, tmp_path: Path) -> None:
    policy = write(tmp_path, rows="3", length_strata="3", class_balance="false")
    found = calibrate(tiny_build, tmp_path / "few", Calibrate(policy=policy)).facts["findings"]
    (missing,) = (one for one in found if one["check"] == "classes-missing")
    rows = int(missing["cure"].partition("calibrate.rows=")[2].partition(",")[0])
    found = calibrate(tiny_build, tmp_path / "cured", Calibrate(policy=policy, rows=rows)).facts["findings"]
    assert "classes-missing" not in {one["check"] for one in found}


def test_a_class_that_test_has_all_rows_of_is_cured_by_rows_that_it_has_not(
    tiny_build: TinyBuild, tmp_path: Path
) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    leaked = dataclasses.replace(dataset, test=tuple(row for row in dataset.train if row[1] == "music"))
    found = calibrate(tiny_build, tmp_path, Calibrate(), leaked).facts["findings"]
    (missing,) = (one for one in found if one["check"] == "classes-missing")
    assert missing["cure"] == "training rows of music that test does not have"


def test_classes_that_need_different_cures_get_both(tiny_build: TinyBuild, tmp_path: Path) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    by_label = {label: [row for row in dataset.train if row[1] == label] for label in dataset.labels}
    assert len(by_label) > 2
    gone, scarce = dataset.labels[:2]
    test = (*by_label[gone], *by_label[scarce][1:])
    leaked = dataclasses.replace(dataset, test=test)
    policy = write(tmp_path, rows=str(len(dataset.labels) - 2), length_strata="1", class_balance="false")
    found = calibrate(tiny_build, tmp_path / "few", Calibrate(policy=policy), leaked).facts["findings"]
    (missing,) = (one for one in found if one["check"] == "classes-missing")
    enough, _, rows = missing["cure"].partition("; ")
    assert rows == f"training rows of {gone} that test does not have"
    enough = int(enough.removeprefix("--set calibrate.rows=").partition(",")[0])
    cured = calibrate(tiny_build, tmp_path / "more", Calibrate(policy=policy, rows=enough), leaked).facts
    assert {one["detail"].rpartition("; ")[2] for one in cured["findings"] if one["check"] == "classes-missing"} == {
        f"{gone} not"
    }
    assert cured["rows"] == enough


def test_rows_that_are_all_cut_are_said_to_be(tiny_build: TinyBuild, tmp_path: Path) -> None:
    dataset = data.read(made(tiny_build, LabelledData).path)
    long = tuple((" ".join([text] * 40), label) for text, label in dataset.train)
    ranges = calibrate(tiny_build, tmp_path, Calibrate(rows=20), dataclasses.replace(dataset, train=long))
    assert ranges.facts["rows_cut"] == 20
    assert "all-rows-cut" in {f["check"] for f in ranges.facts["findings"]}


def test_the_hardest_rows_are_those_of_the_largest_entropy(tiny_build: TinyBuild, tmp_path: Path) -> None:
    policy = write(tmp_path, rows="20", hard_share="1.0")
    rows = of_rows(calibrate(tiny_build, tmp_path, Calibrate(policy=policy)))["train_rows"]
    logits = np.load(made(tiny_build, TeacherOutputs).array("train", "logits"))[:240].astype(np.float64)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -(share * np.log(share)).sum(axis=1)
    assert len(rows) == 20
    assert entropy[rows].min() >= np.delete(entropy, rows).max()


def test_means_are_those_of_the_channels_of_what_products_read(tiny_build: TinyBuild, tmp_path: Path) -> None:
    ranges = calibrate(tiny_build, tmp_path, Calibrate(rows=12))
    observed = read_observed(ranges.statistics)
    graph = onnx.load(made(tiny_build, Graph).model)
    names = [n.input[0] for n in graph.graph.node if n.op_type == "Gemm"]
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    dataset = data.read(made(tiny_build, LabelledData).path)
    ids = token_ids(made(tiny_build, Vocabulary), [dataset.train[i][0] for i in of_rows(ranges)["train_rows"]])
    values = [session.run(None, {"input_ids": row[None]}) for row in ids]
    for place, name in enumerate(dict.fromkeys(names)):
        expected = np.concatenate([row[place] for row in values]).mean(axis=0)
        np.testing.assert_allclose(observed[name].means, expected, atol=1e-5)
