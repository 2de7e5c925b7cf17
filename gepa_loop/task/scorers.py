"""What a reply is worth beside the expected answer: a score from 0 to 1, by a rule or by a function of the user's."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.outside.modules import own_function
from gepa_loop.task.occurs import occurs
from gepa_loop.task.own_scorer import by_record, own_scorer
from gepa_loop.task.quantity import equal
from gepa_loop.task.readings import Reading, Scorer, each
from gepa_loop.task.records import Item, short

Rule = Callable[[str, str], tuple[float, str]]
"""(what was read of the reply, the expected answer) -> the same."""


def make_scorer(config: TaskConfig, items: Sequence[Item]) -> Scorer:
    """The scorer that `task.scorer` names.

    Args:
        config: Of a task that brings no scorer of its own.
        items: All of its items: `choice` takes their answers for the labels.

    Raises:
        TaskError: An answer is missing, no regular expression or no JSON object, labels cannot be told apart, or there is no such function.
    """
    name, where = config.scorer or "exact", f"task.scorer = {config.scorer!r}"
    if ":" in name:
        module, _, attribute = name.rpartition(":")
        return own_scorer(by_record(own_function(module, attribute, where)), where)
    for item in items:
        _check_answer(name, item, where)
    if name != "choice":
        return by_rule(RULES[name])
    labels = list(dict.fromkeys(item.answer for item in items))
    _check_labels(labels, where)
    return by_rule(choice(labels))


def by_rule(rule: Rule) -> Scorer:
    """What was read of a reply against the item's answer; nothing read is worth nothing."""
    return each(lambda one: (0.0, "") if one.read is None else rule(one.read, one.item.answer))


def unanswered(readings: Sequence[Reading]) -> list[tuple[float, str]]:
    """The scorer of a task without answers, before there is anything to compare a reply with."""
    for one in readings:
        raise TaskError(
            f"{one.item.id} has no answer",
            "`distill` does without, as it compares with the prompted model's replies, and so does task.scorer = 'model'.",
        )
    return []


def muted(readings: Sequence[Reading]) -> list[tuple[float, str]]:
    """0 for replies whose scores nobody reads."""
    return [(0.0, "")] * len(readings)


def same_text(readings: Sequence[Reading]) -> list[tuple[float, str]]:
    """1 where the whole reply is the item's answer."""
    return [(float(one.reply.strip() == one.item.answer.strip()), "") for one in readings]


def _check_answer(name: str, item: Item, where: str) -> None:
    if not item.answer:
        raise TaskError(
            f"{item.id} has no answer, and task.scorer = {name!r} compares with one",
            "Give every record an answer; task.scorer = 'model' and 'file.py:function' may do without.",
        )
    try:
        if name == "regex":
            re.compile(item.answer)
        if name == "json" and not isinstance(json.loads(item.answer), dict):
            raise ValueError("no object")
    except (ValueError, re.error, RecursionError) as error:
        what = "regular expression" if name == "regex" else "JSON object"
        raise TaskError(f"{where}: the answer of {item.id} is no {what}: {error}") from None


def _check_labels(labels: Sequence[str], where: str) -> None:
    """Refuse labels that `choice` would take for one, or never find."""
    known: dict[tuple[str, ...], str] = {}
    for label in labels:
        words = _words(label)
        other = known.setdefault(words, label)
        what = f"the label {short(label)!r} has no word" if not words else ""
        if _plain(other) != _plain(label):
            what = f"the labels {short(other)!r} and {short(label)!r} differ in their punctuation alone"
        if what:
            raise TaskError(f"{where}: {what}", "task.scorer = 'exact' tells them apart.")


def exact(read: str, answer: str) -> tuple[float, str]:
    """1 where both are the same text or number."""
    return float(equal(read, answer)), ""


def includes(read: str, answer: str) -> tuple[float, str]:
    """1 where the answer occurs in what was read as words and numbers of its own, case and white space aside."""
    return float(occurs(_plain(answer), _plain(read))), ""


def regex(read: str, answer: str) -> tuple[float, str]:
    """1 where the answer, a regular expression, matches somewhere in what was read."""
    return float(re.search(answer, read) is not None), ""


def f1(read: str, answer: str) -> tuple[float, str]:
    """Harmonic mean of precision and recall of words, counted as often as they occur (SQuAD's, articles kept)."""
    said, wanted = Counter(_words(read)), Counter(_words(answer))
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total()) if common else 0.0, ""


def choice(labels: Iterable[str]) -> Rule:
    """1 where the reply names the right label and no other, case and punctuation aside.

    Args:
        labels: All that a reply can name.
    """
    known = {_words(label): label for label in labels}

    def rule(read: str, answer: str) -> tuple[float, str]:
        words = _words(read)
        spans = [
            (start, start + len(label), label)
            for label in known
            for start in range(len(words) - len(label) + 1)
            if label and words[start : start + len(label)] == label
        ]
        # A label inside a longer one ("late" in "late delivery") is not named by it.
        named = {
            label
            for start, end, label in spans
            if not any(a <= start and end <= b and (a, b) != (start, end) for a, b, _ in spans)
        }
        if named == {_words(answer)}:
            return 1.0, ""
        if len(named) > 1:
            return 0.0, f"It names {len(named)} labels: {', '.join(sorted(known[label] for label in named))}."
        return 0.0, "" if named else "It names none of the labels."

    return rule


def json_fields(read: str, answer: str) -> tuple[float, str]:
    """The share of fields that are right, of all that the answer or the reply has.

    A field is a value at its path in the object; texts and numbers are compared as `exact` does. The reply's object is the
    first that can be read in it, so that a fence or a sentence around it does no harm.
    """
    said, wanted = first_object(read), dict(_leaves(json.loads(answer)))
    if said is None:
        return 0.0, "No JSON object was found in the reply."
    given = dict(_leaves(said))
    wrong = [path for path, value in wanted.items() if path not in given or not _same(given[path], value)]
    extra = [path for path in given if path not in wanted]
    sentence = f"Wrong or missing: {', '.join(wrong)}. " if wrong else ""
    sentence += f"Not asked for: {', '.join(extra)}." if extra else ""
    return (len(wanted) - len(wrong)) / (len(wanted) + len(extra)), sentence.strip()


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text; None where there is none."""
    return next(json_objects(text), None)


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, without those inside others."""
    decoder, end = json.JSONDecoder(), 0
    for brace in re.finditer(r"\{", text):
        if brace.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


RULES: Mapping[str, Rule] = {
    "exact": exact,
    "includes": includes,
    "regex": regex,
    "f1": f1,
    "json": json_fields,
}
"""By the name that `task.scorer` has for it; `choice` is made of the labels."""

MEANINGS: Mapping[str, str] = {"includes": "words and numbers of its own"}
"""Of rules that once meant something else: a run goes on only under the meaning that it began with."""


def _leaves(value: object, path: str = "") -> Iterable[tuple[str, object]]:
    """Each value that holds no others, by its path (`items[0].sku`); an empty list or object is one."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    else:
        yield path, value


def _same(a: object, b: object) -> bool:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in (a, b)]
    return equal(*texts)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))
