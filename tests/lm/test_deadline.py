"""A call's result, its error, or an end to waiting."""

from __future__ import annotations

from threading import Event, current_thread

import dspy
import pytest

from gepa_loop.lm.deadline import within


def test_results_and_errors_come_through() -> None:
    assert within(30, lambda: 7) == 7
    assert within(30, lambda: None) is None
    with pytest.raises(KeyError, match="x"):
        within(30, lambda: {}["x"])


def test_a_call_without_end_is_left_behind() -> None:
    release, threads = Event(), []

    def call() -> bool:
        threads.append(current_thread())
        return release.wait(30)

    with pytest.raises(TimeoutError, match=r"no whole answer after 0\.05 s"):
        within(0.05, call)
    assert threads[0].daemon  # else the process would wait for it at its end
    release.set()
    threads[0].join()


def test_the_call_sees_the_callers_context() -> None:
    with dspy.context(lm="ours"):
        assert within(30, lambda: dspy.settings.lm) == "ours"
