"""Scores of items: means, intervals, paired differences, tests.

Pure functions. Everything is paired by item; the several samples of an item are averaged first. Scores lie
in [0, 1], intervals are 95 % ones, and the same scores and seed give the same numbers in any item order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gepa_loop.scores.records import DifferenceRecord, EstimateRecord, RatioRecord, ReplyRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


ItemScores = Mapping[str, float]
"""Item id -> mean score over that item's samples."""

RESAMPLES = 9999
FLOOR = 1 / (RESAMPLES + 1)
"""The smallest p that so many random flips can give: no flip reached the observed difference."""
BELOW = 10
"""How far the smallest p lies below the strictest level that it is held against, at least."""
BATCH = 1000
"""Resamples held in memory at once; changes no number."""
DIGITS = 12
"""Decimals kept of differences and sums: 0.3 - 0.2 and 0.2 - 0.1 must count as the same difference."""


@dataclass(frozen=True)
class Estimate:
    """A mean score over `n` items, with its interval."""

    n: int
    mean: float
    ci: tuple[float, float]

    def as_dict(self) -> EstimateRecord:
        return {"n": self.n, "mean": self.mean, "ci": list(self.ci)}


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, with its interval and the p of no difference (two-sided)."""

    mean: float
    ci: tuple[float, float]
    p: float

    def as_dict(self) -> DifferenceRecord:
        return {"mean": self.mean, "ci": list(self.ci), "p": self.p}


@dataclass(frozen=True)
class Ratio:
    """A ratio of two mean differences, with its interval."""

    mean: float
    ci: tuple[float, float]

    def as_dict(self) -> RatioRecord:
        return {"mean": self.mean, "ci": list(self.ci)}


def item_scores(rows: Iterable[ReplyRow]) -> dict[str, float]:
    """Average the samples of each item."""
    samples: dict[str, list[float]] = {}
    for row in rows:
        samples.setdefault(str(row["item"]), []).append(float(row["score"]))
    return {item: math.fsum(scores) / len(scores) for item, scores in samples.items()}


def estimate(scores: ItemScores, seed: int) -> Estimate:
    """The mean score with a BCa bootstrap interval over items.

    Where all items score the same, resampling shows no spread and BCa is not defined: the interval is then
    Wilson's, with n × mean successes in n items. For scores between 0 and 1 that errs on the wide side, as
    no score in [0, 1] has a greater variance than a 0/1 score of the same mean.

    Raises:
        ValueError: No items, or a score outside [0, 1].
    """
    values = as_array(scores)
    ci = wilson(float(values[0]), values.size) if _constant(values) else _bca(values, seed)
    return Estimate(values.size, mean(values), ci)


def difference(a: ItemScores, b: ItemScores, seed: int, flips: int = RESAMPLES) -> Difference:
    """The mean of a − b, paired by item.

    The interval is BCa over items. Where every item differs by the same amount it is Wilson's, with [-1, 1]
    mapped to [0, 1]; for identical scores it is (0, 0). p is that of a two-sided test by sign flips: exact
    where the items that differ have no more than `flips` patterns of signs (13 items for 9,999), else from so many random
    ones, and then at least 1 / (flips + 1).

    Raises:
        ValueError: No items, different items, or a score outside [0, 1].
    """
    d = _paired(a, b)
    if not d.any():
        return Difference(0.0, (0.0, 0.0), 1.0)
    if _constant(d):
        low, high = wilson((float(d[0]) + 1) / 2, d.size)
        return Difference(mean(d), (2 * low - 1, 2 * high - 1), _sign_flip_p(d, seed, flips))
    return Difference(mean(d), _bca(d, seed), _sign_flip_p(d, seed, flips))


def mean_difference(a: ItemScores, b: ItemScores) -> float:
    """The mean of a - b over items, as `difference` has it.

    Raises:
        ValueError: As `difference` does.
    """
    return mean(_paired(a, b))


def standard_error(a: ItemScores, b: ItemScores) -> float:
    """Of the mean of a - b over items; 0 for a single item.

    Raises:
        ValueError: As `difference` does.
    """
    d = _paired(a, b)
    return float(d.std(ddof=1)) / math.sqrt(d.size) if d.size > 1 else 0.0


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p, in the order given: the smallest of n times n, the next times n - 1, none below one before it."""
    import numpy as np

    p = np.asarray(p_values, dtype=np.float64)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return tuple(adjusted.tolist())


