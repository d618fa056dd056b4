"""Recipes: the file, the flags, the limits, and what a wrong one says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import edgekit
from edgekit.errors import RecipeError
from edgekit.recipe import (
    Limits,
    Recipe,
    check_limits,
    convert,
    load_recipe,
    make_stage,
    parse_settings,
    with_limits,
)
from edgekit.stages import ORDER
from edgekit.stages.calibrate import Calibrate
from edgekit.stages.distill import Distill
from edgekit.target import load_target


def write(folder: Path, text: str) -> Path:
    """Writes edgekit.toml."""
    path = folder / "edgekit.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_recipe_is_read(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    path = write(
        tmp_path,
        'model = "teacher"\ndata = "rows.csv"\ntask = "text-classification"\ntargets = ["arm64", "own.toml"]\n'
        'out = "built"\ndevice = "local"\nseed = 7\n[limits]\nmax_drop = 1\nmax_size_mb = 8.5\n'
        "max_instructions = 1000\n[set.distill]\nepochs = 2\n[set.trim]\nenabled = true\n",
    )
    recipe = edgekit.load_recipe(path)
    assert recipe == Recipe(
        model=str(tmp_path / "teacher"),
        data=str(tmp_path / "rows.csv"),
        targets=("arm64", str(tmp_path / "own.toml")),
        out=str(tmp_path / "built"),
        device="local",
        seed=7,
        limits=Limits(max_drop=1.0, max_size_mb=8.5, max_instructions=1000),
        options={"distill": {"epochs": 2}, "trim": {"enabled": True}},
    )


def test_the_repositorys_own_recipe_is_valid() -> None:
    root = Path(__file__).parents[1]
    recipe = edgekit.load_recipe(root / "edgekit.toml")
    assert recipe.model.startswith("package:")
    assert Path(recipe.data).is_dir()
    for name in recipe.targets:
        load_target(name)


def test_locations_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'model = "org/name"\ndata = "package:corpus/rows"\nout = "/elsewhere"\n')
    values = load_recipe(path)
    assert values["model"] == "org/name"  # no such folder beside the file: a hub id
    assert values["data"] == "package:corpus/rows"
    assert values["out"] == "/elsewhere"


def test_flags_replace_what_the_file_says(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'model = "package:a/b"\ndata = "package:c/d"\nseed = 3\n[limits]\nmax_drop = 1.0\nmax_size_mb = 4\n'
        "[set.distill]\nepochs = 2\nlayers = 2\n",
    )
    options = {"distill": {"epochs": "9"}, "trim": {}}
    recipe = edgekit.load_recipe(path, seed=0, out=None, targets=(), limits=Limits(max_drop=0.0), options=options)
    assert (recipe.seed, recipe.out) == (0, "dist")
    assert recipe.limits == Limits(max_drop=0.0, max_size_mb=4.0)
    assert recipe.options == {"distill": {"epochs": "9", "layers": 2}, "trim": {}}


@pytest.mark.parametrize("missing", ["model", "data"])
def test_a_recipe_without_model_or_data_is_refused(missing: str) -> None:
    given = {"model": "m", "data": "d"} | {missing: ""}
    with pytest.raises(RecipeError, match=f"no {missing} given"):
        edgekit.make_recipe(**given, targets=("x86-64",))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(RecipeError, match=f"seed is {seed}; it must lie between 0"):
        edgekit.make_recipe("m", "d", targets=("x86-64",), seed=seed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "x"', "unknown key 'modle'; did you mean 'model'"),
        ("allow_download = true", "unknown key 'allow_download'"),
        ("model = 3", "'model' is 3; expected text"),
        ('seed = "x"', "'seed' is 'x'; expected an integer"),
        ("seed = true", "'seed' is True; expected an integer"),
        ("seed = 1.5", "'seed' is 1.5; expected an integer"),
        ('targets = "arm64"', "'targets' must be a list of names, is 'arm64'"),
        ("targets = [1]", "'targets' must be a list of names"),
        ("limits = 3", "'limits' must be a table, is 3"),
        ("[limits]\nmax_dorp = 1", "unknown limit 'max_dorp'; did you mean 'max_drop'"),
        ('[limits]\nmax_drop = "low"', "'limits.max_drop' is 'low'; expected a number"),
        ("[limits]\nmax_instructions = 1.5", "'limits.max_instructions' is 1.5; expected an integer"),
        ("[set]\nepochs = 3", "one table a stage"),
        ("set = 3", "one table a stage"),
        ("model = ", "not a readable TOML file"),
    ],
)
def test_a_wrong_file_says_what_is_wrong_and_where(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_unreadable_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="edgekit init"):
        load_recipe(tmp_path / "edgekit.toml")
    with pytest.raises(RecipeError, match="not a readable TOML file"):
        load_recipe(tmp_path)


def test_settings_are_parsed_into_stages() -> None:
    found = parse_settings(["distill.epochs=4", "data.text=a=b", "distill.layers=2", "trim.enabled="])
    assert found == {"distill": {"epochs": "4", "layers": "2"}, "data": {"text": "a=b"}, "trim": {"enabled": ""}}
    assert parse_settings([]) == {}


@pytest.mark.parametrize("setting", ["distill.epochs", "epochs=4", ".epochs=4", "distill.=4", "", "=", "."])
def test_a_setting_of_another_form_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match=r"expected stage\.option=value"):
        parse_settings([setting])


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("4", int, 4), (4, int, 4), (4.0, int, 4), ("-3", int, -3),
        ("0.5", float, 0.5), (1, float, 1.0), ("1e-4", float, 1e-4),
        ("true", bool, True), ("false", bool, False), (True, bool, True),
        ("x", str, "x"), ("", str, ""), ("4", str, "4"),
        ("none", bool | None, None), (None, int | None, None), ("true", bool | None, True), ("3", int | None, 3),
        ("a,b", tuple[str, ...], ("a", "b")), (["a"], tuple[str, ...], ("a",)), ("1,2", tuple[int, ...], (1, 2)),
    ],
)  # fmt: skip
def test_values_are_converted_to_the_fields_type(value: Any, hint: Any, expected: Any) -> None:
    found = convert(value, hint, "s.o")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("four", int, "s.o is 'four'; expected an integer"),
        ("4.5", int, "an integer"),
        (4.5, int, "an integer"),
        (True, int, "an integer"),
        (True, float, "a number"),
        ("", float, "a number"),
        ([1], float, "a number"),
        ("nan", float, "a number"),
        ("inf", float, "a number"),
        (float("inf"), float, "a number"),
        (float("inf"), int, "an integer"),
        ("yes", bool, "true or false"),
        (4, str, "text"),
        (4, tuple[str, ...], "a list"),
        ("x", int | None, "an integer"),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        convert(value, hint, "s.o")


@dataclass(frozen=True)
class Sample:
    """A stage's options."""

    epochs: int = 1
    rate: float = 0.5

    NAME: ClassVar[str] = "sample"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")


