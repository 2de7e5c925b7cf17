"""Tickets of a garden shop and the code of the desk that answers them, by rules that overrule the obvious."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

TOOLS = (
    "hedge trimmer", "lawn mower", "garden hose", "pruning saw", "leaf blower", "wheelbarrow", "chainsaw", "sprinkler",
    "compost bin", "log splitter", "edging spade", "water pump", "shredder", "cordless drill", "pressure washer", "ladder",
)  # fmt: skip
TOPICS: Mapping[str, tuple[str, ...]] = {
    "Q1-RFD": (
        "I sent the {tool} back {days} days ago and have not seen my money yet.",
        "Your warehouse got my returned {tool} on {day}. When will the {euros} euros be paid back?",
        "The {tool} was returned unused, but the refund is not on my account.",
        "I returned a {tool} and you paid me {euros} euros too little for it.",
    ),
    "Q2-DLV": (
        "My {tool} was promised for {day} and is still not here.",
        "Tracking has said 'in transit' for {days} days. Where is my {tool}?",
        "The courier says the {tool} was delivered on {day}, but nobody here has it.",
        "The parcel with my {tool} is {days} days late. If it takes longer I want to cancel.",
    ),
    "Q3-DMG": (
        "The {tool} came with a bent handle, straight out of the box.",
        "I ordered a {tool} and got a {other}.",
        "When I unpacked the {tool} on {day}, a part was missing. I want my {euros} euros back.",
        "The box was torn and the {tool} inside is scratched all over.",
    ),
    "Q4-INV": (
        "Please send me the invoice for the {tool}, my tax adviser needs it.",
        "The receipt for the {tool} shows the wrong VAT number.",
        "I paid {euros} euros for a {tool} on {day} and need a copy of the bill.",
        "Could the invoice of the {tool} be made out to my wife instead?",
    ),
    "Q5-ACC": (
        "I cannot log in any more since {day}, the site says my password is wrong.",
        "Please change the e-mail address of my account, I ordered the {tool} with the old one.",
        "The link to reset my password does not work. I only wanted to order a {tool}.",
        "Delete my account, please. The {tool} was my last order.",
    ),
    "Q6-CNL": (
        "I ordered a {tool} an hour ago by mistake. Please stop the order.",
        "Can I still swap the {tool} in my order of {day} for a {other}? It has not been sent yet.",
        "Please take the {other} off my open order and leave only the {tool}.",
        "My order for a {tool} has not left yet: send it to my office, please.",
    ),
    "Q7-WAR": (
        "After {months} months of use the {tool} will not start any more.",
        "The motor of my {tool} died in its first year. Who repairs it?",
        "My {tool}, bought {months} months ago, is leaking. Is that covered?",
        "The handle of the {tool} broke off at work on {day}, after {months} months.",
    ),
}  # fmt: skip
MANY = (
    "We need {count} of them for our depot.",
    "It is about {count} pieces for our crew.",
    "All {count} units of the order are meant.",
    "The order is for {count} pieces.",
)
HURT = (
    "I cut my hand on it.",
    "My son got an electric shock from it.",
    "It burnt my arm.",
    "My neighbour was hurt by it and had to see a doctor.",
)
THREAT = (
    "This is the third time that I write.",
    "My lawyer will be in touch.",
    "I will tell the newspaper about it.",
    "Otherwise we will meet in court.",
)
FIRST = (
    "", "Hello,", "Good morning,", "Dear team,", "Hi there,", "To whom it may concern:", "Good evening,",
)  # fmt: skip
LAST = (
    "", "Thanks, {name}", "Regards, {name}", "{name}", "Order {order}.", "My order number is {order}.",
    "Please answer soon. {name}", "Yours, {name}, order {order}",
)  # fmt: skip
NAMES = ("Ada", "Bruno", "Carla", "Deniz", "Edgar", "Fatima", "Greta", "Hugo", "Ines", "Jakob", "Kim", "Lena")
ABOUT_A_TOOL = ("Q1-RFD", "Q3-DMG", "Q7-WAR")
"""Topics of somebody who has had the tool in hand."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Tickets without end; a third of them hold what overrules their topic."""
    while True:
        code, texts = source.choice(list(TOPICS.items()))
        lines = [source.choice(FIRST), source.choice(texts)]
        special = source.random()
        more = ""
        if special < 0.2 and code in ABOUT_A_TOOL:
            code, more = "S4-SAF", source.choice(HURT)
        elif 0.2 <= special < 0.32 and code != "Q5-ACC":
            code, more = "K2-BUS", source.choice(MANY)
        elif 0.32 <= special < 0.42:
            code, more = "Z9-ESC", source.choice(THREAT)
        lines += [more, source.choice(LAST)]
        tool, other = source.sample(TOOLS, 2)
        text = " ".join(line for line in lines if line).format(
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
        yield {"question": text, "answer": code}
