"""Requests under the refund policy of a bookshop: which clause decides, and how much is paid."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Clause:
    """What a case of it says, and what is paid."""

    number: str
    texts: tuple[str, ...]
    share: int
    """Percent of the price."""


CLAUSES = (
    Clause("C1", ("The book came with torn pages.", "The cover was ripped when it arrived."), 100),
    Clause("C2", ("You sent me another title than I had ordered.", "It is the wrong book."), 100),
    Clause("C3", ("I bought it {early} days ago and have not opened it.", "It is still sealed, {early} days old."), 100),
    Clause("C4", ("I bought it {early} days ago and have read a chapter.", "It is {early} days old, I looked into it."), 50),
    Clause("C5", ("I bought it {late} days ago.", "The purchase was {late} days ago."), 0),
    Clause("C6", ("It was an e-book.", "I downloaded it as an e-book."), 0),
    Clause("C7", ("It was a gift and I have no receipt.", "I got it as a present, without a receipt."), 50),
    Clause("C8", ("It is from your sale table.", "I took it in the clearance sale."), 0),
    Clause("C9", ("The parcel never arrived.", "I have waited six weeks and no book has come."), 100),
    Clause("C10", ("I spilled coffee over it.", "My dog chewed the cover."), 0),
    Clause("C11", ("Our school ordered it for a class that was cancelled.", "It was for a school class that is off."), 50),
    Clause("C12", ("It is a signed copy.", "The author signed it for me."), 0),
)  # fmt: skip
BOOKS = (
    "a cookbook", "an atlas", "a novel", "a dictionary", "a book of maps", "a comic", "a travel guide", "a biography",
    "a picture book", "a book of poems", "a history of Rome", "a field guide",
)  # fmt: skip
ASK = (
    "Can I have my money back?",
    "What do I get back?",
    "I want a refund.",
    "Will you refund me?",
    "How much is paid?",
)
PRICES = (10, 12, 14, 16, 18, 20, 24, 26, 28, 30, 32, 36, 40, 44, 48, 50, 60, 64, 70, 80)


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Requests without end; each has one fact that decides it."""
    while True:
        clause, price = source.choice(CLAUSES), source.choice(PRICES)
        fact = source.choice(clause.texts).format(early=source.randint(2, 13), late=source.randint(31, 90))
        opening = f"I paid {price} euros for {source.choice(BOOKS)}."
        order = [opening, fact] if source.random() < 0.7 else [fact, opening]
        question = " ".join([*order, source.choice(ASK)])
        yield {"question": question, "answer": f"{clause.number}: {price * clause.share // 100}"}
