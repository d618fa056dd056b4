"""Progress of a build on stderr: a line a stage, and a bar while one runs where stderr is a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from edgekit.report.figures import duration
from edgekit.world import current_world

LOG_WIDTH = 1000
LOG_EVERY_S = 60.0


class Progress:
    """An observer of builds (`edgekit.action.Observer`) that prints; a context manager."""

    def __init__(self) -> None:
        # A log gets whole lines, which a search finds; a terminal's width is its own.
        width = None if sys.stderr.isatty() else LOG_WIDTH
        self._console = Console(stderr=True, quiet=not current_world().leads, width=width)
        self._bar = Bar(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, target: str, stage: str, reason: str) -> None:
        """Shows a stage that starts."""
        self._console.print(
            Text.assemble((f"{target:>10}  {stage:<10} ", ""), ("runs     ", "yellow"), (reason, "dim"))
        )
        self._task = self._bar.add_task(stage, total=None, what="")
        self._said = time.monotonic()

    def progressed(self, done: int, total: int, what: str) -> None:
        """Moves the bar; a log gets a line a minute."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, what=what)
        if not sys.stderr.isatty() and time.monotonic() - self._said > LOG_EVERY_S:
            self._said = time.monotonic()
            self._console.print(Text(f"{'':>12}{done:,} of {total:,} {what}", style="dim"))

    def rows(self, done: int, total: int) -> None:
        """Moves the bar of a command that runs rows on a device."""
        if self._task is None:
            self._task = self._bar.add_task("rows", total=total, what="rows")
        self.progressed(done, total, "rows")

    def finished(self, target: str, made: Any) -> None:
        """Shows a stage that has ended or was found."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        state = ("cached   ", "dim") if made.cached else ("done     ", "green")
        detail = made.reason if made.cached else f"in {duration(made.seconds)}"
        self._console.print(Text.assemble((f"{target:>10}  {made.stage:<10} ", ""), state, (detail, "dim")))

    def noted(self, text: str) -> None:
        """Shows a note."""
        self._console.print(Text(text, style="yellow"))
