"""Which fields are the question, the answer and the group, and how replies are best scored: guesses that a user can correct."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gepa_loop.config.data import FieldsConfig
from gepa_loop.errors import ConfigError
from gepa_loop.start.survey import Field, Survey, common_system
from gepa_loop.task.fields import fields_in
from gepa_loop.task.prompts import normalise
from gepa_loop.task.quantity import quantity
from gepa_loop.task.records import Item

QUESTIONS = (
    "question", "messages", "conversations", "conversation", "body", "text", "input", "query", "message", "content", "description",
    "problem", "instruction", "sentence", "ticket", "request", "utterance", "email", "review", "document", "prompt", "title", "subject",
)  # fmt: skip
"""Names of fields with questions, the likeliest first."""

ANSWERS = (
    "answer", "label", "labels", "target", "expected", "expected_output", "output", "response", "completion", "gold", "reference", "solution",
    "category", "class", "intent", "queue", "topic", "route", "code", "reply", "result", "tag", "y", "summary", "sentiment",
)  # fmt: skip
"""So, of answers."""

GROUPS = (
    "group", "customer", "user", "account", "thread", "conversation", "session", "document", "doc", "author", "company", "client",
    "patient", "source",
)  # fmt: skip
"""Names of fields, alone or with `_id`, whose equal values belong together."""

TOGETHER = (
    ("instruction", "input"),
    ("context", "question"),
    ("passage", "question"),
    *(
        (head, text)
        for head in ("subject", "title")
        for text in ("body", "text", "message", "description", "content")
    ),
)
"""Pairs of fields that are one question."""

LONG_ANSWER = 12
"""Median of words from which on an answer is a text that no rule scores well."""

Ask = Callable[[str, str | None, Sequence[str]], str | None]
"""(what is asked for, what is proposed, what there is) -> what is taken."""


def propose(_what: str, proposed: str | None, _known: Sequence[str]) -> str | None:
    """Takes what is proposed: the answer of nobody who is asked."""
    return proposed


def fixed(question: str | None, answer: str | None, group: str | None, ask: Ask) -> Ask:
    """Asks only for what is not said already.

    Raises:
        ConfigError: When it is asked and there is no such field.
    """
    said = {"question": question, "answer": answer, "group": group}

    def ask_rest(what: str, proposed: str | None, known: Sequence[str]) -> str | None:
        value = said[what]
        if value is None:
            return ask(what, proposed, known)
        names = fields_in(value) if what == "question" and value not in known else [value]
        for name in names or [value]:
            if name not in known:
                raise ConfigError(
                    f"--{what} {value}: there is no field {name!r}", f"Fields: {', '.join(known)}."
                )
        return value

    return ask_rest


@dataclass(frozen=True)
class Meaning:
    """What the fields of the records mean."""

    fields: FieldsConfig
    group: str | None
    answered: bool
    """Some record has an answer."""
    named: bool
    """In a field of its own; else in the last turn of the question's chat."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Why, by the keys of the configuration."""


def guess_fields(found: Survey, prompt: str | None, ask: Ask = propose) -> Meaning:
    """What the fields mean.

    Args:
        found: The data.
        prompt: The user's, which chats may begin with.
        ask: Who decides.

    Returns:
        The mapping; keys that are as by default are not set in its `fields`.
    """
    names = [one.name for one in found.fields]
    question = ask("question", _question(found), names) or "question"
    asked = found.field(question)
    taken = {one for one in names if question == one or f"{{{one}}}" in question}
    turns = asked is not None and asked.kind == "turns"
    answer = ask("answer", _answer(found, taken, turns), [name for name in names if name not in taken])
    given: dict[str, Any] = {"question": question} if question != "question" else {}
    notes: dict[str, str] = {}
    if answer is not None and answer != "answer":
        given["answer"] = answer
    if turns:
        chats = [row[question] for row in found.rows if row.get(question)]
        system = common_system(chats)
        if system is not None and prompt is not None and normalise(system) == prompt:
            given["system"] = "drop"
            notes["task.fields.system"] = (
                "All chats begin with the prompt itself: a student is to do without."
            )
    by_hand = False
    if (own := found.field("split")) is not None and not (by_hand := _names_splits(found)):
        # A column that happens to have the name of ours.
        given["split"] = "gepa_loop_split"
        notes["task.fields.split"] = (
            f"The data have a field `split` ({own.example}, ...) whose values are none of ours, so splits are dealt out anew."
        )
    answered = (answer is not None and any(_given(row.get(answer)) for row in found.rows)) or (
        answer is None and turns and any(_ends_in_answer(row.get(question)) for row in found.rows)
    )
    free = [one for one in found.fields if one.name not in {*taken, answer}]
    likely = [one.name for one in free if _is_group(one, len(found.rows)) and not by_hand]
    group = ask("group", likely[0] if likely else None, names)
    return Meaning(FieldsConfig(**given), group, answered, answer is not None, notes)


