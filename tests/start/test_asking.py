"""Servers asked at the same time, of whom some never answer."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier, Event

import pytest

from gepa_loop.errors import EnvironmentFault, ModelError, TaskError
from gepa_loop.start.asking import Ask, Asking


@pytest.fixture
def never() -> Iterator[Event]:
    yield (event := Event())
    event.set()  # the thread ends with the test


def test_answers_and_refusals() -> None:
    def refuse() -> str:
        raise TaskError("no such dataset", "Check the spelling.")

    asking = Asking(
        {"model": Ask("model.name = 'm'", lambda: "a/b"), "task": Ask("task.name = 't'", refuse)}, 60
    )
    assert asking.answer("model") == "a/b" and "model" in asking and "teacher" not in asking
    with pytest.raises(TaskError, match="no such dataset") as caught:
        asking.answer("task")
    assert caught.value.hint == "Check the spelling."
    # Who is asked again says the same.
    with pytest.raises(TaskError):
        asking.answer("task")


def test_all_are_asked_at_once() -> None:
    meet = Barrier(3, timeout=60)
    asks = {name: Ask(name, meet.wait) for name in ("a", "b", "c")}
    asking = Asking(asks, 60)
    assert sorted(asking.answer(name) for name in asks) == [0, 1, 2]


def test_who_never_answers_is_not_waited_for_and_the_others_are_heard(never: Event) -> None:
    def there() -> bool:
        raise ModelError("it was asked")

    asks = {"silent": Ask("model.name = 'a/b'", never.wait), "other": Ask("teacher.name = 'c/d'", there)}
    asking = Asking(asks, 0.5)
    with pytest.raises(EnvironmentFault) as caught:
        asking.answer("silent")
    assert str(caught.value) == "model.name = 'a/b': no answer within 0.5 s" and not never.is_set()
    with pytest.raises(ModelError, match="it was asked"):
        asking.answer("other")
