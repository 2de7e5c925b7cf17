"""Which prompt or student wins, and why: a ranking, tests at a level, a reason in words. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gepa_loop.scores.numbers import decimal, interval_text, items_text, p_sentence, plain
from gepa_loop.scores.results import RunnerUpRecord
from gepa_loop.scores.statistics import (
    Difference,
    ItemScores,
    as_array,
    detectable,
    difference,
    estimate,
    flips_for,
    holm,
    mean,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

POWER = 0.8
"""Of the difference that a null result says it could have shown."""


@dataclass(frozen=True)
class Contender:
    """A candidate on `select`: its prompt's scores and its student's, or why its student is not tested."""

    id: str
    prompted: ItemScores | None
    student: ItemScores | None
    skipped: str | None

    def __post_init__(self) -> None:
        if self.student is None and self.skipped is None:
            raise ValueError(f"contender {self.id} has neither a student nor a reason why not")
        if self.student is not None and self.prompted is None:
            raise ValueError(f"contender {self.id} has a student, and its prompt was not scored")


@dataclass(frozen=True)
class RunnerUp:
    """The best student beside a winner."""

    id: str
    difference: Difference
    """Winner - runner-up, with unadjusted p."""

    def as_dict(self) -> RunnerUpRecord:
        return {"id": self.id, "difference": self.difference.as_dict()}


@dataclass(frozen=True)
class Verdict:
    """What `decide` found; the mappings and the ranking hold the contenders that have a student.

    `differences` are student − base with unadjusted p, `adjusted_p` is after Holm. `oracle` is the mean over items of the best student's
    score on each; no student can be expected to reach it. It is None for fewer than two students. `runner_up` is None where prompts were
    compared, without a winner, and for a single student.
    """

    winner: str | None
    reason: str
    ranking: tuple[str, ...]
    differences: Mapping[str, Difference]
    adjusted_p: Mapping[str, float]
    oracle: float | None
    runner_up: RunnerUp | None = None


def level_of_round(alpha: float, number: int) -> float:
    """The level of round `number`'s test, such that a run has a false winner with a chance below `alpha`, of however many rounds.

    A winner must be above its base, so of a two-sided test at level a only half, a / 2, can be a false winner. The r-th
    round, from 1, tests at 2 alpha / (r (r + 1)): alpha, alpha / 3, alpha / 6, ..., and the halves alpha / (r (r + 1)) add
    up to alpha r / (r + 1) (alpha spending, Bonferroni's inequality). It needs no assumption about how rounds hang
    together, and rounds can be added to a run, as the levels of those it has do not depend on their number.
    """
    return 2 * alpha / ((number + 1) * (number + 2))


def best_prompt(
    seed_prompt: ItemScores, prompts: Mapping[str, ItemScores], alpha: float, seed: int
) -> Verdict:
    """Pick the prompt with the highest mean among those significantly above the seed prompt, as `decide` picks a student.

    Raises:
        ValueError: No items, different items, or a score outside [0, 1].
    """
    contenders = [Contender(id_, scores, scores, None) for id_, scores in prompts.items()]
    if not contenders:
        return Verdict(None, "No proposal was better than the seed prompt.", (), {}, {}, None)
    return _pick(seed_prompt, contenders, alpha, seed, ("prompt", "seed prompt"))


def decide(base: ItemScores, contenders: Sequence[Contender], alpha: float, seed: int) -> Verdict:
    """Pick the student with the highest mean among those significantly above the base, both without prompt.

    Holm's correction runs over the students that are tested here. Candidates without one count for nothing, as they were left out by
    what was found on other items: whoever is left out by a score on these items belongs into the count. (In a
    simulation of eight useless prompts, of which those a standard error above the base on these very items are distilled, a round had a
    false winner with a chance of .053 where Holm counts the students, and of .019 where it counts all; .025 are allowed.) It runs above
    and below the base apart, so that at most half of `alpha` is false on either side, whatever the students have in common.

    Equal means are ranked by the prompt's mean, then by id. The reason says that a winner's numbers were chosen on these
    items, and whether it is better than the best of the others, two-sided at `alpha`. Without a significant student there is no
    winner, and the reason says which difference these items could have shown, at Holm's first step alpha / students.

    Raises:
        ValueError: No items, different items, a score outside [0, 1], or an id twice.
    """
    verdict = _pick(base, contenders, alpha, seed, ("student", "base"))
    others = [id_ for id_ in verdict.ranking if id_ != verdict.winner]
    if verdict.winner is None or not others:
        return verdict
    scores = {c.id: c.student for c in contenders if c.student is not None}
    flips = flips_for(alpha)
    second = RunnerUp(others[0], difference(scores[verdict.winner], scores[others[0]], seed, flips))
    return replace(verdict, reason=f"{verdict.reason} {_told_apart(second, alpha, flips)}", runner_up=second)


def _told_apart(second: RunnerUp, alpha: float, flips: int) -> str:
    """Whether a winner is better than the runner-up, in words and numbers."""
    diff = second.difference
    side = "better than" if diff.mean > 0 else "worse than"
    said = f"It is {side if diff.p < alpha else 'not told apart from'} {second.id}"
    p = p_sentence(diff.p, diff.p if diff.p <= 1 / (flips + 1) else 0.0)
    return f"{said}: {decimal(diff.mean, '+')} {interval_text(diff.ci)}, {p}."


def _pick(
    base: ItemScores, contenders: Sequence[Contender], alpha: float, seed: int, names: tuple[str, str]
) -> Verdict:
    """`decide` but for the runner-up; `names` are what the reason calls the two sides."""
    if len({c.id for c in contenders}) < len(contenders):
        raise ValueError(f"contenders share an id: {[c.id for c in contenders]}")
    students = {c.id: c.student for c in contenders if c.student is not None}
    if not students:
        why = "; ".join(f"{c.id}: {c.skipped}" for c in contenders) or "there was none"
        return Verdict(None, f"Every candidate was skipped ({why}).", (), {}, {}, None)
    family = len(students)
    flips = flips_for(alpha / family)
    differences = {id_: difference(scores, base, seed, flips) for id_, scores in students.items()}
    adjusted = holm_by_side(differences)
    prompted = {
        c.id: mean(as_array(c.prompted)) for c in contenders if c.id in students and c.prompted is not None
    }
    means = {id_: mean(as_array(scores)) for id_, scores in students.items()}
    ranking = tuple(sorted(students, key=lambda id_: (-means[id_], -prompted[id_], id_)))
    winner = first_above(ranking, differences, adjusted, alpha)
    shown = winner or ranking[0]

    def p_of(id_: str) -> str:
        return p_sentence(adjusted[id_], adjusted[id_] if differences[id_].p <= 1 / (flips + 1) else 0.0)

    reason = (
        f"{_compare(shown, students[shown], base, differences[shown], seed, names)}, {p_of(shown)} after Holm"
    )
    reason += f" over {family} candidate{'s' * (family > 1)}. Level: {plain(f'{alpha:.3g}')}."
    if winner is None:
        more = could_show(len(base), detectable(students[shown], base, POWER, alpha / family))
        reason = f"No {names[0]} is significantly better than the {names[1]}. The best {names[0]} is {reason} {more}"
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
        f"{id_}: {names[0]} {decimal(after.mean)} {interval_text(after.ci)} against {names[1]} "
        f"{decimal(before.mean)} {interval_text(before.ci)} on {items_text(after.n)}; difference "
        f"{decimal(diff.mean, '+')} {interval_text(diff.ci)}"
    )


def first_above(
    ranking: Sequence[str], differences: Mapping[str, Difference], adjusted: Mapping[str, float], alpha: float
) -> str | None:
    """The first of a ranking that is significantly above what it was compared with."""
    return next((id_ for id_ in ranking if differences[id_].mean > 0 and adjusted[id_] < alpha), None)


def holm_by_side(differences: Mapping[str, Difference]) -> dict[str, float]:
    """Each difference's p after Holm on its own side of 0; what lies on the other has p = 1."""
    above = holm([d.p if d.mean > 0 else 1.0 for d in differences.values()])
    below = holm([d.p if d.mean < 0 else 1.0 for d in differences.values()])
    return {id_: min(above[n], below[n]) for n, id_ in enumerate(differences)}


def could_show(n: int, least: float | None) -> str:
    """What difference `n` items could have shown; `least` is as `detectable` has it."""
    if least is None:
        return f"What these {n} items could have shown is not known: the difference is the same on each."
    if least > 1:
        return f"{'One item is' if n == 1 else f'These {n} items are'} too few to show any difference."
    return f"These {n} items could have shown a difference of {decimal(least)} with {POWER:.0%} power."
