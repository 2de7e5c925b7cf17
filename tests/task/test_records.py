"""Fields of records as text, and factories without an end."""

from __future__ import annotations

from itertools import count

import pytest

from gepa_loop.errors import TaskError
from gepa_loop.task.records import bounded, item_of

TURN = {"role": "assistant", "content": "One more."}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("One more.", "One more."),
        (7, "7"),
        (0.5, "0.5"),
        (0, "0"),
        ([TURN], "One more."),
        ([{"role": "user", "content": "So?"}, TURN], "user: So?\n\nassistant: One more."),
    ],
)
def test_a_field_as_text(value: object, text: str) -> None:
    item = item_of("jsonl:1", {"question": "Q", "answer": "A", "solution": value}, "a.jsonl:1")
    assert item.read_field("solution") == text
    gym = item_of("x:1", {"question": "Q", "answer": "A", "metadata": {"solution": value}}, "a.jsonl:1")
    assert gym.read_field("solution") == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["One more."], "solution is a list"),
        ([], "solution is a list"),
        ([TURN, {"role": "human", "content": "x"}], "solution is a list"),
        ({"a": 1}, "solution is an object"),
        (True, "solution is true or false"),
        (None, "has no field 'solution'"),
    ],
)
def test_a_field_that_is_no_text(value: object, said: str) -> None:
    item = item_of("jsonl:1", {"question": "Q", "answer": "A", "solution": value}, "a.jsonl:1")
    with pytest.raises(TaskError, match=f"item jsonl:1.*{said}"):
        item.read_field("solution")


def test_a_generator_without_end_is_an_error() -> None:
    endless = ((f"python:{n}", "here", n) for n in count())
    with pytest.raises(TaskError, match=r"pack:make: the factory gave more than 5 records"):
        bounded(endless, 5, "pack:make")
    assert next(endless)[0] == "python:6"
    assert len(bounded([("a", "b", 1)] * 5, 5, "pack:make")) == 5
