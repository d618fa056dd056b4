"""Files of ranges: made as a build makes them, shown, compared, given to a build, and refused where they are wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import builds
import pytest
from builds import TinyBuild, made
from click.testing import Result

import edgekit
from edgekit.artifact import Graph, Ranges, file_digest
from edgekit.errors import RecipeError
from edgekit.quant.range_file import RangeFile
from edgekit.quant.ranges import Range
from edgekit.range_files import diff


def calibrate(build: TinyBuild, *more: str, cache: Path | None = None) -> Result:
    """Runs the command with what the finished build was made with; in a cache of its own where it makes something."""
    settings = [argument for setting in builds.SETTINGS for argument in ("--set", setting)]
    places = ["--data", str(build.sources.data), "--target", str(build.sources.target)]
    return builds.cli("calibrate", str(build.sources.teacher), *places, *settings, *more, cache=cache or build.cache)


def test_the_ranges_are_those_of_the_build(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out = tmp_path / "ranges.json"
    result = calibrate(tiny_build, "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert "cached" in result.stderr
    assert "runs" not in result.stderr, "the build had made all of it"
    found = edgekit.read_ranges(out)
    stored = json.loads(made(tiny_build, Ranges).file.read_text())
    assert {m: {name: dataclasses.asdict(one) for name, one in of.items()} for m, of in found.methods.items()} == stored
    assert list(found.ranges) == list(stored["minmax"])
    assert found.graph_sha256 == file_digest(made(tiny_build, Graph).model)
    assert found.products["layers.0.up"] in found.ranges
    shown = builds.cli("calibrate", str(out), cache=tiny_build.cache)
    assert shown.exit_code == 0
    assert "layers.0.up" in shown.stdout
    assert json.loads(builds.cli("calibrate", str(out), "--json", cache=tiny_build.cache).stdout)["rows"] == found.rows


def test_other_rows_make_a_difference_that_is_shown(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out = tmp_path / "ranges.json"
    calibrate(tiny_build, "--out", str(out))
    same = calibrate(tiny_build, "--diff", str(out))
    assert "no range differs" in same.stdout
    cache = tiny_build.copy_cache(tmp_path / "cache")
    other = calibrate(tiny_build, "--rows", "3", "--diff", str(out), "--json", cache=cache)
    assert other.exit_code == 0, other.stderr
    differences = json.loads(other.stdout)
    assert differences
    changes = [abs(one["change"]) for one in differences]
    assert changes == sorted(changes, reverse=True)
    assert "%" in calibrate(tiny_build, "--rows", "3", "--diff", str(out), cache=cache).stdout


def test_a_build_takes_them(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out, cache = tmp_path / "ranges.json", tiny_build.copy_cache(tmp_path / "cache")
    calibrate(tiny_build, "--out", str(out))
    given = ["--set", f"calibrate.ranges={out}"]
    result = builds.cli(*tiny_build.sources.args(tmp_path / "dist", *given), cache=cache)
    assert result.exit_code == 0, result.stderr
    bundle = tmp_path / "dist" / builds.TARGET
    (step,) = (s for s in json.loads((bundle / "manifest.json").read_text())["lineage"] if s["stage"] == "calibrate")
    assert step["facts"]["given_sha256"] == file_digest(out)
    assert file_digest(bundle / "model.onnx") == file_digest(tiny_build.bundle / "model.onnx"), "the very same choice"
    rows = [
        json.loads((folder / "calibration.json").read_text())["row_sha256"] for folder in (bundle, tiny_build.bundle)
    ]
    assert rows[0] == rows[1], "and the same rows are told"


def test_ranges_of_another_graph_are_refused(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out, cache = tmp_path / "ranges.json", tiny_build.copy_cache(tmp_path / "cache")
    calibrate(tiny_build, "--out", str(out))
    other = edgekit.read_ranges(out)
    edgekit.write_ranges(out, dataclasses.replace(other, graph_sha256="0" * 64))
    result = builds.cli(*tiny_build.sources.args(tmp_path / "dist", "--set", f"calibrate.ranges={out}"), cache=cache)
    assert result.exit_code == 2
    assert "holds the ranges of another graph" in result.stderr
    name = next(iter(other.products.values()))
    fewer = {method: {key: value for key, value in of.items() if key != name} for method, of in other.methods.items()}
    edgekit.write_ranges(out, dataclasses.replace(other, methods=fewer))
    result = builds.cli(*tiny_build.sources.args(tmp_path / "dist", "--set", f"calibrate.ranges={out}"), cache=cache)
    assert result.exit_code == 2
    assert f"lacks ranges of {name}" in result.stderr
    edgekit.write_ranges(out, dataclasses.replace(other, means={**other.means, name: (1.0,)}))
    result = builds.cli(*tiny_build.sources.args(tmp_path / "dist", "--set", f"calibrate.ranges={out}"), cache=cache)
    assert result.exit_code == 2
    assert f"has 1 means of {name!r}, which has {len(other.means[name])} channels" in " ".join(result.stderr.split())
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a file of ranges"),
        ("[]", "expected an object"),
        ('{"schema": 1}', "edgekit: missing"),
        (None, "ranges cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_what_to_do(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "ranges.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        edgekit.read_ranges(path)
    assert "edgekit calibrate" in str(caught.value)


def file(**ranges: tuple[float, float]) -> RangeFile:
    made_of = {name: Range(low, high, "minmax", 8) for name, (low, high) in ranges.items()}
    drawn = {"row_sha256": [], "train_rows": [], "length_histogram": {}}
    return RangeFile(1, "0", "x86-64", "0" * 64, "default", "minmax", "mse", 8, {}, {"minmax": made_of}, {}, drawn, ())


def test_a_range_without_zero_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    edgekit.write_ranges(tmp_path / "a.json", file(x=(1.0, 2.0)))
    with pytest.raises(RecipeError, match="the range of 'x' by 'minmax' does not hold zero"):
        edgekit.read_ranges(tmp_path / "a.json")
    edgekit.write_ranges(tmp_path / "a.json", file(x=(1.0, -1.0)))
    with pytest.raises(RecipeError, match="the range of 'x' by 'minmax' is upside down"):
        edgekit.read_ranges(tmp_path / "a.json")
    edgekit.write_ranges(tmp_path / "b.json", file())
    with pytest.raises(RecipeError, match="holds no ranges"):
        edgekit.read_ranges(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "auto"}, "lacks ranges by mse, mse-weighted, percentile-99.99, percentile-99.999"),
        ({"products": {"layers.0.up": "y"}}, "lacks ranges of y"),
        ({"products": {"layers.0.up": "x"}, "means": {"x": ()}}, "lacks means of x"),
        ({"drawn": {"train_rows": []}}, "lacks of its rows length_histogram, row_sha256"),
        ({"methods": {"minmaks": {}}}, "unknown method 'minmaks'; did you mean 'minmax'"),
    ],
)
def test_a_file_that_lacks_what_a_build_takes_from_it_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    edgekit.write_ranges(tmp_path / "a.json", dataclasses.replace(file(x=(-1.0, 2.0)), **change))
    with pytest.raises(RecipeError, match=message):
        edgekit.read_ranges(tmp_path / "a.json")


def test_differences_are_sorted_and_small_ones_left_out() -> None:
    before = file(a=(-1, 1), b=(-1, 1), c=(-1, 1), d=(0, 1))
    after = file(a=(-1, 1.01), b=(-2, 1), c=(-1, 0.5), e=(0, 1))
    found = diff(before, after)
    assert [(one.tensor, one.change) for one in found] == [("d", None), ("e", None), ("b", 0.5), ("c", 0.25)]


def test_a_range_that_moved_without_growing_is_a_difference() -> None:
    (found,) = diff(file(a=(-1, 1)), file(a=(-2, 0)))
    assert found.change == 0.5


def test_ranges_by_different_methods_are_not_compared() -> None:
    other = dataclasses.replace(file(a=(-1, 1)), method="mse", methods={"mse": {"a": Range(-1, 1, "mse", 8)}})
    with pytest.raises(RecipeError, match="one file has ranges by minmax, the other by mse"):
        diff(file(a=(-1, 1)), other)


def test_options_for_making_are_refused_with_a_file(tmp_path: Path, tiny_build: TinyBuild) -> None:
    edgekit.write_ranges(tmp_path / "a.json", file(x=(-1.0, 2.0)))
    result = builds.cli("calibrate", str(tmp_path / "a.json"), "--rows", "3", cache=tiny_build.cache)
    assert result.exit_code == 2
    assert "--rows: only for making one" in result.stderr
    result = builds.cli(
        "calibrate", str(tmp_path / "a.json"), "--out", str(tmp_path / "b.json"), cache=tiny_build.cache
    )
    assert result.exit_code == 2
    assert "--out: only for making one" in result.stderr
    assert not (tmp_path / "b.json").exists()
    result = calibrate(tiny_build, "--set", f"calibrate.ranges={tmp_path / 'a.json'}")
    assert result.exit_code == 2
    assert "calibrate makes ranges" in result.stderr
    assert "runs" not in result.stderr
    result = builds.cli("calibrate", "model", "--data", "x", cache=tiny_build.cache)
    assert result.exit_code == 2
    assert "name it with --target" in result.stderr


@pytest.mark.parametrize(
    ("option", "message"), [("--out", "ranges cannot be written to"), ("--diff", "ranges cannot be read from")]
)
def test_files_are_looked_at_before_time_is_spent(
    tiny_build: TinyBuild, tmp_path: Path, option: str, message: str
) -> None:
    result = calibrate(tiny_build, option, str(tmp_path / "missing" / "ranges.json"), "--seed", "7")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "runs" not in result.stderr
