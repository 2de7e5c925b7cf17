"""What a function of the user's says of replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

from gepa_loop.errors import EnvironmentFault, TaskError
from gepa_loop.outside.awaiting import at_once, is_asynchronous
from gepa_loop.outside.modules import foreign
from gepa_loop.outside.patience import SLOW, Patience, patient
from gepa_loop.task.own import PARALLEL, Score
from gepa_loop.task.readings import Reading, Scorer
from gepa_loop.task.records import Item, short

Verdict = Callable[[Item, str], Any]
"""(item, reply) -> what a user's function says of it, or an awaitable of that."""

SAID = 4_000
"""Characters that are kept of what a user's function says about a reply: it stands in every row, and the reflection reads it."""


def own_scorer(function: Verdict, where: str, parallel: int = PARALLEL, slow: float = SLOW) -> Scorer:
    """The scorer that asks a function of the user's; an asynchronous one about several replies at a time.

    Args:
        function: Gives a `Score`, a number, or (number, sentences for the reflection).
        where: What names it, for messages.
        parallel: Replies that an asynchronous one is asked about at a time.
        slow: Seconds after which it is said that one is waited for.
    """
    # A judge that cannot be reached, say: not a score of 0.
    saved = "What was finished is saved; run the same command again to continue."

    def score(one: Reading, patience: Patience) -> tuple[float, str]:
        with foreign(EnvironmentFault, f"{where}: score on {one.item.id}", saved), patience.over(one.item.id):
            result = function(one.item, one.reply)
        return _worth(result, one.item, where)

    async def awaited(one: Reading, patience: Patience) -> tuple[float, str]:
        with foreign(EnvironmentFault, f"{where}: score on {one.item.id}", saved), patience.over(one.item.id):
            result = await function(one.item, one.reply)
        return _worth(result, one.item, where)

    def all_of(readings: Sequence[Reading]) -> list[tuple[float, str]]:
        with patient(f"{where}: score on", slow) as patience:
            if is_asynchronous(function):
                return at_once([partial(awaited, one, patience) for one in readings], parallel)
            return [score(one, patience) for one in readings]

    return all_of


def by_record(function: Callable[[dict[str, Any], str], Any]) -> Verdict:
    """A function (record, reply) as one of the item."""
    if not is_asynchronous(function):
        return lambda item, reply: function(dict(item.entry), reply)

    async def awaited(item: Item, reply: str) -> object:
        return await function(dict(item.entry), reply)

    return awaited


def _worth(result: object, item: Item, where: str) -> tuple[float, str]:
    """What a user's function gave, checked."""
    if isinstance(result, Score):
        result = result.value, result.feedback
    raw, said = result if isinstance(result, tuple) and len(result) == 2 else (result, "")
    if not (isinstance(raw, Real) and raw <= 1 and not raw < 0 and isinstance(said, str)):
        raise TaskError(
            f"{where}: score gave {short(repr(result))} for {item.id}",
            "Return a Score, a number from 0 to 1, or (number, text).",
        )
    return float(raw), short(said.encode("utf-8", "replace").decode(), SAID)