def internalisation(student: ItemScores, base: ItemScores, prompted: ItemScores, seed: int) -> Ratio | None:
    """(student − base) / (prompted − base): the share of the prompt's gain that the student has without it.

    A ratio of means. The interval is the bootstrap's percentile interval over items, numerator and
    denominator resampled together; in simulation it covers as often as BCa, and it stays defined when every
    resample gives the same ratio. A resample in which the prompt's effect vanishes or changes sign counts as
    an infinite ratio.

    Returns:
        None where the interval of the denominator contains 0, or the ratio's own has no bound.

    Raises:
        ValueError: No items, different items, or a score outside [0, 1].
    """
    import numpy as np

    low, high = difference(prompted, base, seed).ci
    if low <= 0 <= high:
        return None
    sign = 1.0 if low > 0 else -1.0
    gain, gap = sign * _paired(student, base), sign * _paired(prompted, base)

    def ratio(x: Floats, y: Floats, axis: int) -> Floats:
        over, under = x.mean(axis=axis).round(DIGITS), y.mean(axis=axis).round(DIGITS)
        quotient: Floats = over / np.where(under > 0, under, 1.0)
        return np.where(under > 0, quotient, np.copysign(np.inf, over))

    ci = _bootstrap((gain, gap), ratio, "percentile", seed)
    return Ratio(mean(gain) / mean(gap), ci) if all(map(math.isfinite, ci)) else None


def flips_for(level: float) -> int:
    """Random flips whose smallest p, one over a round number, is at most a tenth of a level; 9,999 at least.

    With a fixed number no p could fall below the levels of late rounds, and they could have no winner.
    """
    wanted = round(BELOW / level, DIGITS)
    decade: int = 10 ** math.floor(math.log10(wanted))
    return max(RESAMPLES, next(n * decade for n in (1, 2, 5, 10) if n * decade >= wanted) - 1)


def detectable(a: ItemScores, b: ItemScores, power: float, alpha: float) -> float | None:
    """The least true difference that a two-sided paired test on these items would have found with this power.

    From the t test's power at the observed standard deviation of the differences; the observed mean does not count.

    Returns:
        None where all items differ by the same amount, so that their spread is not known; else as `least_detectable`.

    Raises:
        ValueError: No items, different items, or a score outside [0, 1].
    """
    d = _paired(a, b)
    if 2 / 2**d.size < alpha and _constant(d):
        return None
    return least_detectable(d.size, float(d.std(ddof=1)) if d.size > 1 else 0.0, power, alpha)


def least_detectable(n: int, spread: float, power: float, alpha: float) -> float:
    """`detectable` for `n` items whose differences have this spread; infinity where sign flips of so few have no p below `alpha`."""
    from scipy.special import nctdtrinc
    from scipy.stats import t

    if 2 / 2**n >= alpha:
        return math.inf
    # The test statistic's noncentrality; that it is beyond the critical value on the other side does not happen here.
    noncentrality = nctdtrinc(n - 1, 1 - power, t.isf(alpha / 2, n - 1))
    return float(noncentrality) / math.sqrt(n) * spread


def as_array(scores: ItemScores) -> Floats:
    """Scores in the order of their item ids, so that the order of the rows changes no number."""
    import numpy as np

    if not scores:
        raise ValueError("no items to compare: the scores are empty")
    for item, score in scores.items():
        if not 0 <= score <= 1:
            raise ValueError(f"item {item} scores {score!r}, which is not in [0, 1]")
    return np.array([scores[item] for item in sorted(scores)], dtype=np.float64)


def _paired(a: ItemScores, b: ItemScores) -> Floats:
    if a.keys() != b.keys():
        lone = sorted(a.keys() ^ b.keys())
        raise ValueError(
            f"scores of different items cannot be paired: {len(lone)} on one side only, e.g. {lone[:3]}"
        )
    paired: Floats = (as_array(a) - as_array(b)).round(DIGITS)
    return paired


def mean(values: Floats) -> float:
    return round(math.fsum(values) / values.size, DIGITS)


def _constant(values: Floats) -> bool:
    return bool((values == values[0]).all())


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; scipy's takes whole counts alone."""
    from scipy.stats import norm

    z = float(norm.isf(0.025))
    scale = 1 + z**2 / n
    centre = (mean + z**2 / (2 * n)) / scale
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def _bca(values: Floats, seed: int) -> tuple[float, float]:
    import numpy as np

    return _bootstrap((values,), np.mean, "BCa", seed)


def _bootstrap(
    samples: tuple[Floats, ...], statistic: Callable[..., Any], method: str, seed: int
) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    with np.errstate(invalid="ignore"):  # infinite ratios: inf - inf in the standard error, which is not used
        result = bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=BATCH,
            method=method,
            rng=np.random.default_rng(seed),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _sign_flip_p(d: Floats, seed: int, flips: int) -> float:
    import numpy as np
    from scipy.stats import permutation_test

    flipped = d[d != 0]  # flipping a 0 changes nothing; without them the test is exact more often
    if flipped.size < 2:
        return 1.0
    result = permutation_test(
        (flipped,),
        lambda x, axis: np.abs(x.sum(axis=axis)).round(DIGITS - 3),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=flips,
        batch=BATCH,
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
