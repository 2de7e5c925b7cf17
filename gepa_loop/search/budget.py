"""What ends a search: its caps, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gepa_loop.config.data import SplitSizes
from gepa_loop.config.search import OptimizeConfig
from gepa_loop.config.whole import proposal_rollouts
from gepa_loop.errors import BudgetReached
from gepa_loop.search.records import SpentRecord

IDLE_ITERATIONS = 20
"""Iterations without a rollout after which a search ends: every minibatch is perfect, or every proposal refused."""


@dataclass(frozen=True)
class Spent:
    """What a search, or a part of it, has used: the same after a replay as without one, so stops come at the same place."""

    rollouts: int = 0
    proposals: int = 0
    usd: float = 0.0
    seconds: float = 0.0

    def plus(self, more: Spent) -> Spent:
        """This and what was used after it."""
        return Spent(
            self.rollouts + more.rollouts,
            self.proposals + more.proposals,
            self.usd + more.usd,
            self.seconds + more.seconds,
        )

    def as_dict(self) -> SpentRecord:
        return {
            "rollouts": self.rollouts,
            "proposals": self.proposals,
            "usd": self.usd,
            "seconds": self.seconds,
        }


class Stop(NamedTuple):
    """What ends a search."""

    reason: str
    """In words."""
    exhausted: bool
    """Nothing better or new came any more; else a budget is used up, and it could have gone on."""


@dataclass(frozen=True)
class Progress:
    """What iterations have brought."""

    best: float = -1.0
    """Highest mean on `pareto`."""
    without_gain: int = -1
    """Iterations since it rose."""
    idle: int = -1
    """Iterations since the last rollout."""

    def after(self, sampled: bool, best: float) -> Progress:
        """After an iteration."""
        return Progress(
            max(best, self.best),
            0 if best > self.best else self.without_gain + 1,
            0 if sampled else self.idle + 1,
        )


def affordable(settings: OptimizeConfig, splits: SplitSizes, spent: Spent, dearest: float) -> int:
    """How many proposals the next iteration makes: as many as `max_rollouts` and `max_usd` can pay if each is the dearest."""
    most = proposal_rollouts(settings, splits)
    fitting = (
        count
        for count in range(settings.proposals, 0, -1)
        if spent.rollouts + count * most <= settings.max_rollouts
        and (not dearest or spent.usd + count * dearest <= settings.max_usd)
    )
    return next(fitting, 0)


def reason_to_stop(
    settings: OptimizeConfig, splits: SplitSizes, spent: Spent, progress: Progress, dearest: float
) -> Stop | None:
    """Which cap is reached, before an iteration whose first proposal could pass it; None to go on.

    Args:
        settings: The caps, and what a proposal takes of them.
        splits: Sizes of the task's splits.
        spent: What the search has used.
        progress: What its iterations brought.
        dearest: US dollars that the next proposal may cost.

    Raises:
        BudgetReached: `max_minutes` is reached and nothing was proposed.
    """
    most = proposal_rollouts(settings, splits)
    if spent.rollouts + most > settings.max_rollouts:
        used = f"{spent.rollouts} of {settings.max_rollouts}"
        return Stop(f"rollouts: {used}, and an iteration may take {most}", exhausted=False)
    if dearest and spent.usd + dearest > settings.max_usd:
        used = f"{spent.usd:.2f} of {settings.max_usd:.2f}"
        return Stop(f"usd: {used}, and a proposal may cost {dearest:.2f}", exhausted=False)
    if spent.seconds >= settings.max_minutes * 60:
        if not spent.proposals:
            raise BudgetReached(
                f"optimize.max_minutes = {settings.max_minutes:g} was reached before the first proposal",
                "Raise it and start again with --fresh.",
            )
        return Stop(f"minutes: {spent.seconds / 60:.1f} of {settings.max_minutes:g}", exhausted=False)
    if progress.without_gain >= settings.patience:
        why = f"patience: no better mean on pareto in {settings.patience} iterations"
        return Stop(why, exhausted=True)
    if progress.idle >= IDLE_ITERATIONS:
        return Stop(f"nothing new in {IDLE_ITERATIONS} iterations", exhausted=True)
    return None
