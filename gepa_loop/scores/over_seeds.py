"""Recipes compared over training seeds: rows of several seeds -> means by seed, a paired t test.

Two students of one recipe differ by more than chance over items explains (.037, one standard deviation between training
seeds of the sums), so items pooled from several seeds are not independent: with no true difference such a test finds one
in .43 of cases. What a recipe does is known from seeds, each of which is one observation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gepa_loop.scores.records import OverSeedsRecord
from gepa_loop.scores.statistics import ItemScores

LEAST = 3
"""Seeds from which on a p is given: two have one degree of freedom, and an interval that says nothing."""

SAME = "the same at every seed, so its spread is not known"
"""Why there is no interval where there are seeds enough."""

SeedScores = Mapping[int, ItemScores]
"""Seed -> its student's scores, each on items of its own or the same ones."""


@dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds of what each seed's items say."""

    mean: float
    by_seed: tuple[float, ...]
    """In the order of the seeds."""
    sd: float | None
    """Standard deviation between seeds, of training and of items; None for a single one."""
    ci: tuple[float, float] | None
    """95 %, by Student's t, within what a score or a difference can be; None below three seeds, and where all of them are equal."""
    p: float | None = None
    """Of no difference, two-sided; None where there is no `ci`."""

    def as_dict(self) -> OverSeedsRecord:
        ci = None if self.ci is None else list(self.ci)
        return {"mean": self.mean, "by_seed": list(self.by_seed), "sd": self.sd, "ci": ci, "p": self.p}


def over_seeds(scores: SeedScores) -> OverSeeds:
    """The mean score and its spread.

    Raises:
        ValueError: No seed, or one without items.
    """
    return means_over_seeds([_mean(scores[seed]) for seed in sorted(scores)])


def seed_difference(a: SeedScores, b: SeedScores) -> OverSeeds:
    """a - b, paired by item within each seed and by seed, with the p of a paired t test over seeds.

    Raises:
        ValueError: Other seeds or items on the two sides, or none.
    """
    if a.keys() != b.keys():
        raise ValueError(f"seeds {sorted(a)} and {sorted(b)} cannot be paired")
    for seed in a:
        if a[seed].keys() != b[seed].keys():
            raise ValueError(f"seed {seed}: scores of different items cannot be paired")
    return gaps_over_seeds([_mean(a[seed]) - _mean(b[seed]) for seed in sorted(a)])


def means_over_seeds(means: Sequence[float]) -> OverSeeds:
    """The same of each seed's mean score."""
    return _summary(means, least=0.0)


def gaps_over_seeds(gaps: Sequence[float]) -> OverSeeds:
    """The same of each seed's mean difference, paired by item, with the p of a t test over seeds."""
    from scipy.stats import ttest_1samp

    found = _summary(gaps, least=-1.0)
    if found.ci is None:
        return found
    p = float(ttest_1samp(found.by_seed, 0.0).pvalue)
    return OverSeeds(found.mean, found.by_seed, found.sd, found.ci, p)


def _summary(values: Sequence[float], least: float) -> OverSeeds:
    """Of values between `least` and 1."""
    from scipy.stats import t

    if not values:
        raise ValueError("no seeds to compare")
    means = tuple(round(value, 12) for value in values)
    count, mean = len(means), math.fsum(means) / len(means)
    if count < 2:
        return OverSeeds(mean, means, None, None)
    sd = statistics.stdev(means)
    # Equal seeds are no certainty: with few items a mean takes few values.
    if count < LEAST or not sd:
        return OverSeeds(mean, means, sd, None)
    half = float(t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    return OverSeeds(mean, means, sd, (max(least, mean - half), min(1.0, mean + half)))


def _mean(scores: ItemScores) -> float:
    if not scores:
        raise ValueError("no items to compare: the scores are empty")
    return math.fsum(scores.values()) / len(scores)
