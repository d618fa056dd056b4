"""What all commands share: options, how results are printed, and what happens to faults.

A fault gives one message and an exit code; an internal error a file to report besides.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.errors import EdgekitError
from edgekit.world import current_world

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

DEVICE_HELP = "Device to measure on, such as local or qemu:cortex-a76 (default: the best that is ready here)."
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# Faults of the machine that no stage explains: the message names them, and there is nothing of edgekit's to report.
_SURROUNDINGS = (errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPIPE)


class FaultGroup(click.Group):
    """Prints edgekit's own errors as one message, and anything else as an internal error with a reproducer."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a sign gets a question mark, not a crash
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        try:
            return super().main(*args, **kwargs)
        except EdgekitError as error:
            if current_world().leads:
                report = f"\nPlease report it with {_reproducer(error)}" if error.exit_code == 1 else ""
                click.echo(f"Error: {error}{report}", err=True)
            sys.exit(error.exit_code)
        except (click.exceptions.Exit, SystemExit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _SURROUNDINGS:
                where = f": {error.filename}" if error.filename else " on the standard output or a temporary file"
                _say(f"Error: {error.strerror}{where}")
                sys.exit(2)
            path = _reproducer(error)
            click.echo(f"Internal error: {type(error).__name__}: {error}\nPlease report it with {path}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("Interrupted. What was finished is kept: the same command goes on from there.")
            sys.exit(INTERRUPTED)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr itself may be what cannot be written
        click.echo(text, err=True)


def _reproducer(error: Exception) -> Path:
    """Writes what is needed to look into an internal error: the command, versions and the trace."""
    from importlib.metadata import version

    from edgekit.paths import cache_dir

    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    packages = ("edgekit", "torch", "transformers", "onnx", "onnxruntime", "datasets", "numpy")
    lines = ["command: " + " ".join(sys.argv), f"python: {sys.version}", *(f"{p}: {version(p)}" for p in packages)]
    text = "\n".join(lines) + "\n\n" + "".join(traceback.format_exception(error))
    try:
        path = cache_dir() / "crashes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (OSError, EdgekitError):  # the cache may be what is wrong
        path = Path(tempfile.mkdtemp(prefix="edgekit-crash-")) / name
        path.write_text(text, encoding="utf-8")
    return path


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --device."""
    return click.option("--device", default="", metavar="URI", help=DEVICE_HELP)(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def print_result(result: object, shown: RenderableType, as_json: bool) -> None:
    """Prints a result as JSON, or what is shown of it."""
    if as_json:
        print_json(plain(result))
    else:
        console().print(shown)


def plain(result: object) -> Any:
    """Returns a result of dataclasses as JSON values."""
    from edgekit.codec import encode

    return json.loads(json.dumps(encode(result), default=str))


def print_json(value: object) -> None:
    """Prints JSON on stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """Returns the terminal, or what stands for it."""
    from rich.console import Console

    return Console()


def columns_of(settings: Sequence[str], command: str) -> dict[str, str]:
    """Returns the columns that `--set data.ROLE=COLUMN` names, by role.

    Raises:
        RecipeError: a setting is of another kind.
    """
    from edgekit.errors import RecipeError
    from edgekit.recipe import parse_settings

    chosen = parse_settings(settings)
    if set(chosen) - {"data"}:
        given = ", ".join(settings)
        raise RecipeError(f"--set {given}: {command} takes columns of the data only, such as data.text=NAME")
    return chosen.get("data", {})
