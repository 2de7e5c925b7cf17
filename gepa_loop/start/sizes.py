"""How many items each split of a user's data is to have, and what that many can show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from gepa_loop.config.data import SplitSizes
from gepa_loop.scores.decision import POWER
from gepa_loop.scores.race import FINALISTS
from gepa_loop.start.power import least_gain, power_of
from gepa_loop.task.marked import strays
from gepa_loop.task.records import Item
from gepa_loop.task.splits import SPLITS

FEWEST = 12
"""Distinct questions from which on there can be splits at all."""

SHARES = {"test": 0.3, "select": 0.2, "pareto": 0.15, "train": 0.35}
"""Of data too few for the sizes that splits have by default."""

WHOLE = {split: round(0.95 * share, 2) for split, share in SHARES.items()}
"""Where groups stay whole: a split's last group is cut, so a little stays over."""

RACE = 1_500
"""Distinct questions from which on `race` can have items of its own."""

ALPHA = 0.05
"""The level of tests, and of a loop's first round unless its config says otherwise."""

NAMED = 3
"""Records that a sentence names."""


def default_sizes(distinct: int) -> dict[str, float]:
    """The default's where there are enough questions, else shares of what there is."""
    default = SplitSizes()
    wanted = {
        "train": default.train,
        "pareto": default.pareto,
        "select": default.select,
        "test": default.test,
    }
    if distinct < sum(wanted.values()):
        return {split: max(1, math.floor(share * distinct)) for split, share in SHARES.items()}
    sizes: dict[str, float] = {**wanted}
    if distinct >= RACE:
        sizes["race"] = 64
    # More to learn from costs nothing: a step draws from it what it needs.
    sizes["train"] = min(2_000, distinct - int(sum(sizes.values())) + wanted["train"])
    return sizes


def marked_sizes(items: Sequence[Item], field: str) -> dict[str, float]:
    """Sizes where each record says its split: a question counts where it will be dealt out, once.

    The task itself warns of questions that are marked for several.
    """
    named = {item.id: str(item.entry[field]) for item in items}
    away = {item.id for item, _ in strays(items, named)}
    first = {item.messages: item.id for item in items if item.id not in away}
    counts = Counter(named[id] for id in first.values())
    return {split: counts[split] for split in SPLITS if counts[split]}


def told_sizes(sizes: Mapping[str, float], distinct: int, group: str | None, scored: bool) -> str:
    """How many items that makes, and what they can show where replies are scored."""
    counts = {k: v if v >= 1 else max(1, math.floor(v * distinct)) for k, v in sizes.items()}
    shown = ", ".join(f"{split} {counts[split]:,.0f}" for split in SPLITS if split in counts)
    about = "about " if group is not None else ""
    whole = f", {group} kept whole" if group is not None else ""
    gain = f" {gain_sentence(int(counts['test']))}" if scored and "test" in counts else ""
    if scored and "select" in counts:
        gain += f" {select_sentence(int(counts['select']))}"
    return f"{about}{shown}{whole}.{gain}"


def gain_sentence(n: int) -> str:
    """The smallest difference that `n` items of `test` can show."""
    least = least_gain(n, ALPHA)
    if least > 1:
        return f"{n} items of test are too few to show any difference."
    return (
        f"The {n:,} items of test can show a difference of {least:.2f} (with {POWER:.0%} power, where the scores of a quarter of them "
        "change)."
    )


def select_sentence(n: int) -> str:
    """What a student of a loop must gain on `n` items of `select`, as many students as a race leaves."""
    return f"Of a loop: {power_of(n, FINALISTS, ALPHA)}."
