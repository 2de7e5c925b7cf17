"""Held-out checks, and whose student is kept.

A check is a mean over a few dozen items, so the highest of several is highest by luck as well. Checks are smoothed with
their neighbours, and of those that cannot be told from the best the one nearest to the teacher is kept: KL(student || teacher) of
the same replies says more than their scores do, of a student that is not there yet and of one that collapses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gepa_loop.training.records import CheckRecord, ChoiceRecord

CERTAIN = 3.0
"""Standard errors."""
RISEN = 3.0
"""By which factor the divergence has risen. It moves by 1.5 between checks of a good run, and by 2 with rollouts below temperature 1."""
SILENT = "all checks score the same on every item"
"""In the reason of a choice that no score made."""
NEAR = 0.05
"""Nats a token. A student that is nearer than this has not been harmed, by whatever factor its divergence has risen."""


@dataclass(frozen=True)
class Check:
    """Held-out scores of the student without a prompt; step 0 is before the first one."""

    step: int
    scores: Mapping[str, float]
    """Item -> mean score over its samples; the same items at every check."""
    warm: bool = False
    """The step after it is still one on the teacher's samples."""
    kl: Mapping[str, float] = field(default_factory=dict)
    """Item -> KL(student || teacher) of the same replies, in nats a token; empty where no teacher reads them, where it moves with the
    student, and where a reward may take the student away from it."""
    warm_losses: Sequence[float] = ()
    """KL(teacher || student) of the warm start's steps since the check before, in nats a token, without those that are not finite."""

    @property
    def score(self) -> float:
        """Mean over the items."""
        return _mean(self.scores)

    @property
    def distance(self) -> float:
        """Mean of `kl` over the items."""
        return _mean(self.kl)

    def as_dict(self) -> CheckRecord:
        return {
            "step": self.step,
            "scores": dict(self.scores),
            "warm": self.warm,
            "kl": dict(self.kl),
            "warm_losses": list(self.warm_losses),
        }


@dataclass(frozen=True)
class Choice:
    """Which check's student is kept, and why. Its scores are of the items that chose it, and high by that."""

    step: int
    score: float
    """At that check alone."""
    smoothed: float
    best: int
    """The step with the highest smoothed score."""
    difference: float
    """That score less the kept one's."""
    standard_error: float
    """Of the difference, over the items."""
    reason: str

    def as_dict(self) -> ChoiceRecord:
        return {
            "step": self.step,
            "score": self.score,
            "smoothed": self.smoothed,
            "best": self.best,
            "difference": self.difference,
            "standard_error": self.standard_error,
            "reason": self.reason,
        }


def choose(checks: Sequence[Check]) -> Choice:
    """Of the checks within one standard error of the best, by smoothed scores paired by item, the one nearest to the teacher; the
    earliest where that was not measured.

    A check counts twice and each of its neighbours once. The untrained student of step 0 is nobody's neighbour, since the
    first steps change more than chance does; it is kept where it is above all others, and not for being near the best.
    Where all checks score the same on every item and no teacher reads them they say nothing, and the last one is kept.

    Args:
        checks: In the order of their steps, from step 0 on, on the same items.
    """
    untrained, *trained = checks
    smooth = {0: dict(untrained.scores)}
    for place, check in enumerate(trained):
        beside = [check, *trained[max(0, place - 1) : place + 2]]
        smooth[check.step] = {
            item: math.fsum(one.scores[item] for one in beside) / len(beside) for item in check.scores
        }
    levels = {step: _mean(scores) for step, scores in smooth.items()}
    # The later one of equals.
    best = max(levels, key=lambda step: (levels[step], step))
    gaps = {step: _gap(smooth[best], scores) for step, scores in smooth.items()}
    near = [check for check in trained if gaps[check.step][0] <= gaps[check.step][1]]
    read, silent = all(check.kl for check in near), _silent(trained)
    if best == 0:
        kept, reason = untrained, "no smoothed score is above the untrained student"
    elif silent and not read:
        kept, reason = trained[-1], f"{SILENT}, so it is the last one"
    else:
        kept = min(near, key=lambda check: check.distance) if read else near[0]
        which = f"the nearest to the teacher (KL {kept.distance:.3f})" if read else "the earliest"
        if silent:
            reason = f"{which}, as {SILENT}"
        elif kept.step == best:
            reason = "the highest score, smoothed over neighbouring checks"
        else:
            reason = (
                f"{which} within one standard error ({gaps[kept.step][1]:.3f}) of the best smoothed score ({levels[best]:.3f} at step "
                f"{best}, here {levels[kept.step]:.3f})"
            )
    return Choice(kept.step, kept.score, levels[kept.step], best, *gaps[kept.step], reason)


