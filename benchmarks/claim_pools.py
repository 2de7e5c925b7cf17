"""The prompts that compete in a cell of benchmarks/claim.py: eight of a task, drawn by the cell's seed."""

from __future__ import annotations

import random
from pathlib import Path

from gepa_loop.run.seeds import derive_seed

PROMPTS = Path(__file__).parent.parent / "prompts"
SIZE = 8
KEPT = 0.4, 1.0
"""Between these lies the chance that a line of the good prompt is kept in one of a pool."""

WORDINGS = {
    "lcm": (
        "Find the least common multiple. Reply with the number.",
        "The least common multiple is the smallest number that both numbers divide. End your reply with it.",
        "List multiples of the larger number until one is divided by the smaller number. End with that number.",
        "Divide the product of the two numbers by their greatest common divisor. End with the result.",
        "First say whether one number divides the other: then the larger one is the answer. Else multiply them and divide by what "
        "they share. End with the answer.",
        "Split both numbers into primes, take each prime as often as it comes in either, and multiply. End with the product.",
        "Think step by step and end your reply with one number.",
        "LCM of 4 and 6: multiples of 6 are 6, 12; 12 is divided by 4. The answer is 12.\nLCM of 5 and 7: they share nothing, 35. "
        "The answer is 35.\nDo the same.",
    ),
    "letter_counting": (
        "Count the letter. Reply with the number.",
        "Go through the text word by word, say how often the letter is in each, and end with the sum.",
        "Write only the words that have the letter, then how often it is in them all together.",
        "Reply with a number and nothing else.",
        "Spell the text letter by letter and count the matches. End with the count.",
        "Capital and small letters count alike. End your reply with how often the letter is there.",
        "Think step by step and end your reply with one number.",
        "How often is e in 'seen here'? seen 2, here 2. The answer is 4.\nHow often is a in 'a cat'? a 1, cat 1. The answer is 2.\n"
        "Do the same.",
    ),
}
"""Of tasks whose prompt can only say how to go about it; all eight compete in every cell."""


def pool_of(task: str, seed: int) -> list[str]:
    """Eight prompts: parts of the task's good prompt, each line kept or not, or the wordings there are."""
    if task in WORDINGS:
        return list(WORDINGS[task])
    head, *units = _units((PROMPTS / task / "good.txt").read_text())
    draw = random.Random(derive_seed(seed, "pool", task))
    found: dict[str, None] = {}
    while len(found) < SIZE:
        share = draw.uniform(*KEPT)
        found["\n".join([head, *(unit for unit in units if draw.random() < share)])] = None
    return list(found)


def _units(text: str) -> list[str]:
    """Lines, a reply with what it answers."""
    units: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        if line.startswith("Reply:"):
            units[-1] += f"\n{line}"
        else:
            units.append(line)
    return units
