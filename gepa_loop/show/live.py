"""What a person sees while a run goes on: a live panel on a terminal, plain lines when piped."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from gepa_loop.outside.redact import printable
from gepa_loop.scores.numbers import decimal
from gepa_loop.show.names import named

PLAIN_SECONDS = 10.0
"""Least time between two progress lines of one stage when there is no terminal."""


class View:
    """Shows a run's stages as they happen; implements `stages.observer.Observer`.

    On a terminal it is one live line: round, stage, candidate, a bar, facts, time spent and left. Elsewhere each
    stage prints a line, and its progress at most every `PLAIN_SECONDS`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._live = Live(self._bar, console=console, refresh_per_second=4, transient=True)
        self._task: Any = None
        self._title, self._complete, self._line = "", False, ""
        self._kept: dict[str, str] = {}
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._close_stage(kind is None)
        if self.console.is_terminal:
            self._live.stop()

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        """A stage begins; the one before it becomes a line with its duration and last facts."""
        self._close_stage(True)
        parts = ["" if round is None else f"round {round}", name, named(candidate or "")]
        self._title = printable(" · ".join(part for part in parts if part))
        self._began = self._printed = time.monotonic()
        self._kept, self._complete, self._line = {}, False, ""
        if self.console.is_terminal:
            self._task = self._bar.add_task(self._title, total=None, facts="")
        else:
            self.console.print(self._title, highlight=False)

    def progress(self, done: int, total: int, **facts: Any) -> None:
        """The stage has done `done` of `total`; facts that are None keep their last value."""
        self._kept.update({name: _fact(name, value) for name, value in facts.items() if value is not None})
        text, self._complete = "  ".join(self._kept.values()), done >= total
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, facts=text)
        elif time.monotonic() - self._printed >= PLAIN_SECONDS or done >= total:
            self._printed = time.monotonic()
            line = f"  {done}/{total}  {text}".rstrip()
            if line != self._line:
                self._line = line
                self.console.print(line, highlight=False)

    def note(self, text: str) -> None:
        """A line worth keeping; a stage that has done all of its work is closed before it."""
        if self._complete:
            self._close_stage(True)
        self.console.print(f"  {text}", highlight=False)

    def _close_stage(self, finished: bool) -> None:
        if self._task is None:
            return
        self._bar.remove_task(self._task)
        self._task = None
        if finished:
            facts = "  ".join(self._kept.values())
            seconds = time.monotonic() - self._began
            took = Text.assemble(
                ("✓", "green"), f" {self._title}  ", (f"{seconds:.0f} s", "dim"), f"  {facts}"
            )
            self.console.print(took, highlight=False)


def _fact(name: str, value: Any) -> str:
    if name == "kl":
        return f"train KL {value:.3f}"  # of the step's own rollouts, beside a score that is held out
    if name == "held_out":
        return f"held-out {decimal(value)}"
    if name == "usd":
        return f"${value:.2f}" if value else ""
    return f"{name} {value}"
