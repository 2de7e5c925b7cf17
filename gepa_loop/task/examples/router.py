"""Tickets of a garden shop: what each is about and the code of the desk that answers it, by rules that overrule the obvious."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping

TOOLS = (
    "hedge trimmer", "lawn mower", "garden hose", "pruning saw", "leaf blower", "wheelbarrow", "chainsaw", "sprinkler",
    "compost bin", "log splitter", "edging spade", "water pump", "shredder", "cordless drill", "pressure washer", "ladder",
)  # fmt: skip
DESKS: Mapping[str, str] = {
    "refund": "Q1-RFD", "delivery": "Q2-DLV", "damage": "Q3-DMG", "invoice": "Q4-INV", "account": "Q5-ACC",
    "change": "Q6-CNL", "warranty": "Q7-WAR", "legal": "Z9-ESC", "injury": "S4-SAF", "bulk": "K2-BUS",
}  # fmt: skip
TOPICS: Mapping[str, tuple[str, ...]] = {
    "refund": (
        "I sent the {tool} back {days} days ago and have not seen my money yet.",
        "Your warehouse got my returned {tool} on {day}. When will the {euros} euros be paid back?",
        "The {tool} was returned unused, but the refund is not on my account.",
        "I returned a {tool} and you paid me {euros} euros too little for it.",
    ),
    "delivery": (
        "My {tool} was promised for {day} and is still not here.",
        "Tracking has said 'in transit' for {days} days. Where is my {tool}?",
        "The courier says the {tool} was delivered on {day}, but nobody here has it.",
        "The parcel with my {tool} is {days} days late. If it takes longer I want to cancel.",
    ),
    "damage": (
        "The {tool} came with a bent handle, damaged straight out of the box.",
        "I ordered a {tool} and got a {other}, the wrong thing.",
        "When I unpacked the {tool} on {day}, it was damaged. I want my {euros} euros back.",
        "The box was torn and the new {tool} inside is scratched all over.",
    ),
    "invoice": (
        "Please send me the invoice for the {tool}, my tax adviser needs it.",
        "The receipt for the {tool} shows the wrong VAT number.",
        "I paid {euros} euros for a {tool} on {day} and need a copy of the bill.",
        "Could the invoice of the {tool} be made out to my wife instead?",
    ),
    "account": (
        "I cannot log in any more since {day}, the site says my password is wrong.",
        "Please change the e-mail address of my account, I ordered the {tool} with the old one.",
        "The link to reset my password does not work. I only wanted to order a {tool}.",
        "Delete my account, please. The {tool} was my last order.",
    ),
    "change": (
        "I ordered a {tool} an hour ago by mistake. Please stop the order.",
        "Can I still swap the {tool} in my order of {day} for a {other}? It has not been sent yet.",
        "Please take the {other} off my open order and leave only the {tool}.",
        "My order for a {tool} has not left yet: send it to my office, please.",
    ),
    "warranty": (
        "After {months} months of use the {tool} will not start any more.",
        "The motor of my {tool} died in its first year. Who repairs it?",
        "My {tool}, bought {months} months ago, is leaking. Is that covered?",
        "The handle of the {tool} broke off at work on {day}, after {months} months.",
    ),
}  # fmt: skip
MANY = (
    "We are a company and ordered {count} pieces for our depot.",
    "It is about {count} pieces for our crew.",
    "We bought {count} of them for our business.",
    "This is about an order of {count} pieces.",
)
HURT = (
    "I cut my hand on my {tool}.",
    "My son got an electric shock from the {tool}.",
    "The {tool} has burnt my arm.",
    "My neighbour was hurt by the {tool} and had to see a doctor.",
)
THREAT = (
    "This is the third time that I write.",
    "My lawyer will be in touch.",
    "I will tell the newspaper about this.",
    "We will meet in court.",
)
FIRST = (
    "", "Hello,", "Good morning,", "Dear team,", "Hi there,", "To whom it may concern:", "Good evening,",
)  # fmt: skip
LAST = (
    "", "Thanks, {name}", "Regards, {name}", "{name}", "Order {order}.", "My order number is {order}.",
    "Please answer soon. {name}", "Yours, {name}, order {order}",
)  # fmt: skip
NAMES = ("Ada", "Bruno", "Carla", "Deniz", "Edgar", "Fatima", "Greta", "Hugo", "Ines", "Jakob", "Kim", "Lena")
ABOUT_A_TOOL = ("refund", "damage", "warranty")
"""Topics of somebody who has had the tool in hand."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Tickets without end; one in five begins with what overrules its topic."""
    while True:
        topic, texts = source.choice(list(TOPICS.items()))
        text, first = source.choice(texts), ""
        special = source.random()
        if special < 0.15 and topic in ABOUT_A_TOOL:
            topic, first = "injury", source.choice(HURT)
        elif 0.15 <= special < 0.23:
            topic, first = "bulk", source.choice(MANY)
        elif 0.23 <= special < 0.31:
            topic, first = "legal", source.choice(THREAT)
        tool, other = source.sample(TOOLS, 2)
        lines = (source.choice(FIRST), first, text, source.choice(LAST))
        question = " ".join(line for line in lines if line).format(
            tool=tool,
            other=other,
            days=source.randint(3, 20),
            months=source.randint(2, 11),
            day=source.choice(DAYS),
            euros=source.randint(15, 400),
            count=source.choice((10, 12, 15, 20, 24, 30, 40, 60)),
            name=source.choice(NAMES),
            order=source.randint(10_000, 99_999),
        )
        yield {"question": question, "answer": json.dumps({"topic": topic, "desk": DESKS[topic]})}
