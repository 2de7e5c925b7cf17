"""Questions that a prompt holds and will be judged by, as its worked examples may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gepa_loop.task.occurs import occurs
from gepa_loop.task.records import Item, short

JUDGES = ("race", "select", "test")
"""Splits that choose, or that are reported."""


def held_questions(prompt: str, source: str, splits: Mapping[str, Sequence[Item]]) -> str | None:
    """A warning that counts them and quotes the first; None where there are none.

    Args:
        prompt: Its text.
        source: Where it came from.
        splits: Items of round 0.
    """
    found = {split: [item for item in splits[split] if occurs(item.question, prompt)] for split in JUDGES}
    held = [item for items in found.values() for item in items]
    if not held:
        return None
    counts = " and ".join(f"{len(items)} of {split}" for split, items in found.items() if items)
    first = short(" ".join(held[0].question.split()), 60)
    which = f"{held[0].id} {first!r}" if len(held) == 1 else f"the first is {held[0].id} {first!r}"
    return f"{source} holds questions it will be judged by: {counts} ({which}); its scores are too good"
