"""A limit for the whole of a call, however steadily its answer drips."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that is waited for so long.

    HTTP clients' timeouts are of each read, and a byte a second never meets one. So the call runs in a thread, which is left
    behind when the time is over; it ends with the process.

    Raises:
        TimeoutError: It took longer.
        Exception: What the call raised.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            errors.append(error)

    thread = Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no whole answer after {seconds:g} s")
    return results[0]
