"""How much a judge's scores of equal replies differ, before anything is built on them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gepa_loop.lab import Lab
from gepa_loop.run.directory import Run
from gepa_loop.run.files import read_json, write_json
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.numbers import decimal
from gepa_loop.stages.records import JudgeRecord, SpreadRecord
from gepa_loop.task.answers import extract
from gepa_loop.task.judge import JUDGEMENTS, KEY, REPLIES, Judge, dollars, mark_of
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.task.readings import Reading

FILE = "judge.json"
NEUTRAL = "I do not know."
"""Judged where nothing can be read of the model's own reply and the item has no answer."""


@dataclass(frozen=True)
class Spread:
    """What a judge is like."""

    model: str
    deviation: float
    """Standard deviation of the scores of one reply: the root of the mean variance (n - 1) over replies."""
    replies: int
    judgements: int
    """Of each reply."""
    usd: float
    """Of a call."""
    priced: bool
    """False where litellm knows no price of the model, so that `usd` is 0."""

    def __str__(self) -> str:
        cost = f"about {dollars(self.usd)} a call" if self.priced else "no price known"
        budget = "" if self.priced else f": {KEY}.max_usd is not kept"
        return (
            f"judge {self.model}: equal replies differ by {decimal(self.deviation)} (standard deviation of "
            f"{self.judgements} judgements each of {self.replies} replies), {cost}{budget}"
        )


def check_judge(lab: Lab) -> None:
    """Find out, before anything is written or sampled, whether the judge of a task can be asked.

    Raises:
        ProviderError: The key, the model or the network is missing or refused.
    """
    if lab.task.judge is not None:
        lab.task.judge.remote.check()


def measure_spread(lab: Lab, run: Run) -> Spread | None:
    """Have a few greedy replies of the bare model judged several times, once in a run; None where there is no judge.

    It goes to judge.json and, when it is measured, to the run's events. What a reply is worth in the run is the first of its
    judgements.
    """
    judge, path = lab.task.judge, run.path / FILE
    if judge is None:
        return None
    if path.exists():
        return Spread(**read_json(path, JudgeRecord)["spread"])
    found = _measured(judge, _readings(lab))
    record: JudgeRecord = {"spread": found}
    write_json(path, record)
    run.event("judge", **found)
    return Spread(**found)


def _measured(judge: Judge, readings: Sequence[Reading]) -> SpreadRecord:
    judge.judge([(one, n) for one in readings for n in range(JUDGEMENTS)])
    record = judge.record
    scores = [[record.verdicts[mark_of(one), n][0] for n in range(JUDGEMENTS)] for one in readings]
    return {
        "model": judge.settings.model,
        "deviation": deviation(scores),
        "replies": len(readings),
        "judgements": JUDGEMENTS,
        "usd": record.usd / record.calls,
        "priced": judge.remote.usd(1, 1) is not None,
    }


def deviation(scores: Sequence[Sequence[float]]) -> float:
    """Standard deviation within replies, of each of which there are as many scores."""
    return math.sqrt(statistics.fmean(statistics.variance(own) for own in scores))


def _readings(lab: Lab) -> list[Reading]:
    """Replies as the run will have them: the bare model's, to the first items of `train`."""
    items, rollouts = lab.task.splits["train"][:REPLIES], lab.rollouts
    sampling = Sampling(0.0, lab.config.sampling.max_tokens)
    found = []
    for item, completion in zip(
        items, rollouts.completions(NO_PROMPT, items, 1, sampling, "spread"), strict=True
    ):
        reply = rollouts.renderer.reply(completion.token_ids)
        read = extract(lab.task.extract, rollouts.opening + reply) or item.answer or NEUTRAL
        found.append(Reading(item, read, reply))
    return found
