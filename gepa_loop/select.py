"""Decide by what the students score: rows -> paired intervals, tests, a ranking, a reason in words.

Pure functions. Everything is paired by item; the several samples of an item are averaged first. Scores lie
in [0, 1], intervals are 95 % ones, and the same scores and seed give the same numbers in any item order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

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
POWER = 0.8
"""Of the difference that a null result says it could have shown."""
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

    def as_dict(self) -> dict[str, Any]:
        return {"n": self.n, "mean": self.mean, "ci": list(self.ci)}


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, with its interval and the p of no difference (two-sided)."""

    mean: float
    ci: tuple[float, float]
    p: float

    def as_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "ci": list(self.ci), "p": self.p}


@dataclass(frozen=True)
class Ratio:
    """A ratio of two mean differences, with its interval."""

    mean: float
    ci: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "ci": list(self.ci)}


@dataclass(frozen=True)
class Contender:
    """A candidate on `select`: its prompt's scores, and its student's or why there is none."""

    id: str
    prompted: ItemScores
    student: ItemScores | None
    skipped: str | None

    def __post_init__(self) -> None:
        if self.student is None and self.skipped is None:
            raise ValueError(f"contender {self.id} has neither a student nor a reason why not")


@dataclass(frozen=True)
class Verdict:
    """What `decide` found; the mappings and the ranking hold the contenders that have a student.

    `differences` are student − base with unadjusted p, `adjusted_p` is after Holm. `oracle` is the mean over items of the best student's
    score on each; no student can be expected to reach it. It is None for fewer than two students.
    """

    winner: str | None
    reason: str
    ranking: tuple[str, ...]
    differences: Mapping[str, Difference]
    adjusted_p: Mapping[str, float]
    oracle: float | None


def item_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Average the samples of each item; rows have `item` and `score`."""
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
    values = _values(scores)
    ci = _wilson(float(values[0]), values.size) if _constant(values) else _bca(values, seed)
    return Estimate(values.size, _mean(values), ci)


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
        low, high = _wilson((float(d[0]) + 1) / 2, d.size)
        return Difference(_mean(d), (2 * low - 1, 2 * high - 1), _sign_flip_p(d, seed, flips))
    return Difference(_mean(d), _bca(d, seed), _sign_flip_p(d, seed, flips))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p, in the order given."""
    from statsmodels.stats.multitest import multipletests

    return tuple(float(p) for p in multipletests(p_values, method="holm")[1]) if p_values else ()


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
    return Ratio(_mean(gain) / _mean(gap), ci) if all(map(math.isfinite, ci)) else None


def level_of_round(alpha: float, number: int) -> float:
    """The level of round `number`'s test, such that a run has a false winner with a chance below `alpha`, of however many rounds.

    A winner must be above its base, so of a two-sided test at level a only half, a / 2, can be a false winner. The r-th
    round, from 1, tests at 2 alpha / (r (r + 1)): alpha, alpha / 3, alpha / 6, ..., and the halves alpha / (r (r + 1)) add
    up to alpha r / (r + 1) (alpha spending, Bonferroni's inequality). It needs no assumption about how rounds hang
    together, and rounds can be added to a run, as the levels of those it has do not depend on their number.
    """
    return 2 * alpha / ((number + 1) * (number + 2))


def flips_for(level: float) -> int:
    """Random flips whose smallest p, one over a round number, is at most a tenth of a level; 9,999 at least.

    With a fixed number no p could fall below the levels of late rounds, and they could have no winner.
    """
    wanted = round(BELOW / level, DIGITS)
    decade: int = 10 ** math.floor(math.log10(wanted))
    return max(RESAMPLES, next(n * decade for n in (1, 2, 5, 10) if n * decade >= wanted) - 1)


