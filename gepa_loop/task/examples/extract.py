"""Orders of a coffee roastery and the record that its warehouse reads, under house rules."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping

GOODS: Mapping[str, str] = {
    "house blend": "HB-11", "dark roast": "DR-24", "light roast": "LR-32", "decaf": "DC-40", "espresso": "ES-53",
    "breakfast blend": "BB-61", "mocha": "MO-75", "green tea": "GT-80", "hot chocolate": "HC-92", "oat milk": "OM-07",
}  # fmt: skip
COUNTS: Mapping[str, int] = {
    "one": 1, "a pair of": 2, "three": 3, "half a dozen": 6, "a dozen": 12, "two dozen": 24, "4": 4, "5": 5, "8": 8,
    "10": 10, "15": 15, "20": 20,
}  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
TOWNS = (
    "Graz",
    "Lyon",
    "Porto",
    "Bergen",
    "Ghent",
    "Turin",
    "Aarhus",
    "Split",
    "Cork",
    "Brno",
    "Vilnius",
    "Malmo",
)
TEXTS = (
    "Please send {count} bags of {good} to {town} by {date}.",
    "We need {count} bags of {good} in {town} on {date}.",
    "Order for our cafe in {town}: {count} bags of {good}, needed {date}.",
    "Could you ship {count} bags of {good}? Address as always in {town}, latest day {date}.",
    "For {date}, please: {count} bags of {good}, to {town}.",
    "Hi, {town} here. We are out of {good}, so {count} bags until {date}, thanks!",
)


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Orders without end, each with its record as JSON."""
    while True:
        good, sku = source.choice(list(GOODS.items()))
        words, count = source.choice(list(COUNTS.items()))
        month, day = source.randrange(12), source.randint(1, 28)
        date = source.choice((f"{day} {MONTHS[month]}", f"{MONTHS[month]} {day}"))
        town = source.choice(TOWNS)
        text = source.choice(TEXTS).format(count=words, good=good, town=town, date=date)
        record = {"sku": sku, "bags": count, "town": town.upper(), "date": f"{day:02}.{month + 1:02}."}
        yield {"question": text, "answer": json.dumps(record)}
