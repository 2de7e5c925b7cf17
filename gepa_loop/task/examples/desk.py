"""Questions to the desk of a town library, for a small model."""

from __future__ import annotations

import random
from collections.abc import Iterator

from gepa_loop.task.examples.facts import WHEN, Fact, questions

WHO = (
    " for a child", " for a student", " for a year", " for my son", " for my daughter", " for my mother",
    " for my father", " for a teacher", " for two years", " for a family", " for a visitor", " for my wife",
    " for my husband", " for me", " for my brother", " for my sister", " for a nurse", " for a pupil", " for an adult",
    " for my friend", " for a couple", " for my class", " for a school", " for a guest", " for my aunt", " for my uncle",
    " for a tourist", " for a baby", " for a worker",
)  # fmt: skip
WHAT = (
    "book", "novel", "comic", "map", "magazine", "film", "atlas", "cookbook", "dictionary", "guide", "puzzle", "game",
    "picture book", "travel guide", "songbook", "biography", "history book", "children's book", "schoolbook", "diary",
    "poem book", "science book", "art book", "music book", "crime novel", "love story", "fairy tale", "newspaper", "record",
    "board game", "card game", "garden book", "sports book", "language course", "textbook", "fantasy novel", "manga",
    "play", "catalogue", "storybook",
)  # fmt: skip

FACTS = (
    Fact("9:40", ("When do you open{}?", "When does the library open{}?", "What time do you open{}?",
                  "What time does the library open{}?", "At what time do you open{}?",
                  "At what time does the library open{}?", "When does it open{}?"), WHEN),
    Fact("18:20", ("When do you close{}?", "When does the library close{}?", "What time do you close{}?",
                   "What time does the library close{}?", "At what time do you close{}?",
                   "At what time does the library close{}?", "When does it close{}?"), WHEN),
    Fact("7 euros", ("How much is a library card{}?", "What does a library card cost{}?", "How much is a card{}?",
                     "What is the price of a library card{}?", "How much do I pay for a library card{}?",
                     "What does a card cost{}?", "What is the price of a card{}?"), WHO),
    Fact("26 days", ("How long can I keep a {}?", "For how many days can I borrow a {}?", "How long can I borrow a {}?",
                     "How many days can I keep a {}?", "For how long can I have a {}?"), WHAT),
    Fact("40 cents", ("What is the late fee for a {}?", "How much is the late fee for a {}?", "What do I pay for a late {}?",
                      "How much do I pay for a late {}?", "What does it cost when a {} is late?"), WHAT),
)  # fmt: skip


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Questions without end; each asks for one fact."""
    return questions(FACTS, source)
