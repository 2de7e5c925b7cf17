"""Which fields are the question and the answer, and how replies are best scored: guesses that a user can correct."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gepa_loop.config.data import FieldsConfig
from gepa_loop.errors import ConfigError
from gepa_loop.start.names import ANSWERS, GROUPS, QUESTIONS, TOGETHER, is_name_of
from gepa_loop.start.survey import Field, Survey, common_system
from gepa_loop.task.fields import fields_in, turn_of
from gepa_loop.task.prompts import normalise
from gepa_loop.task.quantity import quantity
from gepa_loop.task.records import Item, value_at

LONG_ANSWER = 12
"""Median of words from which on an answer is a text that no rule scores well."""

Ask = Callable[[str, str | None, Sequence[str]], str | None]
"""(what is asked for, what is proposed, what there is) -> what is taken."""


def propose(_what: str, proposed: str | None, _known: Sequence[str]) -> str | None:
    """Takes what is proposed: the answer of nobody who is asked."""
    return proposed


NONE = "-"
"""What stands for no field, in a flag as in an answer to `init`."""


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
        if value == NONE and what != "question":
            return None
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
    answered: bool
    """Some record has an answer."""
    named: bool
    """In a field of its own; else in the last turn of the question's chat."""
    by_hand: bool
    """Each record says its split."""
    taken: frozenset[str]
    """The fields that are the question or the answer."""
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

    Raises:
        ConfigError: No field is taken for the question.
    """
    names = [one.name for one in found.fields]
    # Short questions that are asked again and again look like labels.
    question = ask("question", _question(found), names) or ("question" if "question" in names else None)
    if question is None:
        raise ConfigError(
            f"--data {found.name}: no field looks like a question",
            f"Say which is one: --question FIELD, or a text with fields in braces. Fields: {', '.join(names)}.",
        )
    asked = found.field(question)
    taken = {one for one in names if question == one or f"{{{one}}}" in question}
    turns = asked is not None and asked.kind == "turns"
    answer = ask("answer", _answer(found, taken, turns), [name for name in names if name not in taken])
    given: dict[str, Any] = {"question": question} if question != "question" else {}
    notes: dict[str, str] = {}
    if answer is not None and answer != "answer":
        given["answer"] = answer
    if turns:
        chats = [chat for row in found.rows if (chat := value_at(row, question))]
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
    answered = (answer is not None and any(_given(value_at(row, answer)) for row in found.rows)) or (
        answer is None and turns and any(_ends_in_answer(value_at(row, question)) for row in found.rows)
    )
    taken = taken if answer is None else {*taken, answer}
    return Meaning(FieldsConfig(**given), answered, answer is not None, by_hand, frozenset(taken), notes)


def _question(found: Survey) -> str | None:
    """The records' own fields first, then those of objects, but for objects that are an answer."""
    own = [one for one in found.fields if not one.depth]
    inner = [one for one in found.fields if one.depth and one.name.partition(".")[0].lower() not in ANSWERS]
    return _question_of(own) or _question_of(inner)


def _question_of(fields: Sequence[Field]) -> str | None:
    by_name = {one.leaf: one for one in fields if one.filled}
    for head, text in TOGETHER:
        pair = [by_name.get(head), by_name.get(text)]
        if all(one is not None and one.kind in ("text", "label") for one in pair):
            return "\n\n".join(f"{{{one.name}}}" for one in pair if one is not None)
    usable = [one for one in fields if one.kind in ("turns", "text") or (one.kind == "number" and one.words)]
    for name in QUESTIONS:
        for one in usable:
            if one.leaf == name:
                return one.name
    likely = [one for one in usable if one.kind == "turns" or one.leaf not in ANSWERS]
    return max(likely, key=lambda one: (one.kind == "turns", one.words)).name if likely else None


def _answer(found: Survey, taken: set[str], turns: bool) -> str | None:
    free = [
        one
        for one in found.fields
        if one.name not in taken and one.filled and one.kind not in ("turns", "list")
    ]
    own, inner = [one for one in free if not one.depth], [one for one in free if one.depth]
    return _answer_of(own, turns) or _answer_of(inner, turns)


def _answer_of(fields: Sequence[Field], turns: bool) -> str | None:
    for name in ANSWERS:
        for one in fields:
            if one.leaf == name:
                return one.name
    labels = [
        one.name
        for one in fields
        if one.kind == "label" and one.distinct > 1 and not is_name_of(one.leaf, GROUPS)
    ]
    if len(labels) == 1 and not turns:
        return labels[0]
    return None


def _names_splits(found: Survey) -> bool:
    from gepa_loop.task.dealing import SPLITS

    marks = {mark if isinstance(mark := row.get("split"), str) else None for row in found.rows}
    return marks <= {*SPLITS} and marks >= {"train", "pareto", "select", "test"}


def _given(value: object) -> bool:
    return value is not None and value != ""


def _ends_in_answer(chat: object) -> bool:
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
