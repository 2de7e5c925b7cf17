"""Coroutines of a user's, asked from code that does not await."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 (an object whose `__call__` is a coroutine)
    )


def at_once(calls: Sequence[Callable[[], Coroutine[Any, Any, T]]], most: int) -> list[T]:
    """Their results in order, `most` of them waited for at a time; what one raises ends the others.

    They run in a thread: a program that asks may have a running loop of its own, as a notebook has.
    """
    waiting = asyncio.run_coroutine_threadsafe(_all(calls, most), _loop())
    try:
        return waiting.result()
    except BaseException:  # Ctrl-C
        waiting.cancel()
        raise


async def _all(calls: Sequence[Callable[[], Coroutine[Any, Any, T]]], most: int) -> list[T]:
    gate = asyncio.Semaphore(most)

    async def one(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with gate:
            return await call()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(call)) for call in calls]
    except BaseExceptionGroup as found:
        raise found.exceptions[0] from None
    return [task.result() for task in tasks]


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the life of the process: a client that a task holds belongs to the loop in which it was used first."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="gepa-loop-awaiting", daemon=True).start()
    return loop
