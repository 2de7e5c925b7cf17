"""Two runs side by side, and what makes them hard to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gepa_loop.outside.redact import redacted
from gepa_loop.scores.card import WAYS, Way
from gepa_loop.scores.numbers import decimal
from gepa_loop.scores.statistics import difference, item_scores
from gepa_loop.show.report.read import Told
from gepa_loop.show.report.verdict import Forest, end_of_axis, forest, gain, interval, verdict

SAME = {
    "task.fingerprint": "their data differ (the fingerprints of the tasks), so their scores are of other items or readings",
    "model.fingerprint": "their models have other weights",
    "model.resolved": "they were computed in other types or on other devices",
    "evaluate.temperature": "their sampled replies were drawn at other temperatures",
    "evaluate.samples": "an item's score is a mean over other numbers of sampled replies",
    "sampling.max_tokens": "their replies were cut at other lengths",
}
"""What two runs should have in common, and what it means where they do not."""


@dataclass(frozen=True)
class Side:
    """One of them."""

    name: str
    command: str
    verdict: str
    forest: Forest
    kept: str
    saved: str


@dataclass(frozen=True)
class Pair:
    """Both."""

    sides: tuple[Side, Side]
    warnings: tuple[str, ...]
    students: tuple[str, ...]
    """The first's student less the second's, where they answered the same items."""
    differ: tuple[tuple[str, str, str], ...]
    """Values of their identities that differ."""


def of_one_task(first: Told, second: Told) -> bool:
    """Whether two runs can be compared: the same data, whatever their name, or another state of data of one name."""
    return _same("task.fingerprint", first, second) or _same("task.name", first, second)


def compare(first: Told, second: Told) -> Pair:
    """Two finished runs of one task.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    warnings = [
        f"{why}: {first.identity.get(key)} and {second.identity.get(key)}"
        for key, why in SAME.items()
        if first.identity.get(key) != second.identity.get(key)
    ]
    if first.decides != second.decides:
        warnings.append(f"{first.decides} scores decide the one, {second.decides} ones the other")
    students: tuple[str, ...] = ()
    if _same("task.fingerprint", first, second):
        doubt = _doubt(first, second)
        warnings += [doubt] if doubt else []
        students = () if doubt else tuple(_students(first, second))
    differ = tuple(_differ(first.identity, second.identity))
    top = end_of_axis(first, second)
    return Pair((_side(first, top), _side(second, top)), tuple(warnings), students, differ)


def _side(told: Told, top: float) -> Side:
    share = told.shares[told.decides]
    return Side(
        told.name,
        told.command,
        verdict(told),
        forest(told, top),
        "not known" if share is None else f"{decimal(share['mean'])} {interval(share)}",
        "no student" if told.adapter is None else f"{told.saved:,}",
    )


def _same(key: str, first: Told, second: Told) -> bool:
    return first.identity.get(key) is not None and first.identity[key] == second.identity.get(key)


def _doubt(first: Told, second: Told) -> str:
    """Why scores of the same items are not paired; empty where they are.

    The fingerprint of a task without answers leaves out what stands for them: each run's own prompted model's replies.
    """
    answers = [{row["item"]: row["answer"] for row in told.items()} for told in (first, second)]
    missing = [told.name for told, found in zip((first, second), answers, strict=True) if not found]
    if missing:
        why = "not known to be scored against the same answers, as there is no items.jsonl"
        return f"their items are {why} in {' and '.join(missing)}"
    other = sum(answers[0].get(item) != answers[1].get(item) for item in {*answers[0], *answers[1]})
    if not other:
        return ""
    return f"{other} of {len(answers[0])} items were scored against other answers, so their scores are not paired by item"


def _students(first: Told, second: Told) -> Iterator[str]:
    """Of each way, a difference paired by item."""
    own = [next((one for one in told.subjects if one.key == "student"), None) for told in (first, second)]
    if own[0] is None or own[1] is None:
        return
    for way in WAYS:
        a, b = item_scores(first.rows(own[0], way)), item_scores(second.rows(own[1], way))
        if a.keys() == b.keys():
            found = difference(a, b, int(first.identity.get("seed", 0))).as_dict()
            yield f"{_way(way, first)}: student of {first.name} − student of {second.name} {gain(found)}, paired by item"


def _way(way: Way, told: Told) -> str:
    return f"{way.capitalize()}{', which decides' if way == told.decides else ''}"


def _differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in sorted({*first, *second}):
        values = [redacted(str(one[key])) if key in one else "—" for one in (first, second)]
        if values[0] != values[1]:
            yield key, values[0], values[1]
