"""Standard output and error: consoles that print data as it is, and what a closed or full stream means."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from gepa_loop.errors import EnvironmentFault
from gepa_loop.outside.redact import escaped, printable

CLOSED = 141
"""Exit code of a program whose reader is gone, as shells give it for SIGPIPE."""


class Terminal(Console):
    """Prints texts through `printable`, what else is printed with control characters as escapes, and no markup unless `markup=True`
    asks for it."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Texts, tables and whatever they hold: all of them become segments here."""
        for segment in super().render(renderable, options):
            # rich's own, as to move the cursor, are marked as such.
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Quietly, as `| head` expects."""
        self.quiet = True
        _silence()
        raise SystemExit(CLOSED)


# Item ids hold `:train:`, which rich would print as an emoji, and names may hold `[red]`.
out = Terminal(soft_wrap=True, emoji=False, markup=False)
err = Terminal(stderr=True, soft_wrap=True, emoji=False, markup=False)


def open_streams() -> None:
    """Open the standard streams that were closed (`>&-`) to nowhere: the next file would be printed into."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            taken = os.open(os.devnull, os.O_RDWR)
            os.dup2(taken, number)
            if taken > number:
                os.close(taken)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def accept_any_text() -> None:
    """Have characters that a stream's encoding lacks (PYTHONIOENCODING=ascii) printed as escapes, in place."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def stream_fault(error: OSError) -> int:
    """What a failed write means for the exit code; nothing more is written to standard output.

    Raises:
        EnvironmentFault: It is no closed pipe; names the file, or standard output.
    """
    if isinstance(error, BrokenPipeError):
        _silence()
        return CLOSED
    if error.filename is None:
        _silence()
    place = "standard output" if error.filename is None else error.filename
    raise EnvironmentFault(f"{place}: {error.strerror or error}") from None


def _silence() -> None:
    """What is still in standard output's buffer goes nowhere, so that the interpreter can end in peace."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
