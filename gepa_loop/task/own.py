"""Tasks as a class of the user's: `gepa_loop.Task`, `gepa_loop.Item` and `gepa_loop.Score`.

    class Tickets(gepa_loop.Task):
        def items(self):
            for ticket in read_tickets():
                yield gepa_loop.Item.of(ticket.text, ticket.desk, customer=ticket.customer)

        async def score(self, item, reply):
            return gepa_loop.Score(0.5, "The desk is right, its code is missing.")

A configuration names it, `task.kind = "python"` and `task.name = "tickets.py:Tickets"`, and `task.options` are what it is made with; a Python
program hands an object of it to `gepa_loop.distill(task=...)`. What an object scores by is not to change while a run lasts: a run is
known again by its class's code, by what that imports, and by its attributes as they are when a command starts: texts, numbers, and lists, sets and
dicts of such. Others (a client, a model) are named at the start; what changes with every reply, as a cache does, is better kept in one of those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from gepa_loop.task.records import Item

PARALLEL = 8
"""Replies that an asynchronous function is asked about at a time, where it does not say another number."""


@dataclass(frozen=True)
class Score:
    """What a reply is worth.

    Raises:
        ValueError: `value` is no number from 0 to 1, or `feedback` no text.
    """

    value: float
    """From 0 to 1; it reaches every decision as it is."""
    feedback: str = ""
    """Sentences for the model that reflects on prompts: what was wrong, and what would have been right."""

    def __post_init__(self) -> None:
        value: object = self.value
        if not (isinstance(value, Real) and value <= 1 and not value < 0):
            raise ValueError(f"value = {value!r}: a score is a number from 0 to 1")
        said: object = self.feedback
        if not isinstance(said, str):
            raise ValueError(f"feedback = {said!r}: it is a text")


class Task(ABC):
    """Questions, and what a reply to one is worth. Extend it with `items`, and with `score` where no rule of `task.scorer` will do."""

    parallel: ClassVar[int] = PARALLEL
    """Replies that an asynchronous `score` is asked about at a time; a class may say another number."""

    @abstractmethod
    def items(self) -> Iterable[Item]:
        """All questions, each made by `Item.of`, the same ones at every call. They are dealt out to the splits."""

    def score(self, item: Item, reply: str) -> Score | float | bool | Awaitable[Score | float | bool]:
        """What a reply is worth, from 0 to 1; `async def` where it waits for somebody. The same reply is to have the same score.

        What it raises ends the run, which the same command continues: it is never a score of 0. Without a `score` of its own a class's replies are
        compared with the items' answers, as `task.scorer` says.

        Args:
            item: What was asked; `item.entry` has all of its fields.
            reply: All of the reply, without special tokens.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score of its own")

    @property
    def scores(self) -> bool:
        """Whether the class has a `score` of its own."""
        return type(self).score is not Task.score
