"""The commands around a build: init, targets, devices, cache, explain; and what starting one costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import builds
import pytest
from builds import STAGES, TARGET, TinyBuild, cli

import edgekit
from edgekit.target import shipped_targets

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "datasets", "numpy", "huggingface_hub")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["build", "--help"], ["targets"], ["targets", "arm64"]])
def test_light_commands_import_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom edgekit.cli import main\n"
        f"try: main({command!r})\nexcept SystemExit as end: assert not end.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=builds.environment(tmp_path)
    )
    assert done.stdout
    # What devices and backends say of themselves is asked for `targets`; they speak in arrays.
    assert done.stderr == ("['numpy']\n" if command[0] == "targets" else "[]\n")


@pytest.mark.parametrize(
    "command",
    ["build", "eval", "bench", "gate", "explain", "lint", "verify", "targets", "devices", "devices prepare", "init",
     "cache", "cache info", "cache prune"],
)  # fmt: skip
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    result = cli(*command.split(), "--help", cache=tmp_path)
    assert result.exit_code == 0
    assert "Example: edgekit " in result.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["biuld"], "No such command 'biuld'"),
        (["build", "--targets", "arm64"], "No such option"),
        (["build", "--seed", "one"], "'one' is not a valid integer"),
        (["eval", "dist/arm64"], "Missing option '--data'"),
        (["cache", "prune", "--keep-mb", "-1"], "-1"),
        (["cache", "prune"], "Missing option '--keep-mb'"),
    ],
)
def test_wrong_usage(command: list[str], message: str, tmp_path: Path) -> None:
    result = cli(*command, cache=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_an_internal_error_says_where_its_reproducer_is(sources: builds.Sources, tmp_path: Path) -> None:
    """The only fault that is made up here: of those that edgekit knows, none is an internal error."""
    cache = tmp_path / "cache"
    program = (
        "import sys, edgekit.cli as cli\nimport edgekit\nedgekit.plan = lambda *a, **k: 1 / 0\ncli.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *sources.args(tmp_path / "dist", "--plan")],
        capture_output=True, text=True, env=builds.environment(cache),
    )  # fmt: skip
    assert done.returncode == 1
    assert "Internal error: ZeroDivisionError: division by zero\n" in done.stderr
    assert "Traceback" not in done.stderr
    (crash,) = (cache / "crashes").iterdir()
    assert str(crash) in done.stderr
    text = crash.read_text()
    assert "ZeroDivisionError" in text
    assert "onnxruntime: " in text


def test_init_asks_for_what_is_not_given(here: Path, tmp_path: Path) -> None:
    result = cli("init", cache=tmp_path / "cache", stdin="my-model\nmy data\n")
    assert result.exit_code == 0, result.output
    assert "wrote edgekit.toml; now run: edgekit build" in result.stdout
    recipe = edgekit.load_recipe()
    assert (recipe.model, recipe.data) == ("my-model", "my data")
    assert recipe.targets == tuple(shipped_targets())


def test_init_writes_a_recipe_that_builds(here: Path, tiny_build: TinyBuild, tmp_path: Path) -> None:
    sources = tiny_build.sources
    flags = ["--model", sources.teacher, "--data", sources.data, "--target", sources.target, "--max-drop", "12.5"]
    assert cli("init", *flags, cache=tmp_path / "cache").exit_code == 0
    recipe = edgekit.load_recipe(here / "edgekit.toml")
    assert recipe.limits.max_drop == 12.5
    assert recipe.targets == (str(sources.target),)
    (here / "edgekit.toml").write_text(
        (here / "edgekit.toml").read_text()
        + "".join(f"[set.{name}]\n{options}" for name, options in settings().items())
    )
    cache = tiny_build.copy_cache(tmp_path / "cache2")
    result = cli("build", "--device", "local", cache=cache)
    assert result.exit_code in (0, 3), result.output
    judging = ["quantize", "select", "gate"]  # another limit than the finished build's, and nothing else
    assert builds.ran(here / "dist" / TARGET) == judging, "the flags and the file mean the same"


def settings() -> dict[str, str]:
    """The settings of the tiny build as tables of a recipe."""
    tables: dict[str, str] = {}
    for setting in builds.SETTINGS:
        name, _, value = setting.partition("=")
        stage, _, option = name.partition(".")
        text = value if value[0].isdigit() else f'"{value}"'
        tables[stage] = tables.get(stage, "") + f"{option} = {text}\n"
    return tables


def test_init_does_not_overwrite(here: Path, tmp_path: Path) -> None:
    (here / "edgekit.toml").write_text("# mine\n")
    flags = ["init", "--model", "m", "--data", "d"]
    result = cli(*flags, cache=tmp_path)
    assert result.exit_code == 2
    assert "is there already; give --force to replace it" in result.stderr
    assert (here / "edgekit.toml").read_text() == "# mine\n"
    assert cli(*flags, "--force", cache=tmp_path).exit_code == 0
    assert edgekit.load_recipe().model == "m"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "arm"], "unknown target 'arm'"),
        (["--task", "translation"], "task"),
        (["--max-drop", "-2"], "max_drop is -2.0"),
    ],
)
def test_init_refuses(flags: list[str], message: str, here: Path, tmp_path: Path) -> None:
    result = cli("init", "--model", "m", "--data", "d", *flags, cache=tmp_path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "ünïcode", "two\nlines", "tab\there"])
def test_init_quotes(name: str, here: Path, tmp_path: Path) -> None:
    assert cli("init", "--model", name, "--data", name, cache=tmp_path).exit_code == 0
    assert edgekit.load_recipe().model == name
    assert edgekit.load_recipe().data == name


def test_targets_lists_and_shows(sources: builds.Sources, tmp_path: Path) -> None:
    listed = cli("targets", cache=tmp_path)
    assert listed.exit_code == 0
    profiles = json.loads(cli("targets", "--json", cache=tmp_path).stdout)
    assert [p["name"] for p in profiles] == list(shipped_targets())
    for name in shipped_targets():
        assert name in listed.stdout
        one = cli("targets", name, cache=tmp_path)
        assert one.exit_code == 0
        assert edgekit.load_target(name).device.arch in one.stdout
    own = json.loads(cli("targets", sources.target, "--json", cache=tmp_path).stdout)
    assert own["name"] == TARGET
    assert own["here"]["device"]
    wrong = cli("targets", "arm46", cache=tmp_path)
    assert wrong.exit_code == 2
    assert "did you mean 'arm64'" in wrong.stderr


def test_targets_says_what_can_be_taken_here_and_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cache there is no Arm userland, and a package that is not there is named with its extra."""
    monkeypatch.setattr("edgekit.backends.litert.missing", lambda: "litert-torch is not installed")
    found = {one["name"]: one["here"] for one in json.loads(cli("targets", "--json", cache=tmp_path).stdout)}
    assert found["android"]["lacks"][0] == "litert-torch is not installed"
    assert "edgekit devices prepare qemu:cortex-a76" in found["arm64"]["lacks"][-1]
    assert found["arm64"]["accuracy"] == "estimated"
    assert found["arm64"]["instructions"] is None
    listed = " ".join(cli("targets", cache=tmp_path).stdout.split())
    assert "android lacks: litert-torch is not installed" in listed
    assert "○ accuracy" in listed
    local = next(one for uri, _, one in [*edgekit.devices.listed()] if uri == "local")
    assert (found["x86-64"]["device"] == "local") is (local is None)


