"""Coroutines asked from code that does not await."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from gepa_loop.outside.awaiting import at_once, is_asynchronous


def test_as_many_wait_at_a_time_as_are_asked_for_and_no_more() -> None:
    barrier = asyncio.Barrier(3)  # nobody passes before three wait
    under_way = most = 0

    async def call(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await barrier.wait()
        under_way -= 1
        return number

    assert at_once([partial(call, n) for n in range(12)], 3) == list(range(12))
    assert most == 3


def test_what_one_raises_ends_the_others_and_the_next_calls_go_on() -> None:
    ended = []

    async def fails() -> int:
        raise LookupError("gone")

    async def waits() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return 1

    with pytest.raises(LookupError, match="gone"):
        at_once([waits, fails], 2)
    assert ended == [True]

    async def answers() -> int:
        return 7

    assert at_once([answers], 1) == [7] and at_once([], 1) == []


def test_all_calls_of_a_process_share_a_loop_also_beside_a_running_one() -> None:
    loops = []

    async def call() -> None:
        loops.append(asyncio.get_running_loop())

    at_once([call], 1)

    async def notebook() -> asyncio.AbstractEventLoop:
        at_once([call], 1)
        return asyncio.get_running_loop()

    # In a thread of its own: tests in a browser leave a running loop in this one.
    with ThreadPoolExecutor(1) as thread:
        theirs = thread.submit(asyncio.run, notebook()).result()
    assert loops[0] is loops[1] and loops[1] is not theirs


def test_what_is_asynchronous() -> None:
    class Called:
        async def __call__(self) -> None: ...

    async def function() -> None: ...

    found: list[Callable[[], Awaitable[None]]] = [function, Called()]
    assert all(map(is_asynchronous, found))
    assert not is_asynchronous(len) and not is_asynchronous(lambda: None)
