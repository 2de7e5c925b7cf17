"""Replies as scorers read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gepa_loop.task.records import Item


@dataclass(frozen=True)
class Reading:
    """A reply to an item, as scorers read it."""

    item: Item
    read: str | None
    """What `task.extract` read of it; None where there was nothing to read."""
    reply: str
    """All of it."""


Scorer = Callable[[Sequence[Reading]], list[tuple[float, str]]]
"""Replies -> of each its score, and sentences for the reflection or an empty text."""


def each(score: Callable[[Reading], tuple[float, str]]) -> Scorer:
    """The scorer that looks at one reply after the other."""
    return lambda readings: [score(one) for one in readings]