def test_a_stage_is_made_from_text_over_its_defaults() -> None:
    assert make_stage(Sample, {"epochs": "3"}) == Sample(3, 0.5)
    assert make_stage(Distill, {"temperature": "4"}).temperature == 4.0


def test_an_unknown_option_suggests_the_nearest_and_an_impossible_value_names_the_stage() -> None:
    with pytest.raises(RecipeError, match="stage 'sample' has no option 'epoch'; did you mean 'epochs'"):
        make_stage(Sample, {"epoch": "3"})
    with pytest.raises(RecipeError, match="has no option 'NAME'"):
        make_stage(Sample, {"NAME": "x"})
    with pytest.raises(RecipeError, match="stage 'sample': epochs must be at least 1"):
        make_stage(Sample, {"epochs": "0"})
    with pytest.raises(RecipeError, match=r"sample\.rate is 'fast'; expected a number"):
        make_stage(Sample, {"rate": "fast"})


@pytest.mark.parametrize("stage", ORDER, ids=lambda stage: stage.NAME)
def test_every_stage_is_made_from_its_own_defaults_as_text(stage: Any) -> None:
    made = make_stage(stage, {})
    text = {
        field.name: "none" if (value := getattr(made, field.name)) is None else
        str(value).lower() if isinstance(value, bool) else
        ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for field in dataclasses.fields(stage) if not field.metadata.get("internal")
    }  # fmt: skip
    assert make_stage(stage, text) == made


def test_what_a_stage_fills_in_itself_is_no_option() -> None:
    with pytest.raises(RecipeError, match="stage 'calibrate' has no option 'ranges_digest'; did you mean 'ranges'"):
        make_stage(Calibrate, {"ranges_digest": "abc"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_drop": -0.1}, "max_drop"),
        ({"max_drop": 100.5}, "max_drop"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"max_latency_ms": 0.0}, "max_latency_ms is 0.0; it must be positive"),
        ({"max_instructions": -5}, "max_instructions"),
        ({"max_size_mb": 0}, "max_size_mb"),
        ({"max_size_mb": float("nan")}, "max_size_mb"),
        ({"confidence": 0.5}, "confidence"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_impossible_limits_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_limits(Limits(**given))


def test_possible_limits_are_accepted() -> None:
    check_limits(Limits())
    check_limits(Limits(0.0, 0.1, 1, 0.001, 0.95))


def test_limits_replace_the_targets_own_and_leave_the_rest() -> None:
    target = load_target("x86-64")
    assert with_limits(target, Limits()) == target
    changed = with_limits(target, Limits(0.0, 3.5, 10**6, 8.0, 0.9))
    assert (changed.gate.max_drop, changed.gate.confidence) == (0.0, 0.9)
    assert changed.gate.min_examples == target.gate.min_examples
    budget = changed.budget
    assert (budget.latency_p95_ms, budget.instructions, budget.file_bytes) == (3.5, 10**6, 8_000_000)
    assert (changed.device, changed.shape, changed.quant) == (target.device, target.shape, target.quant)


def test_a_policy_of_ones_own_is_relative_to_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, 'model = "m"\ndata = "d"\n[set.calibrate]\npolicy = "own.toml"\nrows = 5\n')
    assert load_recipe(path)["options"]["calibrate"] == {"policy": str(tmp_path / "own.toml"), "rows": 5}
    path = write(tmp_path, 'model = "m"\ndata = "d"\n[set.calibrate]\npolicy = "moving-average"\n')
    assert load_recipe(path)["options"]["calibrate"] == {"policy": "moving-average"}
    path = write(tmp_path, 'model = "m"\ndata = "d"\n[set.profile]\ntable = "costs.json"\n')
    assert load_recipe(path)["options"]["profile"] == {"table": str(tmp_path / "costs.json")}
