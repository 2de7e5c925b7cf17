"""Notices of a town hall, to be written anew under six rules that can be checked."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

EVENTS = (
    "The lift", "The car park", "The north entrance", "The canteen", "The heating", "The main printer", "The bike shed",
    "The meeting room", "The library", "The water supply", "The reading hall", "The archive",
)  # fmt: skip
WHAT = (
    "will be closed",
    "is out of order",
    "will be cleaned",
    "cannot be used",
    "will be repaired",
    "is being painted",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WHOM = ("All employees", "All staff", "Our employees", "The staff")
ASKED = ("are asked to use the back door", "should plan ahead", "must leave the building", "are asked to be patient",
         "should bring a jacket", "are asked to work from home")  # fmt: skip
SIGN = ("Questions: {room}.", "Ask in {room}.", "See {room} for details.", "More in {room}.")


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Notices without end, with the facts that must stay and a notice that keeps all rules."""
    while True:
        event, what = source.choice(EVENTS), source.choice(WHAT)
        day, asked, sign = source.choice(DAYS), source.choice(ASKED), source.choice(SIGN)
        hour, half, room = (
            source.randint(1, 11),
            source.choice(("00", "15", "30", "45")),
            source.randint(101, 499),
        )
        facts = {"day": day[:2].upper(), "time": f"{hour + 12}h{half}", "room": f"R-{room}"}
        yield {
            "question": f"Rewrite this notice: {event} {what} on {day} from {hour}:{half} pm. "
            f"{source.choice(WHOM)} {asked}. {sign.format(room=f'room {room}')}",
            "answer": f"NOTICE // {event} {what} on {facts['day']} from {facts['time']}. "
            f"All crew {asked}. {sign.format(room=facts['room'])} -- Town Hall",
            **facts,
        }


def score(entry: Mapping[str, Any], reply: str) -> tuple[float, str]:
    """The share of the six rules that a notice keeps, and which it breaks."""
    text = reply.strip()
    kept = {
        "it must begin with 'NOTICE //'": text.startswith("NOTICE //"),
        f"the time must be written {entry['time']}": entry["time"] in text and " pm" not in text,
        f"the day must be written {entry['day']}": re.search(rf"\b{entry['day']}\b", text) is not None,
        f"the room must be written {entry['room']}": entry["room"] in text,
        "staff and employees must be called crew": "crew" in text.lower()
        and not re.search(r"staff|employee", text, re.IGNORECASE),
        "it must end with '-- Town Hall'": text.endswith("-- Town Hall"),
    }
    broken = [rule for rule, done in kept.items() if not done]
    return 1 - len(broken) / len(kept), "".join(f"{rule[0].upper()}{rule[1:]}. " for rule in broken).strip()
