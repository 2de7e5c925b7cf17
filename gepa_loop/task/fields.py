"""From a record with fields of any name to one with `question` and `answer`, as `task.fields` says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gepa_loop.config.data import FieldsConfig
from gepa_loop.errors import TaskError
from gepa_loop.task.records import Record, has_field, is_turn, value_at

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}
"""Roles of other formats, as ShareGPT's, by ours."""

FEW = 0.5
"""Share of records without an answer up to which they are left out."""

NAMED = 3
"""Records that a sentence names."""


def mapped(
    records: Iterable[Record], fields: FieldsConfig, answers_matter: bool = True
) -> tuple[list[Record], tuple[str, ...]]:
    """Records with `question` and `answer`, and a sentence on each kind of those that are left out.

    Left out are records whose question is empty, and where most others have an answer those without one.

    Args:
        records: As they are.
        fields: What their fields mean.
        answers_matter: Replies are compared with answers; a judge does without.

    Raises:
        TaskError: A record has no such field, or no record has the answer's; or nothing is left.
    """
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    blank: list[str] = []
    silent: list[str] = []
    seen = False
    for id, where, record in records:
        if not isinstance(record, Mapping):
            raise TaskError(f"{where}: not an object with fields, but {type(record).__name__}")
        one = _with_question(record, fields, where)
        seen = seen or has_field(record, fields.answer)
        if one["question"] is None:
            blank.append(id)
            continue
        found.append((id, where, one))
        if one["answer"] == "":
            silent.append(id)
    if found and fields.answer != FieldsConfig().answer and not seen:
        names = ", ".join(map(str, found[0][2]))
        raise TaskError(
            f"task.fields.answer = {fields.answer!r}: no record has this field", f"Fields: {names}."
        )
    if not answers_matter or len(silent) > FEW * len(found):
        silent = []  # a task without answers, or one whose answers are missing: the scorer says so
    told = (_left_out(blank, "no question"), _left_out(silent, "no answer, which others have"))
    without = set(silent)
    kept: list[Record] = [one for one in found if one[0] not in without]
    if not kept:
        raise TaskError(f"no record has a question in the field {fields.question!r}")
    return kept, tuple(filter(None, told))


def _left_out(ids: list[str], why: str) -> str | None:
    if not ids:
        return None
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    one = len(ids) == 1
    return f"{len(ids):,} {'record has' if one else 'records have'} {why}, and {'is' if one else 'are'} left out: {', '.join(ids[:NAMED])}{more}"


def _with_question(record: Mapping[str, Any], fields: FieldsConfig, where: str) -> dict[str, Any]:
    """The record with `question`, None where it is empty, and `answer`, an empty text where there is none."""
    question = _question(record, fields.question, where)
    answer = value_at(record, fields.answer)
    if isinstance(question, list):
        turns = [turn_of(turn) for turn in question]
        if fields.system == "drop" and turns and turns[0].get("role") == "system":
            turns = turns[1:]
        if answer is None and turns and turns[-1].get("role") == "assistant":
            answer = turns.pop()["content"]
        question = turns or None
    elif isinstance(question, int | float) and not isinstance(question, bool):
        question = str(question)
    if isinstance(question, str) and not question.strip():
        question = None
    return {**record, "question": question, "answer": _answer(answer, fields.after)}


def _question(record: Mapping[str, Any], name: str, where: str) -> Any:
    """A field's value, or a text with fields put in."""
    if has_field(record, name):
        return value_at(record, name)
    if not (wanted := fields_in(name)):
        raise TaskError(
            f"{where}: no field {name!r}",
            f"Its fields: {', '.join(map(str, record))}. Say which is the question: --set task.fields.question=FIELD; "
            "`gepa-loop init --data FILE` proposes one.",
        )
    for field in wanted:
        if not has_field(record, field):
            raise TaskError(
                f"{where}: no field {field!r}",
                f"task.fields.question = {name!r}. Its fields: {', '.join(map(str, record))}.",
            )
    values = {field: value_at(record, field) for field in wanted}
    if not any(str(value or "").strip() for value in values.values()):
        return None
    return re.sub(r"\{([^{}]+)\}", lambda mark: "" if values[mark[1]] is None else str(values[mark[1]]), name)


def fields_in(template: str) -> list[str]:
    """The fields that a text has in braces."""
    return re.findall(r"\{([^{}]+)\}", template)


def turn_of(turn: object) -> dict[str, Any]:
    """A chat turn as role and content: other names of both, and content in parts that are all texts, are brought into this form."""
    if not isinstance(turn, Mapping):
        return {"role": None, "content": turn}
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(
        isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content
    ):
        content = "".join(part["text"] for part in content)
    found = {"role": ROLES.get(str(role), role), "content": content}
    return found if is_turn(found) else dict(turn)


def _answer(value: object, after: str | None) -> object:
    """An answer as a text or a number: of an object its JSON, of nothing an empty text."""
    if value is None:
        return ""
    if isinstance(value, bool | Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        value = value.rpartition(after)[2].strip() if after is not None else value
        return value if value.strip() else ""
    return value
