"""What a student must gain to win, before anything is spent: the smallest difference that the items of a split can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gepa_loop.config.whole import Config
from gepa_loop.scores.decision import POWER
from gepa_loop.scores.numbers import decimal
from gepa_loop.scores.statistics import least_detectable
from gepa_loop.stages.counts import finalists

CHANGED = 0.25
"""Share of items whose score is taken to change, each from 0 to 1 or back: nothing is known of them yet."""

LARGE = 0.2
"""A smallest difference above it is warned of, as few prompts gain so much: with two students tested, that of fewer than 62 items."""

HINT = "Give task.splits.select more items: four times as many show half of it."
"""What to do about one."""


@dataclass(frozen=True)
class Power:
    """What `select` can show in the first round of a loop."""

    items: int
    students: int
    """That are tested at most: Holm's first step divides the level by them."""
    least: float
    """True difference that is found with `POWER`; infinite where no difference is."""

    @property
    def is_small(self) -> bool:
        """Whether most differences would not be found."""
        return self.least > LARGE

    def __str__(self) -> str:
        whom = f"{self.students} students are" if self.students > 1 else "one student is"
        if self.least > 1:
            return f"{self.items} items of select are too few for any student to win, where {whom} tested"
        return (
            f"to win, a student must gain about {decimal(self.least)} on the {self.items:,} items of select (found with {POWER:.0%} power "
            f"where the scores of a quarter of them change and {whom} tested)"
        )


def power_of(items: int, students: int, level: float) -> Power:
    """Of so many items of `select`, at the level of a round."""
    return Power(items, students, least_gain(items, level / students))


def loop_power(config: Config) -> Power:
    """Of the first round of a loop, whose level is the highest; its splits have numbers of items."""
    return power_of(config.task.splits.select, finalists(config), config.loop.alpha)


def least_gain(items: int, level: float) -> float:
    """The least true difference that a paired test finds with `POWER`, where `CHANGED` of the items change."""
    return least_detectable(items, math.sqrt(CHANGED), POWER, level)


def select_warning(config: Config) -> str | None:
    """Said before a loop that can hardly have a winner; None of any other."""
    power = loop_power(config)
    return f"{power}. {HINT}" if power.is_small else None