def test_devices_says_which_are_ready(tmp_path: Path) -> None:
    result = cli("devices", cache=tmp_path)
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert " ready: " in lines["local"]
    assert " not ready: " in lines["qemu:cortex-a76"], "the cache is empty, so there is no userland"
    assert cli("devices", "prepare", "local", cache=tmp_path).stdout == "local is ready\n"
    wrong = cli("devices", "prepare", "locale", cache=tmp_path)
    assert wrong.exit_code == 2
    assert "did you mean 'local'" in wrong.stderr


def test_cache_info_and_prune(tiny_build: TinyBuild, tmp_path: Path) -> None:
    cache = tiny_build.copy_cache(tmp_path / "cache")
    info = json.loads(cli("cache", "info", "--json", cache=cache).stdout)
    assert (info["root"], info["actions"]) == (str(cache / "store"), len(STAGES))
    assert info["size_bytes"] > 100_000
    text = cli("cache", "info", cache=cache).stdout
    assert f"{info['objects']} artifacts of {info['actions']} actions" in text
    kept = json.loads(cli("cache", "prune", "--keep-mb", "0.4", "--json", cache=cache).stdout)
    assert 0 < kept["actions"] < info["actions"]
    assert json.loads(cli("cache", "prune", "--keep-mb", "0", "--json", cache=cache).stdout)["objects"] == 0
    builds.check_store(cache)


