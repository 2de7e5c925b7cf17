"""Requests under the refund policy of a bookshop: which clause decides, and how much is paid."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Clause:
    """A case, what requests about it say, and what is paid."""

    case: str
    texts: tuple[str, ...]
    euros: int | None
    """None is the price."""


CLAUSES = (
    Clause("torn", ("The book came with torn pages.", "The cover was ripped when it arrived."), None),
    Clause("wrong", ("You sent me another title than I had ordered.", "It is the wrong book."), None),
    Clause("sealed", ("I bought it {early} days ago and it is still sealed.", "It is still sealed, {early} days old."), None),
    Clause("opened", ("I opened it {early} days ago and have read a chapter.", "I opened it, it is {early} days old."), 6),
    Clause("old", ("I bought it {late} days ago.", "The purchase was {late} days ago."), 0),
    Clause("e-book", ("It was an e-book.", "I downloaded it as an e-book."), 0),
    Clause("gift", ("It was a gift and I have no receipt.", "I got it as a gift, without a receipt."), 5),
    Clause("sale", ("It is from your sale table.", "I took it in the clearance sale."), 1),
    Clause("lost", ("The parcel never arrived.", "I have waited six weeks and no book has come."), None),
    Clause("stained", ("I spilled coffee over it.", "My dog chewed the cover."), 0),
    Clause("school", ("Our school ordered it for a class that was cancelled.", "It was for a school class that is off."), 8),
    Clause("signed", ("It is a signed copy.", "The author signed it for me."), 3),
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
        number, price = source.randrange(len(CLAUSES)), source.choice(PRICES)
        clause = CLAUSES[number]
        fact = source.choice(clause.texts).format(early=source.randint(2, 13), late=source.randint(31, 90))
        opening = f"I paid {price} euros for {source.choice(BOOKS)}."
        order = [opening, fact] if source.random() < 0.7 else [fact, opening]
        euros = price if clause.euros is None else clause.euros
        answer = {"case": clause.case, "clause": number + 1, "euros": euros}
        yield {"question": " ".join([*order, source.choice(ASK)]), "answer": json.dumps(answer)}
