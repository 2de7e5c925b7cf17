"""Calls that wait for somebody else, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


def at_once(
    calls: Sequence[Callable[[], T]], most: int, stop: Event
) -> Iterator[tuple[int, T | BaseException]]:
    """Each call's place with its result or its exception, in the order in which they end.

    A further call begins when the caller comes back for the next result. Where it does not (Ctrl-C), the threads end after the
    calls under way, or with the process.

    Args:
        calls: What to call.
        most: Calls at a time.
        stop: Once it is set no further call begins; those under way still come.
    """
    waiting: SimpleQueue[tuple[int, Callable[[], T]] | None] = SimpleQueue()
    ended: SimpleQueue[tuple[int, T | BaseException]] = SimpleQueue()

    def work() -> None:
        while (one := waiting.get()) is not None:
            place, call = one
            try:
                ended.put((place, call()))
            except BaseException as error:  # noqa: BLE001 (the caller raises it)
                ended.put((place, error))

    threads = [Thread(target=work, daemon=True) for _ in range(min(most, len(calls)))]
    rest = iter(enumerate(calls))
    under_way = 0
    try:
        for thread in threads:
            thread.start()
            waiting.put(next(rest))
            under_way += 1
        while under_way:
            yield ended.get()
            under_way -= 1
            if not stop.is_set() and (following := next(rest, None)) is not None:
                waiting.put(following)
                under_way += 1
    finally:
        for _ in threads:
            waiting.put(None)
