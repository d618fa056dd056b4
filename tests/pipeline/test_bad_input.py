"""Every bad input of the issue's list through the real command: one message, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builds
import pytest
from builds import Sources, check_store, cli

import edgekit
from edgekit.errors import RecipeError

Case = Callable[[Path, Sources], list[str]]
"""Makes one bad input below a folder; returns the arguments of `edgekit`, in which later ones win."""

GOOD = [{"text": f"{word} {n}", "label": word} for n in range(8) for word in ("yes", "no")]


def data_case(name: str, content: str | bytes, split: str = "train.jsonl") -> Case:
    """A data folder of good splits, one of which has other content."""

    def make(folder: Path, sources: Sources) -> list[str]:
        data = folder / "data"
        data.mkdir()
        for each in ("train", "dev", "test"):
            (data / f"{each}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
        (data / split).write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["--data", str(data)]

    make.__name__ = name
    return make


def model_case(name: str, change: Callable[[Path], object]) -> Case:
    """The teacher with one fault."""

    def make(folder: Path, sources: Sources) -> list[str]:
        model = folder / "model"
        shutil.copytree(sources.teacher, model)
        change(model)
        return [str(model)]

    make.__name__ = name
    return make


def target_case(name: str, *changes: tuple[str, str]) -> Case:
    """A target file with one fault."""

    def make(folder: Path, sources: Sources) -> list[str]:
        return ["--target", str(builds.write_target(folder / "mine.toml", *changes))]

    make.__name__ = name
    return make


def flags(name: str, *arguments: str) -> Case:
    """Good input with further flags."""

    def make(folder: Path, sources: Sources) -> list[str]:
        return list(arguments)

    make.__name__ = name
    return make


def edit_config(**changes: object) -> Callable[[Path], object]:
    """Changes config.json."""

    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | changes))

    return change


def truncate(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def out_is_a_file(folder: Path, sources: Sources) -> list[str]:
    (folder / "taken").write_text("mine")
    return ["--out", str(folder / "taken")]


def out_is_below_a_file(folder: Path, sources: Sources) -> list[str]:
    (folder / "taken").write_text("mine")
    return ["--out", str(folder / "taken" / "dist")]


def bundle_is_a_file(folder: Path, sources: Sources) -> list[str]:
    (folder / "own").mkdir()
    (folder / "own" / builds.TARGET).write_text("mine")
    return ["--out", str(folder / "own")]


def bundle_is_anothers_folder(folder: Path, sources: Sources) -> list[str]:
    (folder / "own" / builds.TARGET).mkdir(parents=True)
    (folder / "own" / builds.TARGET / "thesis.txt").write_text("mine")
    return ["--out", str(folder / "own")]


def two_targets_of_one_name(folder: Path, sources: Sources) -> list[str]:
    return ["--target", str(builds.write_target(folder / f"{builds.TARGET}.toml"))]


def unlike_labels(model: Path) -> None:
    names = ("red", "green", "blue", "white")
    edit_config(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})(model)


def index_without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {}}')


def not_finite(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


ROW = '{"text": "one", "label": "yes"}\n'
MALFORMED = ROW + ROW + '{"text": "two", "label"\n' + ROW
CASES: list[tuple[Case, str]] = [
    (flags("data_missing", "--data", "/nowhere/data"), r"data '/nowhere/data' does not exist"),
    (data_case("data_empty_file", ""), r"train\.jsonl is empty"),
    (data_case("data_blank_lines_only", "\n\n"), r"train\.jsonl has no rows|train\.jsonl is empty"),
    (data_case("data_test_empty", "", "test.jsonl"), r"test\.jsonl is empty"),
    (data_case("data_label_unknown", ROW + '{"text": "x", "label": "perhaps"}\n', "test.jsonl"),
     r"test\.jsonl holds 1 label that train lacks.*'perhaps' \(1 row\)"),
    (data_case("data_one_class", ROW * 5), r"train\.jsonl has one label only \(yes\)"),
    (flags("data_column_missing", "--set", "data.text=utterance"),
     r"train\.jsonl has no column 'utterance', its columns are 'label', 'text'"),
    (data_case("data_no_label_column", '{"text": "one"}\n'), r"no column .*--set data\.label=NAME"),
    (data_case("data_malformed_line", MALFORMED), r"train\.jsonl, line 3: not JSON"),
    (data_case("data_not_utf8", ROW.encode() + b'{"text": "caf\xe9", "label": "no"}\n'),
     r"train\.jsonl, line 2: byte \d+ \(0xe9\) is not UTF-8"),
    (flags("model_missing", "/nowhere/model"), r"model folder /nowhere/model does not exist"),
    (flags("model_hub_id_not_cached", "edgekit-tests/no-such-model"),
     r"'edgekit-tests/no-such-model' is neither a folder nor in the hub's cache.*--allow-download"),
    (flags("model_package_missing", "package:no_such_package_at_all/model"), r"package .* is not installed"),
    (model_case("model_without_config", lambda m: (m / "config.json").unlink()), r"has no config\.json"),
    (model_case("model_config_malformed", lambda m: (m / "config.json").write_text("{")), r"config\.json cannot be"),
    (model_case("model_without_weights", lambda m: (m / "model.safetensors").unlink()), r"has no model\.safetensors"),
    (model_case("model_without_tokenizer", lambda m: (m / "tokenizer.json").unlink()), r"has no tokenizer"),
    (model_case("model_tokenizer_malformed", lambda m: (m / "tokenizer.json").write_text("{")),
     r"tokenizer\.json cannot be read.*copy the checkpoint again"),
    (model_case("model_tokenizer_empty", lambda m: (m / "tokenizer.json").write_text("{}")),
     r"tokenizer\.json is not what a tokenizer saves"),
    (model_case("model_tokenizer_settings_malformed", lambda m: (m / "tokenizer_config.json").write_text("[")),
     r"tokenizer_config\.json cannot be read"),
    (model_case("model_index_empty", index_without_weights), r"index\.json names no weights"),
    (model_case("model_layers_no_number", edit_config(num_hidden_layers="two")), r"cannot be loaded|cannot load it"),
    (model_case("model_activation_unknown", edit_config(hidden_act="foo")), r"transformers cannot load it"),
    (model_case("model_architectures_no_list", edit_config(architectures=3)), r"'architectures' is 3; expected a list"),
    (model_case("model_without_positions", edit_config(max_position_embeddings=None)),
     r"'max_position_embeddings' is None|transformers cannot load it"),
    (model_case("model_other_width", edit_config(intermediate_size=48)),
     r"weights do not fit config\.json: .* has shape \(64,\), the configuration makes it \(48,\); 11 more differ"),
    (model_case("model_not_finite", not_finite), r"holds values that are not finite"),
    (flags("model_misspelt_and_long", "x" * 5000), r"does not exist"),
    (model_case("model_truncated", truncate), r"model\.safetensors is truncated.*copy it again"),
    (model_case("model_pickled", lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin")),
     r"only pickled weights \(pytorch_model\.bin\).*safe_serialization"),
    (model_case("model_without_frontend", edit_config(model_type="deberta-v2")),
     r"no frontend for model type 'deberta-v2'; there are: bert, distilbert, electra, mpnet, roberta, xlm-roberta"),
    (model_case("model_of_another_task", edit_config(architectures=["BertForTokenClassification"])),
     r"BertForTokenClassification, fine-tuned for token-classification; the task is text-classification"),
    (model_case("model_of_other_labels", unlike_labels), r"alarm"),
    (flags("task_unknown", "--task", "text-clasification"), r"did you mean 'text-classification'"),
    (flags("target_unknown", "--target", "x86_64"), r"unknown target 'x86_64'; did you mean 'x86-64'"),
    (flags("target_file_missing", "--target", "/nowhere/mine.toml"), r"/nowhere/mine\.toml does not exist"),
    (target_case("target_unknown_key", ("threads =", "thread =")), r"key 'device\.thread'; did you mean 'threads'"),
    (target_case("target_without_unit", ("file_bytes =", "file =")),
     r"unknown key 'budget\.file': give it with its unit, as 'file_bytes'"),
    (target_case("target_impossible", ("max_drop = 30.0", "max_drop = -1.0")), r"'gate\.max_drop' is -1\.0"),
    (target_case("target_endless", ("max_drop = 30.0", "max_drop = nan")), r"'gate\.max_drop' is nan"),
    (target_case("target_no_operators", ('ops = ["Gemm", "Gather"]', "ops = []")), r"'quant\.ops' is empty"),
    (two_targets_of_one_name, r"two targets have one name"),
    (flags("target_twice", "--target", "x86-64", "--target", "x86-64"), r"a target is named twice"),
    (flags("limit_negative_drop", "--max-drop", "-1"), r"max_drop is -1\.0; it must lie between 0 and 100"),
    (flags("limit_zero_latency", "--max-latency-ms", "0"), r"max_latency_ms is 0\.0; it must be positive"),
    (flags("limit_endless_latency", "--max-latency-ms", "inf"), r"max_latency_ms is inf"),
    (flags("limit_no_number", "--max-size-mb", "nan"), r"max_size_mb is nan"),
    (flags("limit_no_instructions", "--max-instructions", "0"), r"max_instructions is 0"),
    (flags("limit_confidence", "--confidence", "2"), r"confidence is 2\.0; it must lie between 0\.5 and 1"),
    (flags("seed_negative", "--seed", "-1"), r"seed is -1"),
    (out_is_a_file, r"taken is a file; give another --out"),
    (out_is_below_a_file, r"taken is a file; give another --out"),
    (bundle_is_a_file, r"is not a bundle of edgekit's"),
    (bundle_is_anothers_folder, r"is not a bundle of edgekit's"),
    (flags("set_unknown_stage", "--set", "destill.epochs=2"), r"no stage 'destill'.*did you mean 'distill'"),
    (flags("set_unknown_option", "--set", "distill.epoch=2"), r"no option 'epoch'; did you mean 'epochs'"),
    (flags("set_wrong_type", "--set", "distill.epochs=two"), r"distill\.epochs is 'two'; expected an integer"),
    (flags("set_no_number", "--set", "distill.learning_rate=nan"), r"distill\.learning_rate is 'nan'"),
    (flags("set_impossible", "--set", "distill.epochs=-1"), r"epochs must not be negative"),
    (flags("set_too_many_layers", "--set", "distill.layers=9"), r"distill\.layers is 9, but the teacher has 4"),
    (flags("set_layer_not_there", "--set", "distill.layers=0", "--set", "distill.keep=1,4"),
     r"distill\.keep names layer 4; the teacher has 4, counted from 0"),
    (flags("set_limit", "--set", "gate.max_drop=1"), r"'gate' has no options; limits are set with --max-drop"),
    (flags("set_malformed", "--set", "distill"), r"expected stage\.option=value"),
    (flags("device_unknown_scheme", "--device", "qemo:cortex-a76"), r"no device scheme 'qemo'.*did you mean 'qemu'"),
    (flags("device_malformed", "--device", "local:1"), r"expected just 'local'"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "message"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_one_message_and_nothing_left(case: Case, message: str, sources: Sources, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "dist"
    folder = tmp_path / "given"
    folder.mkdir()
    changed = case(folder, sources)
    arguments = sources.args(out)
    if changed and not changed[0].startswith("--"):
        arguments[1] = changed.pop(0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    result = cli(*arguments, *changed, cache=cache)

    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(re.findall(r"^Error: ", result.stderr, re.MULTILINE)) == 1, result.stderr
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert "Traceback" not in result.output
    assert not out.exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    check_store(cache)


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_an_unreachable_device_has_an_exit_code_of_its_own(sources: Sources, tmp_path: Path) -> None:
    result = cli(*sources.args(tmp_path / "dist"), "--device", "qemu:cortex-a76", cache=tmp_path / "cache")
    assert result.exit_code == 5, result.output
    assert re.findall(r"^Error: (.*)", result.stderr, re.MULTILINE) == [
        "device qemu:cortex-a76 cannot be used: the Arm userland is not there yet: run `edgekit devices prepare "
        "qemu:cortex-a76`"
    ]
    assert not (tmp_path / "dist").exists()


def test_without_a_model_and_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("build", cache=tmp_path / "cache")
    assert result.exit_code == 2
    assert "there is no recipe edgekit.toml; give MODEL and --data, or run `edgekit init`" in result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": "x86-64"}, r"targets is 'x86-64'; expected a sequence of names"),
        ({"targets": 5}, r"targets is 5; expected a sequence of names"),
        ({"options": []}, r"options is \[\]; expected stage"),
        ({"limits": {"max_drop": 1}}, r"limits is .*; expected edgekit\.Limits"),
        ({"seed": "a"}, r"seed is 'a'; expected an integer"),
        ({"options": {"distill": 3}}, r"options is .*; expected stage"),
        ({"task": 3}, r"task is 3; expected text"),
    ],
)
def test_python_code_gives_the_wrong_type(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        edgekit.make_recipe(**({"model": "m", "data": "d", "targets": ("x86-64",)} | given))


def test_a_device_in_the_recipe_counts(sources: Sources, tmp_path: Path) -> None:
    recipe = tmp_path / "edgekit.toml"
    recipe.write_text(f'model = "{sources.teacher}"\ndata = "{sources.data}"\ntargets = ["x86-64"]\ndevice = "foo"\n')
    result = cli("build", "--recipe", recipe, "--plan", cache=tmp_path / "cache")
    assert result.exit_code == 2
    assert "no device scheme 'foo'" in result.stderr


def test_a_byte_order_mark_is_no_fault(sources: Sources, tmp_path: Path) -> None:
    recipe = tmp_path / "edgekit.toml"
    text = f'\ufeffmodel = "{sources.teacher}"\ndata = "{sources.data}"\ntargets = ["{sources.target}"]\n'
    recipe.write_text(text, encoding="utf-8")
    result = cli("build", "--recipe", recipe, "--plan", cache=tmp_path / "cache")
    assert result.exit_code == 0, result.output