def detectable(a: ItemScores, b: ItemScores, power: float, alpha: float) -> float | None:
    """The least true difference that a two-sided paired test on these items would have found with this power.

    From the t test's power at the observed standard deviation of the differences. It does not depend on the observed
    mean, which says nothing where nothing is true.

    Returns:
        None where all items differ by the same amount, so that their spread is not known; infinity where a sign-flip
        test's smallest p on as many items, 2 / 2^n, is not below `alpha`.

    Raises:
        ValueError: No items, different items, or a score outside [0, 1].
    """
    from scipy.special import nctdtrinc
    from scipy.stats import t

    d = _paired(a, b)
    if 2 / 2**d.size >= alpha:
        return math.inf
    if _constant(d):
        return None
    # The test statistic's noncentrality; that it is beyond the critical value on the other side does not happen here.
    # statsmodels' power is nan at small levels, and its solver finds -.33 for 73 items.
    noncentrality = nctdtrinc(d.size - 1, 1 - power, t.isf(alpha / 2, d.size - 1))
    return float(noncentrality) / math.sqrt(d.size) * float(d.std(ddof=1))


def best_prompt(
    seed_prompt: ItemScores, prompts: Mapping[str, ItemScores], alpha: float, seed: int
) -> Verdict:
    """Pick the prompt with the highest mean among those significantly above the seed prompt, as `decide` does.

    Raises:
        ValueError: No items, different items, or a score outside [0, 1].
    """
    contenders = [Contender(id_, scores, scores, None) for id_, scores in prompts.items()]
    if not contenders:
        return Verdict(None, "No proposal was better than the seed prompt.", (), {}, {}, None)
    return decide(seed_prompt, contenders, alpha, seed, len(contenders), ("prompt", "seed prompt"))


def decide(
    base: ItemScores,
    contenders: Sequence[Contender],
    alpha: float,
    seed: int,
    family: int,
    names: tuple[str, str] = ("student", "base"),
) -> Verdict:
    """Pick the student with the highest mean among those significantly above the base, both without prompt.

    Holm's correction runs over the `family`: all candidates that were scored on these items, as those without a student
    (skipped, or not handed on) were left out by what they scored there. (In a simulation of eight useless prompts, of
    which those a standard error above the base are distilled, a round had a false winner with a chance of .053 where Holm
    counts the students, and of .019 where it counts all; .025 are allowed.) It runs above and below the base apart, so
    that at most half of `alpha` is false on either side, whatever the students have in common.

    Equal means are ranked by the prompt's mean, then by id. The reason says that a winner's numbers were chosen on these
    items. Without a significant student there is no winner, and the reason says which difference these items could have
    shown, at Holm's first step alpha / family. `names` are what the reason calls the two sides.

    Raises:
        ValueError: No items, different items, a score outside [0, 1], an id twice, or more students than the family has.
    """
    if len({c.id for c in contenders}) < len(contenders):
        raise ValueError(f"contenders share an id: {[c.id for c in contenders]}")
    students = {c.id: c.student for c in contenders if c.student is not None}
    if not students:
        why = "; ".join(f"{c.id}: {c.skipped}" for c in contenders) or "there was none"
        return Verdict(None, f"Every candidate was skipped ({why}).", (), {}, {}, None)
    if family < len(students):
        raise ValueError(f"{len(students)} students are no part of a family of {family}")
    flips = flips_for(alpha / family)
    differences = {id_: difference(scores, base, seed, flips) for id_, scores in students.items()}
    adjusted = _holm_by_side(differences, family)
    prompted = {c.id: _mean(_values(c.prompted)) for c in contenders if c.id in students}
    means = {id_: _mean(_values(scores)) for id_, scores in students.items()}
    ranking = tuple(sorted(students, key=lambda id_: (-means[id_], -prompted[id_], id_)))
    winner = next((i for i in ranking if differences[i].mean > 0 and adjusted[i] < alpha), None)
    shown = winner or ranking[0]

    def p_of(id_: str) -> str:
        return p_sentence(adjusted[id_], adjusted[id_] if differences[id_].p <= 1 / (flips + 1) else 0.0)

    reason = (
        f"{_compare(shown, students[shown], base, differences[shown], seed, names)}, {p_of(shown)} after Holm"
    )
    reason += f" over {family} candidate{'s' * (family > 1)}. Level: {_plain(f'{alpha:.3g}')}."
    if winner is None:
        more = _shown(len(base), detectable(students[shown], base, POWER, alpha / family))
        reason = f"No {names[0]} is significantly better than the {names[1]}. The best is {reason} {more}"
    else:
        if winner != ranking[0]:
            reason += f" {ranking[0]} scores higher, but not significantly: {p_of(ranking[0])}."
        reason += " It was chosen on these items, so its numbers here are on the high side."
    oracle = None
    if len(students) > 1:
        oracle = math.fsum(max(s[item] for s in students.values()) for item in base) / len(base)
    return Verdict(winner, reason, ranking, differences, adjusted, oracle)


