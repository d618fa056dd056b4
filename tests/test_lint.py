"""`edgekit lint`: outlier channels of a checkpoint by its weights and by data, graphs, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import builds
import pytest
import tiny
from builds import Sources, TinyBuild, cli
from safetensors.torch import load_file, save_file

import edgekit
from edgekit import frontends
from edgekit.backends import litert
from edgekit.errors import DataError


def with_outliers(sources: Sources, folder: Path) -> Path:
    """The teacher, channel 5 of its last layer norm 60 times as large and the pooler's column so much smaller."""
    import shutil

    shutil.copytree(sources.teacher, folder)
    weights = load_file(folder / "model.safetensors")
    last = max(int(name.split(".")[3]) for name in weights if ".encoder.layer." in name)
    norm = f"bert.encoder.layer.{last}.output.LayerNorm"
    weights[f"{norm}.weight"][5] *= 60
    weights[f"{norm}.bias"][5] *= 60
    weights["bert.pooler.dense.weight"][:, 5] /= 60
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("data", [False, True], ids=["weights", "data"])
def test_outlier_channels_of_a_checkpoint_are_named(data: bool, sources: Sources, tmp_path: Path) -> None:
    hard = with_outliers(sources, tmp_path / "hard")
    rows = sources.data if data else None
    plain = {f.place for f in edgekit.lint(sources.teacher, target="x86-64", data=rows)}
    found = {f.place: f for f in edgekit.lint(hard, target="x86-64", data=rows)}
    assert set(found) - plain == {"head.dense"}
    assert found["head.dense"].check == "outlier-channels"
    assert found["head.dense"].detail.startswith("input channels 5 (")
    assert "equalise" in found["head.dense"].cure


def test_data_of_other_classes_is_refused(sources: Sources, tmp_path: Path) -> None:
    other = tmp_path / "train.csv"
    other.write_text("text,label\nhello there,greeting\nsee you,farewell\n")
    with pytest.raises(DataError, match="was not trained on 2 of the data's 2 labels: 'farewell', 'greeting'"):
        edgekit.lint(sources.teacher, target="x86-64", data=other)
    other.write_text("text,label\n" + "".join(f"hello {i},greeting\nsee you {i},farewell\n" for i in range(50)))
    args = ["build", sources.teacher, "--data", other, "--target", "x86-64", "--out", tmp_path / "dist"]
    result = cli(*map(str, args), cache=tmp_path / "cache")
    assert result.exit_code == 2
    assert "was not trained on 2 of the data's 2 labels" in result.stderr
    assert "lint       done" not in result.stderr, "before the teacher runs at all"


def test_integers_that_labels_json_names_are_the_models_classes(sources: Sources, tmp_path: Path) -> None:
    """As a build takes them."""
    names = json.loads((sources.teacher / "config.json").read_text())["id2label"]
    (tmp_path / "labels.json").write_text(json.dumps(list(names.values())))
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"hello there,{i}\n" for i in range(len(names))))
    assert edgekit.lint(sources.teacher, target="x86-64", data=tmp_path)


def test_lint_looks_and_does_not_touch(sources: Sources, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sources.teacher.iterdir()}
    edgekit.lint(sources.teacher, target="x86-64", data=sources.data)
    assert {path: path.read_bytes() for path in sources.teacher.iterdir()} == before


def test_a_graph_and_the_exit_codes(tiny_build: TinyBuild, tmp_path: Path) -> None:
    graph = tiny_build.bundle / "model.onnx"
    result = cli("lint", graph, "--target", "x86-64", "--json", cache=tmp_path)
    assert result.exit_code == 0, result.output
    assert {finding["check"] for finding in json.loads(result.stdout)} == {"int64-input"}
    shown = cli("lint", graph, "--target", "x86-64", "--strict", cache=tmp_path)
    assert shown.exit_code == 0, "what costs nothing on this target is told, and no more"
    assert "int64-input  input_ids" in shown.stdout
    (tmp_path / "empty.onnx").write_bytes(b"")
    result = cli("lint", tmp_path / "empty.onnx", "--target", "x86-64", cache=tmp_path)
    assert result.exit_code == 2
    assert "is not an ONNX file" in result.stderr
    result = cli("lint", graph, "--target", "x86-64", "--data", "x", cache=tmp_path)
    assert result.exit_code == 2
    assert "is a graph: it is looked at as it is" in result.stderr


def test_strict_fails_where_something_costs(sources: Sources, tmp_path: Path) -> None:
    hard = with_outliers(sources, tmp_path / "hard")
    result = cli("lint", hard, "--target", "x86-64", "--strict", cache=tmp_path)
    assert result.exit_code == 3
    assert "the weights alone were looked at" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere.onnx", "--target", "x86-64"], "graph '/nowhere.onnx' does not exist"),
        (["/nowhere", "--target", "x86-64"], "model folder /nowhere does not exist"),
        (["MODEL", "--target", "x68-64"], "unknown target 'x68-64'; did you mean 'x86-64'"),
        (["MODEL", "--target", "x86-64", "--rows", "0"], "rows is 0"),
        (["MODEL", "--target", "x86-64", "--data", "/nowhere"], "data '/nowhere' does not exist"),
        (["MODEL", "--target", "x86-64", "--task", "tagging"], "task 'tagging'"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, sources: builds.Sources, tmp_path: Path) -> None:
    result = cli("lint", *[a.replace("MODEL", str(sources.teacher)) for a in arguments], cache=tmp_path)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


@pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")
def test_a_graph_of_another_runtime(tmp_path: Path) -> None:
    model = frontends.build(tiny.classifier("bert"))
    for length in ("buckets", "dynamic"):
        litert.export_student(model, length, 24, tmp_path / f"{length}.tflite")
    fixed = cli("lint", tmp_path / "buckets.tflite", "--target", "android", "--json", "--strict", cache=tmp_path)
    assert fixed.exit_code == 3, fixed.output
    assert [one["check"] for one in json.loads(fixed.stdout)] == ["fixed-length"]
    opened = cli("lint", tmp_path / "dynamic.tflite", "--target", "android", "--strict", cache=tmp_path)
    assert opened.exit_code == 0, opened.output
    assert "nothing found" in opened.stdout
    assert "the weights alone" not in opened.stderr
    (tmp_path / "cut.tflite").write_bytes((tmp_path / "dynamic.tflite").read_bytes()[:999])
    for given, target, message in (
        ("dynamic.tflite", "x86-64", "is no .onnx file, which x86-64 runs; name another --target"),
        ("cut.tflite", "android", "is a damaged .tflite file"),
    ):
        wrong = cli("lint", tmp_path / given, "--target", target, cache=tmp_path)
        assert wrong.exit_code == 2, wrong.output
        assert message in " ".join(wrong.stderr.split())


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    result = cli("lint", tmp_path / "m.onnx", "--target", "x86-64", cache=tmp_path)
    assert result.exit_code == 2, result.output
    assert "is not an ONNX file" in result.stderr