def _question(found: Survey) -> str | None:
    by_name = {one.name.lower(): one for one in found.fields if one.filled}
    for head, text in TOGETHER:
        pair = [by_name.get(head), by_name.get(text)]
        if all(one is not None and one.kind in ("text", "label") for one in pair):
            return "\n\n".join(f"{{{one.name}}}" for one in pair if one is not None)
    usable = [
        one for one in found.fields if one.kind in ("turns", "text") or (one.kind == "number" and one.words)
    ]
    for name in QUESTIONS:
        for one in usable:
            if one.name.lower() == name:
                return one.name
    likely = [one for one in usable if one.kind == "turns" or one.name.lower() not in ANSWERS]
    return max(likely, key=lambda one: (one.kind == "turns", one.words)).name if likely else None


def _answer(found: Survey, taken: set[str], turns: bool) -> str | None:
    free = [
        one
        for one in found.fields
        if one.name not in taken and one.filled and one.kind not in ("turns", "list")
    ]
    for name in ANSWERS:
        for one in free:
            if one.name.lower() == name:
                return one.name
    labels = [
        one.name
        for one in free
        if one.kind == "label" and one.distinct > 1 and not _is_name_of(one.name, GROUPS)
    ]
    if len(labels) == 1 and not turns:
        return labels[0]
    return None


def _is_group(one: Field, rows: int) -> bool:
    return (
        _is_name_of(one.name, GROUPS)
        and 10 <= one.distinct < 0.95 * rows
        and one.filled == rows
        and one.words <= 6
    )


def _is_name_of(name: str, known: Sequence[str]) -> bool:
    return re.sub(r"[ _-]?(id|name|key)$", "", name.lower()) in known


def _names_splits(found: Survey) -> bool:
    from gepa_loop.task.dealing import SPLITS

    marks = {row.get("split") for row in found.rows}
    return marks <= {*SPLITS} and marks >= {"train", "pareto", "select", "test"}


def _given(value: object) -> bool:
    return value is not None and value != ""


def _ends_in_answer(chat: object) -> bool:
    from gepa_loop.task.fields import turn_of

    return isinstance(chat, list) and bool(chat) and turn_of(chat[-1]).get("role") == "assistant"


@dataclass(frozen=True)
class Scoring:
    """How replies are read and scored."""

    extract: str
    scorer: str | None
    why: str
    labels: tuple[str, ...] = ()
    """Those that answers are, where they are labels."""
    after: str | None = None
    """`task.fields.after`."""


def guess_scoring(items: Sequence[Item], answers: Field | None, prompt: str | None) -> Scoring:
    """How replies are best scored.

    Args:
        items: Of the mapped records.
        answers: The field of answers over all of them; None where there are none.
        prompt: The user's, which may say in which form an answer is to be given.
    """
    extract, form = _extract(prompt or "")
    if answers is None or not answers.filled:
        return Scoring(
            "whole",
            None,
            "No record has an answer: `distill` compares with the prompted model's own replies.",
        )
    texts = [item.answer for item in items if item.answer]
    if sum("####" in text for text in texts) > 0.9 * len(texts):
        return Scoring(
            extract or "last_number",
            "exact",
            "Answers end in `#### ...` as in GSM8K, which is what counts.",
            after="####",
        )
    labels = tuple(sorted(set(texts)))
    match answers.kind:
        case "object":
            return Scoring(extract or "whole", "json", "Answers are JSON objects: the share of right fields.")
        case "label" if not all(map(_is_plain_number, labels)):
            words = {tuple(re.findall(r"\w+", label.casefold())) for label in labels}
            if len(words) == len(labels) and () not in words:
                return Scoring(
                    extract or "whole",
                    "choice",
                    f"Answers are {len(labels)} labels: a reply names the right one and no other{form}.",
                    labels,
                )
            return Scoring(
                extract or "whole",
                "exact",
                f"Answers are {len(labels)} labels that differ in their punctuation{form}.",
                labels,
            )
        case "label" | "number" | "id" if all(quantity(text) is not None for text in texts):
            return Scoring(
                extract or "last_number",
                "exact",
                f"Answers are numbers: the last one of a reply counts{form}.",
            )
    if answers.words >= LONG_ANSWER:
        why = (
            f"Answers are texts of about {answers.words:.0f} words: words in common, which is a rough measure. A judge reads better: "
            'set scorer to "model" and add a table [task.judge] with model and rubric.'
        )
        return Scoring(extract or "whole", "f1", why)
    if answers.words > 2:
        return Scoring(
            extract or "whole",
            "f1",
            f"Answers are short texts: words in common{form}. `exact` wants the same text.",
        )
    return Scoring(extract or "whole", "exact", f"Answers are single words: the same text{form}.")


def _extract(prompt: str) -> tuple[str | None, str]:
    if "<answer>" in prompt:
        return "tags", ", inside <answer>, as the prompt asks for"
    if r"\boxed" in prompt:
        return "boxed", r", inside \boxed{}, as the prompt asks for"
    return None, ""


def _is_plain_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text.strip()) is not None