def test_an_empty_cache_is_no_fault(tmp_path: Path) -> None:
    for command in (["info"], ["prune", "--keep-mb", "0"]):
        result = cli("cache", *command, cache=tmp_path / "new")
        assert result.exit_code == 0
        assert "0 artifacts of 0 actions, 0.0 MB" in result.stdout


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = cli("cache", "info", cache=tmp_path / "file")
    assert result.exit_code == 2
    assert "set EDGEKIT_CACHE" in result.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_explain_says_what_each_stage_did(tiny_build: TinyBuild, tmp_path: Path) -> None:
    steps = json.loads(cli("explain", tiny_build.bundle, "--json", cache=tmp_path).stdout)
    assert [step["stage"] for step in steps] == list(STAGES)
    text = cli("explain", tiny_build.bundle, cache=tmp_path).stdout
    assert "not built before" in text
    for stage in STAGES:
        assert stage in text
    wrong = cli("explain", tmp_path, cache=tmp_path)
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("Error: ")


def test_build_with_a_qemu_scheme_but_no_processor(sources: builds.Sources, tmp_path: Path) -> None:
    result = cli(*sources.args(tmp_path / "dist"), "--device", "qemu:", cache=tmp_path / "cache")
    assert result.exit_code in (2, 5)
    assert result.stderr.count("Error: ") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_says_that_the_same_command_goes_on(sources: builds.Sources, tmp_path: Path) -> None:
    # A shell starts what it runs in the background with the signal ignored, and children inherit that.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = builds.start(sources.args(tmp_path / "dist", "--seed", "77"), tmp_path / "cache", **listening)
    assert process.stderr is not None
    for line in process.stderr:
        if "distill" in line and "runs" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.strip().endswith("the same command goes on from there.")
    assert "Traceback" not in errors


def test_a_terminal_without_the_signs_is_no_fault(tiny_build: TinyBuild, tmp_path: Path) -> None:
    environment = builds.environment(tmp_path) | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "gate", str(tiny_build.out)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written(tiny_build: TinyBuild, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "gate", str(tiny_build.out)],
            stdout=full, stderr=subprocess.PIPE, text=True, env=builds.environment(tmp_path),
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No space left on device")


def test_a_cache_of_nobody(tmp_path: Path) -> None:
    result = cli("cache", "info", cache=Path("~no-such-user/x"))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: EDGEKIT_CACHE is '~no-such-user/x'")


def test_plan_without_the_cache(tiny_build: TinyBuild, tmp_path: Path) -> None:
    arguments = tiny_build.sources.args(tmp_path / "dist", "--plan", "--no-cache", "--json")
    steps = json.loads(cli(*arguments, cache=tiny_build.cache).stdout)
    assert not any(step["cached"] for step in steps)
    assert steps[0]["reason"] == "the cache is off"


def test_what_the_package_offers() -> None:
    assert edgekit.Limits(max_drop=1.0).max_drop == 1.0
    assert edgekit.__version__[0].isdigit()
