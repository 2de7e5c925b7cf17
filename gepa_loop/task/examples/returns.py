"""What a shop says about returns: a policy that is short enough for a small model."""

from __future__ import annotations

import random
from collections.abc import Iterator

from gepa_loop.task.examples.facts import WHEN, Fact, questions

GOODS = (
    "lamp", "coat", "chair", "table", "mirror", "carpet", "clock", "vase", "bag", "jacket", "kettle",
    "toaster", "pan", "tent", "bike", "radio", "sofa", "desk", "shirt", "scarf", "camera", "phone",
    "watch", "drill", "ladder", "mower", "grill", "pillow", "blanket", "curtain", "bed", "shelf",
    "stool", "bench", "plate", "bowl", "spoon", "knife", "mug", "jug", "basket", "broom", "bucket",
    "hammer", "saw", "rake", "shovel", "hose", "bell", "candle", "frame", "globe", "kite", "ball",
    "racket",
)  # fmt: skip

FACTS = (
    Fact("17 days", ("How long can I return a {}?", "For how many days can I return a {}?",
                     "How many days do I have to return a {}?", "Until when can I return a {}?"), GOODS),
    Fact("4 euros", ("How much is the postage for a {}?", "What is the postage for a {}?",
                     "What does the postage of a {} cost?", "How much postage do I pay for a {}?"), GOODS),
    Fact("12 percent", ("What is the fee for a {} without a receipt?", "How much is the fee without a receipt for a {}?",
                        "What do you keep of the price of a {} without a receipt?"), GOODS),
    Fact("8:50", ("When does the counter open{}?", "At what time do you open{}?", "What time does the shop open{}?",
                  "When does the shop open{}?", "When do you open{}?"), WHEN),
    Fact("17:10", ("When does the counter close{}?", "At what time do you close{}?", "What time does the shop close{}?",
                   "When does the shop close{}?", "When do you close{}?"), WHEN),
)  # fmt: skip


def rows(source: random.Random) -> Iterator[dict[str, str]]:
    """Questions without end; each asks for one fact."""
    return questions(FACTS, source)
