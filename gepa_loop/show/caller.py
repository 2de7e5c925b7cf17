"""Who asked for a command: where what it says to a person goes, and what becomes of Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gepa_loop.show.terminal import Terminal, err, out
from gepa_loop.signals import interruptible, typed

if TYPE_CHECKING:
    from gepa_loop.start.plan import DryRun

# Without `force_terminal` a live view would take over standard output all the same.
NOWHERE = Terminal(quiet=True, force_terminal=False)


def _leave(found: DryRun) -> None:
    pass


@dataclass(frozen=True)
class Caller:
    """A person at a terminal, a pipeline, or a Python program."""

    facts: Terminal
    """What is looked at before a run, and the view of what happens in it."""
    warnings: Terminal
    results: Terminal
    """The tables and lines at the end, and the plan of a dry run."""
    guard: Callable[[], AbstractContextManager[None]]
    """Around what writes to the run directory."""
    typed: Callable[[], list[str]]
    """The words of the command that continues what it makes; none of a Python program."""
    planned: Callable[[DryRun], None] = _leave
    """Takes what a dry run found, besides what it prints."""

    @property
    def quiet(self) -> Caller:
        """The same without the facts."""
        return replace(self, facts=NOWHERE)


PERSON = Caller(out, out, out, interruptible, typed)
ASIDE = Caller(err, err, err, interruptible, typed)
"""Standard output is another's: that of one JSON object."""
PROGRAM = Caller(out, out, out, nullcontext, list)
"""Signal handlers are the program's own."""
MUTE = Caller(NOWHERE, NOWHERE, NOWHERE, nullcontext, list)
