"""Records with fields of any name, brought into the form that items are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gepa_loop.config.data import FieldsConfig
from gepa_loop.errors import TaskError
from gepa_loop.task.fields import mapped
from gepa_loop.task.records import item_of

SYSTEM = {"role": "system", "content": "Sort it."}
USER = {"role": "user", "content": "My spade broke."}
ASSISTANT = {"role": "assistant", "content": "GX4"}


def _mapped(records: Sequence[object], **fields: Any) -> tuple[list[Mapping[str, Any]], tuple[str, ...]]:
    given = [(f"r:{n}", f"file:{n}", record) for n, record in enumerate(records, 1)]
    kept, told = mapped(given, FieldsConfig(**fields))
    for id, where, record in kept:
        item_of(id, record, where)
    return [record for _, _, record in kept if isinstance(record, Mapping)], told


def _one(record: object, **fields: Any) -> tuple[object, object]:
    (found,), told = _mapped([record], **fields)
    assert told == ()
    return found["question"], found["answer"]


def test_fields_by_their_names_and_the_others_kept() -> None:
    record = {"body": "My spade broke.", "queue": "GX4", "answer": "old", "customer": 7}
    (found,), _ = _mapped([record], question="body", answer="queue")
    assert found == {**record, "question": "My spade broke.", "answer": "GX4"}


def test_a_text_with_fields_in_braces_takes_them_as_they_are() -> None:
    record = {"subject": "A {body}", "body": "{subject} \\1 broke", "label": None, "answer": "X"}
    asked = _one(record, question="{subject}: {body} ({label})")[0]
    assert asked == "A {body}: {subject} \\1 broke ()"
    # A field whose name has braces is a field.
    assert _one({"{x}": "Q", "answer": "A"}, question="{x}")[0] == "Q"


def test_fields_of_objects_by_dotted_names() -> None:
    record = {"input": {"text": "My spade {n} broke.", "to": {"id": 0}}, "meta": {"label": "GX4"}, "n": 7}
    assert _one(record, question="input.text", answer="meta.label") == ("My spade {n} broke.", "GX4")
    asked = _one(record, question="{input.text} ({input.to.id}, {n})", answer="input.to.id")
    assert asked == ("My spade {n} broke. (0, 7)", 0)
    # A field whose own name has the dot comes first.
    assert _one({"a.b": "Q", "a": {"b": "R"}, "answer": 1}, question="a.b") == ("Q", 1)
    (item,) = (item_of("r", one, "f") for one in _mapped([record], question="input.text")[0])
    assert item.read_field("meta.label") == "GX4" and item.read_field("input.to.id") == "0"
    for name in ("input.txt", "n.x", "input.text.x", "input."):
        with pytest.raises(TaskError, match=f"no field '{name}'"):
            _mapped([record], question=name)
        with pytest.raises(TaskError, match="no record has this field"):
            _mapped([record], question="n", answer=name)
        with pytest.raises(TaskError, match="has no field"):
            item.read_field(name)


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"question": [USER, ASSISTANT]}, [USER], "GX4"),
        ({"question": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER], "GX4"),
        ({"question": [USER, ASSISTANT, USER], "answer": "B"}, [USER, ASSISTANT, USER], "B"),
        (
            {"question": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            [{"role": "user", "content": "Q"}],
            "A",
        ),
        (
            {
                "question": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "R"}],
                    }
                ]
            },
            [{"role": "user", "content": "QR"}],
            "",
        ),
        ({"question": 7, "answer": 1.5}, "7", 1.5),
        ({"question": "Q", "answer": True}, "Q", "true"),
        ({"question": "Q", "answer": {"a": "ä", "b": [1]}}, "Q", '{"a": "ä", "b": [1]}'),
        ({"question": "Q"}, "Q", ""),
    ],
)
def test_turns_numbers_and_objects(record: Mapping[str, Any], question: object, answer: object) -> None:
    assert _one(record) == (question, answer)


def test_a_system_turn_is_left_out_where_that_is_asked_for() -> None:
    assert _one({"question": [SYSTEM, USER, ASSISTANT]}, system="drop") == ([USER], "GX4")
    assert _one({"question": [USER], "answer": "A"}, system="drop") == ([USER], "A")


def test_an_answer_behind_its_mark() -> None:
    assert _one({"question": "Q", "answer": "Two #### and\n#### 72 "}, after="####")[1] == "72"
    assert _one({"question": "Q", "answer": "72"}, after="####")[1] == "72"


def test_records_without_question_or_answer_are_left_out_and_said() -> None:
    whole = {"question": "Q", "answer": "A"}
    blank = [{"question": q, "answer": "A"} for q in ("", " \n", None, [])]
    silent = [{"question": "Q2", "answer": a} for a in ("", None)]
    found, told = _mapped([*blank, whole, *silent, whole, whole])
    assert found == [whole] * 3
    assert told == (
        "4 records have no question, and are left out: r:1, r:2, r:3 and 1 more",
        "2 records have no answer, which others have, and are left out: r:6, r:7",
    )
    # A judge does without; and where most have none, that is for the scorer to say.
    given = [(f"r:{n}", f"file:{n}", record) for n, record in enumerate([whole, whole, *silent])]
    assert len(mapped(given, FieldsConfig(), answers_matter=False)[0]) == 4
    assert len(_mapped([whole, *silent])[0]) == 3
    # Where none has an answer, a prompt can still be distilled.
    found, told = _mapped(silent)
    assert len(found) == 2 and told == ()
    assert _mapped([whole, {"question": "Q"}])[1] == (
        "1 record has no answer, which others have, and is left out: r:2",
    )


@pytest.mark.parametrize(
    ("record", "fields", "said", "hint"),
    [
        ({"body": "Q"}, {}, "file:1: no field 'question'", "task.fields.question=FIELD"),
        ({"body": "Q"}, {"question": "{body}{subject}"}, "file:1: no field 'subject'", "Its fields: body"),
        (
            {"question": "Q", "label": "A"},
            {"answer": "labl"},
            "task.fields.answer = 'labl': no record",
            "label",
        ),
        (["Q"], {}, "file:1: not an object with fields, but list", ""),
        ({"question": ""}, {}, "no record has a question in the field 'question'", ""),
    ],
)
def test_what_cannot_be_mapped(record: object, fields: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(TaskError) as caught:
        _mapped([record], **fields)
    assert said in str(caught.value) and hint in caught.value.hint
