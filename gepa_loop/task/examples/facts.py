"""Questions that ask for one fact each, which no model can guess; few enough for a small model to look up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WHEN = (
    " today", " tomorrow", " on Monday", " on Tuesday", " on Wednesday", " on Thursday", " on Friday", " on weekdays",
    " this week", " next week", " this month", " next month", " in spring", " in summer", " in autumn", " in winter",
    " in January", " in February", " in March", " in April", " in May", " in June", " in July", " in August",
    " in September", " in October", " in November", " in December", " now",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """What an answer must hold, and how it is asked for."""

    answer: str
    asked: tuple[str, ...]
    about: tuple[str, ...]
    """What stands for the braces."""


def questions(facts: Sequence[Fact], source: random.Random) -> Iterator[dict[str, str]]:
    """Questions without end; each asks for one of the facts."""
    while True:
        fact = source.choice(facts)
        yield {"question": source.choice(fact.asked).format(source.choice(fact.about)), "answer": fact.answer}
