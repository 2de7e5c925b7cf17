"""Who asked for a command: where what it says to a person goes, and what becomes of Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from gepa_loop.show.terminal import Terminal, err, out
from gepa_loop.signals import interruptible

# Without `force_terminal` a live view would take over standard output all the same.
NOWHERE = Terminal(quiet=True, force_terminal=False)


@dataclass(frozen=True)
class Caller:
    """A person at a terminal, a pipeline, or a Python program."""

    facts: Terminal
    """What is looked at before a run, and the view of what happens in it."""
    warnings: Terminal
    results: Terminal
    """The tables and lines at the end."""
    guard: Callable[[], AbstractContextManager[None]]
    """Around what writes to the run directory."""

    @property
    def quiet(self) -> Caller:
        """The same without the facts."""
        return replace(self, facts=NOWHERE)


PERSON = Caller(out, out, out, interruptible)
ASIDE = Caller(err, err, err, interruptible)
"""Standard output is another's: that of one JSON object."""
PROGRAM = Caller(out, out, out, nullcontext)
"""Signal handlers are the program's own."""
MUTE = Caller(NOWHERE, NOWHERE, NOWHERE, nullcontext)
