"""Says what is waited for where a call of somebody else's code takes long: a score that hangs would be silent for ever."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

SLOW = 20.0
"""Seconds after which a call is said to be waited for."""
LOOK = 0.5
"""Seconds between two looks."""


class Patience:
    """Calls that are under way, by name."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    @contextmanager
    def over(self, name: str) -> Iterator[None]:
        """Around one call."""
        self._since[name] = time.monotonic()
        try:
            yield
        finally:
            self._since.pop(name, None)

    def slow(self, seconds: float) -> list[str]:
        """Those that have taken so long and were not named before."""
        now = time.monotonic()
        found = [name for name, since in list(self._since.items()) if now - since >= seconds]
        new = [name for name in found if name not in self._told]
        self._told.update(new)
        return new


@contextmanager
def patient(
    what: str, seconds: float = SLOW, say: Callable[[str], object] | None = None
) -> Iterator[Patience]:
    """Around some calls: each that takes `seconds` is named once.

    Args:
        what: What they are, in words that a name follows: "t.py:T: score on".
        seconds: How long nobody is told.
        say: Is given the sentence; None writes it to standard error.
    """
    patience, ended = Patience(), Event()

    def look() -> None:
        while not ended.wait(min(LOOK, seconds)):
            for name in patience.slow(seconds):
                text = f"{what} {name} has taken {seconds:g} s and is waited for; Ctrl-C ends it"
                (say or _to_standard_error)(text)

    Thread(target=look, name="gepa-loop-patience", daemon=True).start()
    try:
        yield patience
    finally:
        ended.set()


def _to_standard_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
