"""Servers asked all at once, with one end to the waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Generic, NamedTuple, TypeVar

from gepa_loop.errors import EnvironmentFault, GepaLoopError

T = TypeVar("T")


class Ask(NamedTuple, Generic[T]):
    """A question to a server."""

    what: str
    """Of which key and value."""
    call: Callable[[], T]
    """Its answer; raises a GepaLoopError where that is none."""


class Asking(Generic[T]):
    """Questions that are asked from now on, each in a thread of its own."""

    def __init__(self, asks: Mapping[str, Ask[T]], seconds: float) -> None:
        """
        Args:
            asks: By what they are about.
            seconds: Longest wait for all of them together, from when the first answer is wanted.
        """
        self._asks, self._seconds = asks, seconds
        self._end: float | None = None
        self._answers: dict[str, T | GepaLoopError] = {}
        # Daemons: a name server that hangs has no timeout of ours, and is not to hold up the end of the process.
        self._threads = {about: Thread(target=self._ask, args=(about,), daemon=True) for about in asks}
        for thread in self._threads.values():
            thread.start()

    def __contains__(self, about: str) -> bool:
        return about in self._asks

    def answer(self, about: str) -> T:
        """The answer of one.

        Raises:
            GepaLoopError: What the question raised.
            EnvironmentFault: There is none, and the time is over.
        """
        if self._end is None:
            self._end = time.monotonic() + self._seconds
        self._threads[about].join(max(0.0, self._end - time.monotonic()))
        if about not in self._answers:
            raise EnvironmentFault(
                f"{self._asks[about].what}: no answer within {self._seconds:g} s",
                "Is the network there? A server that is overloaded may answer later.",
            )
        found = self._answers[about]
        if isinstance(found, GepaLoopError):
            raise found
        return found

    def _ask(self, about: str) -> None:
        try:
            self._answers[about] = self._asks[about].call()
        except GepaLoopError as error:
            self._answers[about] = error
