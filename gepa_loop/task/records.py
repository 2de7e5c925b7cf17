"""Items, and the records that they are made of, checked one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gepa_loop.errors import TaskError

MOST = 10**6
"""Records that a factory may give."""

DIGITS = 4_000
"""Of the longest integer that is read as a number."""
TOO_LONG = 10**DIGITS
"""Made once: for each number of a file it would take longer than the rest."""

Messages = tuple[tuple[str, str], ...]

Record = tuple[str, str, object]
"""(id, where it came from, the record)."""


@dataclass(frozen=True)
class Item:
    """One question. `id` is stable and unique in its task: `lcm:train:1000017`, `jsonl:12` (the line), `csv:12` (the row)."""

    id: str
    messages: Messages
    """(role, content) turns; the last one is the user's."""
    answer: str
    """Empty where only the task's own scorer knows."""
    entry: Mapping[str, Any] = field(compare=False, repr=False)
    """The task's own record."""

    @classmethod
    def of(cls, question: str | Sequence[Mapping[str, str]], answer: str | float = "", **fields: Any) -> Item:
        """An item of a task of your own; it gets its `id` when it is dealt out.

        Args:
            question: A text, or chat turns `{"role": ..., "content": ...}` of which the last is the user's.
            answer: What is expected, for people, for the reflection and for rules that compare; may be left out.
            fields: Whatever else `score` is to know, in `entry`; `split` puts the item into a split by hand.

        Raises:
            TaskError: It cannot be asked, or holds what no model can read.
        """
        return item_of("", {"question": question, "answer": answer, **fields}, "Item.of")

    @property
    def record(self) -> Mapping[str, Any]:
        """`entry` with the question and the answer, as files have it."""
        turns = [{"role": role, "content": content} for role, content in self.messages]
        return {"question": turns, "answer": self.answer, **self.entry}

    @property
    def question(self) -> str:
        """Content of the last turn."""
        return self.messages[-1][1]

    def read_field(self, name: str) -> str:
        """A field of the item's record, or of a reasoning-gym record's `metadata`, as text.

        Of a list of chat turns it is what they say: the content of a single one, or a paragraph `role: content` for each.

        Raises:
            TaskError: There is no such field, it is empty, or it is neither a text nor a number nor turns.
        """
        metadata = self.entry.get("metadata")
        fields = {**(metadata if isinstance(metadata, Mapping) else {}), **self.entry, "answer": self.answer}
        value = value_at(fields, name)
        if value is None or value == "":
            names = ", ".join(sorted(key for key, found in fields.items() if found not in (None, "")))
            raise TaskError(f"item {self.id} has no field {name!r}", f"Its fields are {names}.")
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, list | tuple) and value and all(map(is_turn, value)):
            if len(value) == 1:
                return str(value[0]["content"])
            return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in value)
        raise TaskError(
            f"item {self.id}: {name} is {_kind(value)}",
            'It must be a text, a number, or a list of turns {"role": ..., "content": a text}.',
        )


def value_at(record: Mapping[str, Any], name: str) -> Any:
    """What a field holds, None where there is none; `meta.label` is a field of that name, else the field `label` of the object `meta`."""
    if name in record or "." not in name:
        return record.get(name)
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return value_at(inner, rest) if isinstance(inner, Mapping) else None


def has_field(record: Mapping[str, Any], name: str) -> bool:
    """Whether a record has a field, named as in `value_at`."""
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return name in record or (isinstance(inner, Mapping) and has_field(inner, rest))


def bounded(records: Iterable[Record], most: int, where: str) -> list[Record]:
    """The records, unless there are more than `most`: a factory's generator may have no end.

    They are taken before any is looked at, which takes seconds for a million.
    """
    found = list(islice(records, most + 1))
    if len(found) > most:
        raise TaskError(
            f"{where}: the factory gave more than {most:,} records",
            "Give as many as are needed; itertools.islice ends a generator.",
        )
    return found


def item_of(id: str, record: object, where: str) -> Item:
    """The item of a record.

    Raises:
        TaskError: A field is missing, has another type, or holds what no model can read.
    """
    if not isinstance(record, Mapping):
        raise TaskError(f"{where}: not an object with question and answer, but {type(record).__name__}")
    if "question" not in record:
        raise TaskError(f"{where}: no field 'question'", f"Its fields: {', '.join(map(str, record))}.")
    for key, value in record.items():
        if (fault := _fault(value)) is not None:
            raise TaskError(f"{where}: {key} holds {fault}", "Mend or drop it.")
    question, answer = record["question"], record.get("answer", "")
    turns = [{"role": "user", "content": question}] if isinstance(question, str) else question
    if not isinstance(turns, list | tuple) or not turns or not all(map(is_turn, turns)):
        raise TaskError(
            f"{where}: question is {short(repr(question))}",
            'It is a text, or a list of turns {"role": "system, user or assistant", "content": a text}.',
        )
    messages = tuple((turn["role"], turn["content"]) for turn in turns)
    if messages[-1][0] != "user" or not messages[-1][1].strip():
        raise TaskError(f"{where}: question does not end with a user's turn that has a text")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise TaskError(f"{where}: answer is {short(repr(answer))}", "It is a number or a text.")
    return Item(id, messages, str(answer).strip() and str(answer), record)


def short(text: str, most: int = 300) -> str:
    """A text, or its beginning and end where it is over `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) :]}"


def alike(messages: Messages) -> Messages:
    """Turns without what tells no two questions apart: case, and how words are parted."""
    return tuple((role, " ".join(content.casefold().split())) for role, content in messages)


def is_turn(turn: object) -> bool:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str):
        return False
    return turn.get("role") in ("system", "user", "assistant")


def _fault(value: object) -> str | None:
    """What makes a value unfit for a file or a model, wherever it stands inside."""
    rest, seen = [value], set[int]()
    while rest:
        value = rest.pop()
        if id(value) in seen:
            continue
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return "half of a surrogate pair"
        elif isinstance(value, float) and not math.isfinite(value):
            return f"a number that is not finite, {value}"
        elif isinstance(value, int) and abs(value) >= TOO_LONG:
            return f"a number of more than {DIGITS:,} digits"
        elif isinstance(value, Mapping | list | tuple):
            seen.add(id(value))  # a factory's list may hold itself
            rest += [*value, *(value.values() if isinstance(value, Mapping) else ())]
    return None


def _kind(value: object) -> str:
    return {list: "a list", tuple: "a list", bool: "true or false", dict: "an object"}.get(
        type(value), type(value).__name__
    )
