"""What does pieces, and what makes it, as a crew sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from gepa_loop.cluster.piece import Piece
from gepa_loop.errors import EnvironmentFault


class WorkerLost(Exception):
    """A worker died, hung, or ran out of memory.

    Args:
        message: How.
        hint: What may be done about it; empty where nothing of its own.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class WorkerRefused(EnvironmentFault):
    """A worker is not what the command takes it for; so may be all others."""


class Worker(Protocol):
    """Does one piece at a time."""

    def run(self, piece: Piece) -> Iterator[object]:
        """What a piece tells, as it comes.

        Raises:
            WorkerLost: The worker is of no use any more.
            Exception: What the piece has raised.
        """
        ...

    def end(self) -> None:
        """End it, whatever it does."""
        ...


class Engine(Protocol):
    """Makes workers."""

    def worker(self) -> Worker:
        """A new one; called from several threads.

        Raises:
            WorkerLost: None can be had at present.
            GepaLoopError: None can be had at all.
        """
        ...

    def share(self, value: object) -> Any:
        """Put a value where all workers can read it; returns what it is found by."""
        ...

    def fetch(self, reference: Any) -> object:
        """The value."""
        ...

    def close(self) -> None:
        """End all workers; those that are at work are lost."""
        ...
