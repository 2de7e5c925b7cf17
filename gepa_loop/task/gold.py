"""What is wrong with the expected answers of a task, found before anything is sampled."""

from __future__ import annotations

from collections.abc import Sequence

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.task.answers import equal, extract, reply_with
from gepa_loop.task.quantity import numbers
from gepa_loop.task.readings import Reading, Scorer
from gepa_loop.task.records import Item, Messages, alike, short

NEARLY_ALL = 0.9
"""Share of answers that nothing can match from which on a task is refused: its scores would say nothing."""

CHECKED = 200
"""Answers of a reasoning-gym task that are checked, evenly over its items: some of its scorers need 30 ms for one."""


def contradictions(items: Sequence[Item]) -> tuple[str, ...]:
    """A sentence on questions that occur with two answers, case and white space of them aside; nothing where there are none."""
    first: dict[Messages, Item] = {}
    pairs: dict[Messages, tuple[Item, Item]] = {}
    for item in sorted(items, key=_place):
        question = alike(item.messages)
        one = first.setdefault(question, item)
        if not equal(item.answer, one.answer):
            pairs.setdefault(question, (one, item))
    if not pairs:
        return ()
    shown = "; ".join(
        f"{one.id} {short(one.answer)!r} and {other.id} {short(other.answer)!r}"
        for one, other in list(pairs.values())[:3]
    )
    what = "question occurs" if len(pairs) == 1 else "questions occur"
    kept = (
        "of which the shuffle keeps one"
        if all(one.messages == other.messages for one, other in pairs.values())
        else "of which the shuffle keeps one where they are written alike"
    )
    return (f"{len(pairs):,} {what} with two answers, {kept}: {shown}",)


def unmatched(config: TaskConfig, items: Sequence[Item], scorer: Scorer) -> tuple[str, ...]:
    """A sentence on answers that score below 1 when a reply gives them word for word; nothing where there are none.

    Raises:
        TaskError: They are `NEARLY_ALL`.
    """
    answered = sorted((item for item in items if item.answer), key=_place)
    if config.kind == "reasoning_gym":
        answered = answered[:: -(-len(answered) // CHECKED) or 1]
    replies = [reply_with(config.extract, item.answer) for item in answered]
    readings = [
        Reading(item, extract(config.extract, reply), reply)
        for item, reply in zip(answered, replies, strict=True)
    ]
    missed = [
        (one.item, "nothing" if one.read is None else repr(short(one.read)))
        for one, (score, _) in zip(readings, scorer(readings), strict=True)
        if score < 1 - 1e-9
    ]
    if not missed:
        return ()
    shown = "; ".join(f"{item.id} {short(item.answer)!r} is read as {read}" for item, read in missed[:3])
    what = (
        f"{len(missed):,} of {len(answered):,} answers cannot score 1 even if a reply gives them word for word "
        f"(task.extract = {config.extract}): {shown}"
    )
    hint = _way_out(config, missed[0][0].answer)
    if len(missed) >= NEARLY_ALL * len(answered):
        raise TaskError(f"task.name = {config.name!r}: {what}", hint)
    return (f"{what}. {hint}",)


def _way_out(config: TaskConfig, answer: str) -> str:
    if config.kind == "reasoning_gym":
        return "Choose another task.extract, and a prompt that asks for its form: tags reads <answer>...</answer>."
    if "####" in answer:
        return "What follows #### is the answer in files like GSM8K's: --set 'task.fields.after=\"####\"'."
    if config.extract == "last_number" and numbers(answer):
        return "Give the number alone as the answer, or choose another task.extract."
    return "Choose another task.extract: tags and boxed read any text, and whole compares all of a reply."


def _place(item: Item) -> int:
    """The line or the seed in an item's id."""
    return int(item.id.rpartition(":")[2])