def _compare(
    id_: str,
    student: ItemScores,
    base: ItemScores,
    diff: Difference,
    seed: int,
    names: tuple[str, str],
) -> str:
    after, before = estimate(student, seed), estimate(base, seed)
    return (
        f"{id_}: {names[0]} {decimal(after.mean)} {_interval(after.ci)} against {names[1]} "
        f"{decimal(before.mean)} {_interval(before.ci)} on {after.n} items; difference "
        f"{decimal(diff.mean, '+')} {_interval(diff.ci)}"
    )


def _holm_by_side(differences: Mapping[str, Difference], family: int) -> dict[str, float]:
    """Each difference's p after Holm on its own side of 0; what lies on the other, or was not tested, has p = 1."""
    rest = [1.0] * (family - len(differences))
    above = holm([d.p if d.mean > 0 else 1.0 for d in differences.values()] + rest)
    below = holm([d.p if d.mean < 0 else 1.0 for d in differences.values()] + rest)
    return {id_: min(above[n], below[n]) for n, id_ in enumerate(differences)}


def _shown(n: int, least: float | None) -> str:
    """What difference `n` items could have shown."""
    if least is None:
        return f"What these {n} items could have shown is not known: the difference is the same on each."
    if least > 1:
        return f"These {n} items are too few to show any difference."
    return f"These {n} items could have shown a difference of {decimal(least)} with {POWER:.0%} power."


def decimal(x: float, sign: str = "-") -> str:
    """Three decimals without the leading zero, as papers print a score, or with `sign` "+" a difference; there is no -.000."""
    text = f"{x:{sign}z.3f}"
    return text.replace("0.", ".", 1) if abs(x) < 1 else text


def _interval(ci: tuple[float, float]) -> str:
    return f"[{decimal(ci[0])}, {decimal(ci[1])}]"


def p_text(p: float, floor: float = FLOOR) -> str:
    """A p as tables show it; one that is not above `floor` is only said to be at most that."""
    if p <= floor:
        return f"<= {_plain(f'{floor:.4g}')}"
    return f"{p:.4f}".replace("0.", ".", 1) if p >= FLOOR else _plain(f"{p:.2g}")


def p_sentence(p: float, floor: float = FLOOR) -> str:
    """`p_text` within a sentence: p = .0123, or p <= .0001."""
    text = p_text(p, floor)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _plain(number: str) -> str:
    """A number as `g` formats it, without exponent and leading zero."""
    return f"{Decimal(number):f}".replace("0.", ".", 1)


def _values(scores: ItemScores) -> Floats:
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
    paired: Floats = (_values(a) - _values(b)).round(DIGITS)
    return paired


def _mean(values: Floats) -> float:
    return round(math.fsum(values) / values.size, DIGITS)


def _constant(values: Floats) -> bool:
    return bool((values == values[0]).all())


def _wilson(mean: float, n: int) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(mean * n, n, method="wilson")
    return float(low), float(high)


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
