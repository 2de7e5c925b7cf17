"""Workers in this process: what crosses to them is pickled, as it is on its way to others. They can be lost at a chosen message."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from threading import Event, Lock, current_thread
from typing import Any

from gepa_loop.cluster.piece import Desk, Piece, perform
from gepa_loop.cluster.worker import WorkerLost

Fate = Callable[[Piece, int], str | None]
"""Piece, number of the message -> why its worker is lost before it is handed on; None where it is not."""


def losses(said: list[str]) -> list[str]:
    """What was said other than that all workers are there, which may be before or after."""
    return [line for line in said if not line.endswith(" there")]


class Hands:
    """An `Engine`.

    Args:
        fate: Whose workers are lost, and when.
        held: Makes what a worker holds, in place of what an opening would leave.
    """

    def __init__(
        self, fate: Fate = lambda piece, message: None, held: Callable[[], Any] = lambda: None
    ) -> None:
        self.fate, self.held = fate, held
        self.lock, self.made, self.ended, self.shared = Lock(), 0, 0, 0
        self.done: list[str] = []
        """Names of the pieces that workers began."""
        self.places: list[str] = []
        """The thread of the place at which each of these was begun."""
        self.messages: dict[str, int] = {}
        """How many a piece of this name tells, at its last time."""
        self.closed = Event()

    def worker(self) -> Hand:
        with self.lock:
            self.made += 1
        return Hand(self)

    def share(self, value: object) -> bytes:
        with self.lock:
            self.shared += 1
        return pickle.dumps(value)

    def fetch(self, reference: bytes) -> object:
        return pickle.loads(reference)

    def close(self) -> None:
        self.closed.set()


class Late(Hands):
    """Its workers open when it is said."""

    def __init__(self, held: Callable[[], Any] = lambda: None) -> None:
        super().__init__(held=held)
        self.now = Event()

    def worker(self) -> Hand:
        self.now.wait(60)
        return super().worker()


class Hand:
    """A `Worker`."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        with hands.lock:
            self.desk = Desk(hands.fetch, hands.held())

    def run(self, piece: Piece) -> Iterator[object]:
        told: list[bytes] = []
        with self.hands.lock:  # one at a time: random numbers are made from what all threads share
            self.hands.done.append(piece.name)
            self.hands.places.append(current_thread().name)
            perform(pickle.loads(pickle.dumps(piece)), self.desk, lambda one: told.append(pickle.dumps(one)))
            self.hands.messages[piece.name] = len(told)
        for number, message in enumerate([*told, None]):
            if self.hands.closed.is_set():
                raise WorkerLost("the command has ended")
            if (why := self.hands.fate(piece, number)) is not None:
                raise WorkerLost(why)
            if message is not None:
                yield pickle.loads(message)

    def end(self) -> None:
        with self.hands.lock:
            self.hands.ended += 1