def settled(checks: Sequence[Check], patience: int) -> bool:
    """The last `patience` checks together are not above as many before them by more than one standard error; never for 0."""
    counted = _counted(checks)
    if not patience or len(counted) < 2 * patience:
        return False
    gain, error = _gap(_together(counted[-patience:]), _together(counted[-2 * patience : -patience]))
    return gain <= error


def spoilt(checks: Sequence[Check]) -> str:
    """In words, that the stretch before the last check did harm; else empty.

    The held-out score is below the best before it by more than half, or the divergence from the teacher above the lowest before it
    by more than a factor of `RISEN` and above `NEAR`; either by more than `CERTAIN` standard errors of the paired differences over
    items. A warm start brings the student nearer from the first step on, so its divergences count, other than its scores, and so do
    its losses: a student that says one token for ever is sure of it, as is a teacher who reads it.
    """
    read = [check for check in checks if check.step and check.kl]
    return _fallen(_counted(checks), checks[-1]) or _risen(read, checks[-1]) or _lost(checks)


def _fallen(counted: Sequence[Check], last: Check) -> str:
    if len(counted) < 2 or counted[-1] is not last:
        return ""
    best = max(counted[:-1], key=lambda check: check.score)
    loss, error = _gap(best.scores, last.scores)
    if loss <= CERTAIN * error or loss <= best.score / 2:
        return ""
    return f"the held-out score was {best.score:.3f} at step {best.step} and is {last.score:.3f} at step {last.step}"


def _risen(read: Sequence[Check], last: Check) -> str:
    if len(read) < 2 or read[-1] is not last:
        return ""
    near = min(read[:-1], key=lambda check: check.distance)
    rise, error = _gap(last.kl, near.kl)
    was, now = near.distance, last.distance
    if rise <= CERTAIN * error or now <= max(RISEN * was, NEAR):
        return ""
    return f"the held-out KL(student || teacher) was {was:.3f} at step {near.step} and is {now:.3f} at step {last.step}"


def _lost(checks: Sequence[Check]) -> str:
    """Judged by the second half of the last stretch's warm steps, as its first steps may come from far away."""
    losses, last = [loss for check in checks for loss in check.warm_losses], checks[-1]
    count = math.ceil(len(last.warm_losses) / 2)
    if not count or count == len(losses):
        return ""
    was, now = min(losses[:-count]), math.fsum(losses[-count:]) / count
    if now <= max(RISEN * was, NEAR):
        return ""
    return f"KL(teacher || student) of the teacher's own replies was {was:.3f} and is {now:.3f} at step {last.step}"


def _counted(checks: Sequence[Check]) -> list[Check]:
    """Those that say how training goes: not of the untrained student, whom a prompt may make worse on purpose, nor of a warm
    start, which scores 0 for a while as the student cannot say the teacher's replies yet."""
    return [check for check in checks if check.step and not check.warm]


def _together(checks: Sequence[Check]) -> dict[str, float]:
    """Each item's mean over checks."""
    return {item: _mean({check.step: check.scores[item] for check in checks}) for item in checks[0].scores}


def _silent(checks: Sequence[Check]) -> bool:
    """Several checks, and none says anything that another does not."""
    return len(checks) > 1 and all(dict(check.scores) == dict(checks[0].scores) for check in checks)


def _gap(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[float, float]:
    """The mean of a - b over items, and its standard error; 0 for a single item."""
    gaps = [a[item] - b[item] for item in a]
    mean = math.fsum(gaps) / len(gaps)
    if len(gaps) < 2:
        return mean, 0.0
    variance = math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    return mean, math.sqrt(variance / len(gaps))


def _mean(scores: Mapping[Any, float]) -> float:
    return math.fsum(scores.values()) / len(scores)
