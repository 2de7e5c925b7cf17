"""What is said of calls that take long."""

from __future__ import annotations

import asyncio
import io
import sys
from contextlib import suppress
from threading import Event

import pytest

from gepa_loop.outside.patience import Patience, patient
from gepa_loop.task.own_scorer import own_scorer
from gepa_loop.task.readings import Reading
from gepa_loop.task.records import Item


def test_a_call_that_takes_long_is_named_once_and_one_that_ended_is_not() -> None:
    said, heard = list[str](), Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    with patient("t.py:T: score on", 0.01, say) as patience:
        with patience.over("python:1"):
            pass
        with patience.over("python:2"):
            assert heard.wait(10)
        before = list(said)
    # One that is over before anybody looks may not be seen; one that is under way is.
    assert before[-1] == "t.py:T: score on python:2 has taken 0.01 s and is waited for; Ctrl-C ends it"
    assert len(before) == len(set(before))


def test_a_call_is_under_way_until_it_ends() -> None:
    patience = Patience()
    with suppress(ValueError), patience.over("a"):
        assert patience.slow(0) == ["a"] and patience.slow(0) == []
        raise ValueError
    with patience.over("b"):
        assert patience.slow(1e9) == []
    assert patience.slow(0) == []


@pytest.mark.parametrize("waits", [True, False])
def test_a_score_that_hangs_is_said_to_be_waited_for(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its item, whether it awaits or not; it ends here when that has been said."""
    told = Told()
    monkeypatch.setattr(sys, "stderr", told)

    def score(item: Item, reply: str) -> float:
        assert told.heard.wait(10)
        return 1.0

    async def awaited(item: Item, reply: str) -> float:
        return await asyncio.to_thread(score, item, reply)

    reading = Reading(Item("python:1", (("user", "Q"),), "A", {}), "A", "A")
    assert own_scorer(awaited if waits else score, "t.py:T", slow=0.01)([reading]) == [(1.0, "")]
    assert "t.py:T: score on python:1 has taken 0.01 s and is waited for" in told.getvalue()


class Told(io.StringIO):
    """Standard error that says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = Event()

    def flush(self) -> None:
        self.heard.set()
