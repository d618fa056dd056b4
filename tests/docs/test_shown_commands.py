"""Every command that the documentation or a help text shows is one that the command line takes."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from docs_markdown import ROOT, commands

from edgekit.cli import main
from edgekit.devices import module_for
from edgekit.recipe import parse_settings
from edgekit.stages import ORDER
from edgekit.target import shipped_targets

SHOWN = commands()
OTHERS = ("source", ".venv/bin/python")


Path = tuple[str, ...]


def _all_commands(command: click.Command, path: Path = ()) -> Iterator[tuple[Path, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _all_commands(child, (*path, name))


COMMANDS = list(_all_commands(main))


def parse(words: list[str]) -> click.Context:
    """Parses the words behind `edgekit` without running anything; returns the innermost command's context."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        raise click.UsageError(f"no such command: {words[0]}")
    try:
        return command.make_context(command.name, list(words))
    except click.exceptions.Exit:  # --help, --version
        return click.Context(command)


def check_values(params: dict[str, object]) -> None:
    """Checks the values that stand for something in edgekit: stages' options, targets, devices."""
    options = {cls.NAME: {field.name for field in dataclasses.fields(cls)} for cls in ORDER}
    for stage, settings in parse_settings(params.get("settings") or ()).items():  # type: ignore[arg-type]
        assert set(settings) <= options[stage]
    for name in params.get("targets") or ():  # type: ignore[attr-defined]
        assert name in shipped_targets() or name.endswith(".toml")
    for name in ("device", "uri"):
        if params.get(name):
            module_for(str(params[name])).connect(str(params[name]))


@pytest.mark.parametrize("words", [words for _, words in SHOWN], ids=[where for where, _ in SHOWN])
def test_command_of_a_page_parses(words: list[str]) -> None:
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        rules = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
        given = {word.partition("=")[0] for word in words[1:] if "=" in word}
        assert {word for word in words[1:] if "=" not in word} <= set(rules)
        assert all(f"$({name})" in makefile for name in given)
    elif words[0] == "edgekit":
        check_values(parse(words[1:]).params)
    elif words[0] == "python":
        shown = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in shown for word in words[2:] if word.startswith("-"))
    else:
        assert words[0] in OTHERS


def test_pages_show_commands() -> None:
    shown = {words[1] for _, words in SHOWN if words[0] == "edgekit"}
    assert set(main.commands) <= shown


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(("edgekit", *path)) for path, _ in COMMANDS])
def test_help_is_shown(path: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert command.help


@pytest.mark.parametrize(
    ("path", "command"), COMMANDS[1:], ids=[" ".join(("edgekit", *path)) for path, _ in COMMANDS[1:]]
)
def test_help_has_an_example_that_parses(path: tuple[str, ...], command: click.Command) -> None:
    assert command.epilog
    assert command.epilog.startswith("Example: edgekit ")
    words = shlex.split(command.epilog.removeprefix("Example: edgekit "))
    assert words[0] == path[0]
    check_values(parse(words).params)


@pytest.mark.parametrize("words", [["bild"], ["build", "--max-drip", "1"], ["cache", "purge"], ["eval", "dist/arm64"]])
def test_a_wrong_command_does_not_parse(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(words)
