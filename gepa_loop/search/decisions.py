"""What became of an iteration's proposals, written down: rows of candidates.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gepa_loop.errors import RunDirectoryError
from gepa_loop.scores.records import ObjectivesRecord
from gepa_loop.search.budget import Spent
from gepa_loop.search.frontier import Measured
from gepa_loop.search.journal import Proposed
from gepa_loop.search.meter import Key
from gepa_loop.search.records import CandidateRow, CostRecord, Status
from gepa_loop.search.reflect import Asked
from gepa_loop.search.scorer import Scorer
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Outcome:
    """What became of a proposal, or of the seed."""

    prompt: Candidate
    status: Status = "accepted"
    reason: str | None = None
    """Why it is not accepted."""
    asked: Asked | None = None
    """What it was made from; None of the seed, as of `entry`."""
    entry: Proposed | None = None

    @property
    def minibatch(self) -> Sequence[Item]:
        """What it and its parent were compared on."""
        return self.asked.minibatch if self.asked and self.status in ("accepted", "rejected") else ()

    def keys(self, pareto: Sequence[Item]) -> list[Key]:
        """All that may have been sampled for it: of its parent, and of its own."""
        of_parent = [(self.asked.parent.id, item.id) for item in self.asked.minibatch] if self.asked else []
        own = [*self.minibatch, *(pareto if self.status == "accepted" else ())]
        return [*of_parent, *((self.prompt.id, item.id) for item in own)]


def outcome_of(asked: Asked, entry: Proposed, shortfall: str | None) -> Outcome:
    """What became of a judged proposal; `shortfall` says why it is no better than its parent, None of an accepted one."""
    prompt, reason = Candidate(entry["text"]), entry["failed"] or entry["refused"] or shortfall
    status: Status = "accepted"
    if reason:
        status = "failed" if entry["failed"] else "refused" if entry["refused"] else "rejected"
    return Outcome(prompt, status, reason, asked, entry)


class Decisions:
    """The record of a search's iterations.

    Args:
        scorer: What is known of candidates.
        quote: US dollars that a proposal may cost, as far as is known before.
    """

    def __init__(self, scorer: Scorer, quote: float) -> None:
        self._scorer = scorer
        self._journal = scorer.journal
        self._pareto = scorer.rollouts.task.splits["pareto"]
        # The first process's: at another price a replay would stop where the record goes on.
        self.quote = self._journal.decided[0]["quote_usd"] if self._journal.decided else quote
        self._written = 0

    def write(self, outcomes: Sequence[Outcome], before: Spent) -> None:
        """End an iteration: one row for each of its outcomes, in order.

        Args:
            outcomes: What became of its proposals; none where every minibatch was perfect.
            before: What the search had used when it began.
        """
        meter = self._scorer.meter
        costs = [self._cost(outcome) for outcome in outcomes]
        # What was sampled for a perfect minibatch is nobody's cost.
        others = replace(
            meter.spent,
            rollouts=meter.spent.rollouts - sum(cost.rollouts for cost in costs),
            seconds=meter.spent.seconds - sum(cost.seconds for cost in costs),
        )
        spent = replace(before, rollouts=others.rollouts, seconds=others.seconds)
        for outcome, cost in zip(outcomes, costs, strict=True):
            spent = spent.plus(cost)
            if self._written < len(self._journal.decided):
                row = self._journal.decided[self._written]
                self._check(row, outcome)
                spent = replace(spent, seconds=row["spent"]["seconds"])
            else:
                self._journal.decide(self._row(outcome, cost, spent))
            self._written += 1
        meter.end_iteration(spent.seconds)

    def _cost(self, outcome: Outcome) -> Spent:
        sampled = self._scorer.meter.claim(outcome.keys(self._pareto))
        entry = outcome.entry
        asked = Spent() if entry is None else Spent(0, 1, entry["usd"], entry["seconds"])
        return sampled.plus(asked)

    def _row(self, outcome: Outcome, cost: Spent, spent: Spent) -> CandidateRow:
        prompt, entry, scores = outcome.prompt, outcome.entry, self._journal.scores
        accepted = outcome.status == "accepted"
        measured = self._scorer.measured(prompt, self._pareto) if accepted else None
        parent = entry["parent"] if entry else ""
        return {
            "number": self._written,
            "id": prompt.id,
            "text": prompt.text,
            "tokens": self._scorer.rollouts.renderer.prompt_tokens(prompt.text),
            "parents": [parent] if entry else [],
            "proposer": entry["proposer"] if entry else "seed",
            "how": entry["how"] if entry else "the seed prompt",
            "reply": entry["reply"] if entry else "",
            "status": outcome.status,
            "reason": outcome.reason,
            "parent_scores": {item.id: scores[parent, item.id] for item in outcome.minibatch},
            "train_scores": {item.id: scores[prompt.id, item.id] for item in outcome.minibatch},
            "pareto_scores": {item.id: scores[prompt.id, item.id] for item in self._pareto if accepted},
            "pareto_tokens": {} if measured is None else dict(measured.completion_tokens),
            "pareto_mean": None if measured is None else measured.mean,
            "objectives": None if measured is None else _objectives(measured),
            "cost": _cost_record(cost, entry),
            "spent": spent.as_dict(),
            "quote_usd": self.quote,
        }

    def _check(self, row: CandidateRow, outcome: Outcome) -> None:
        """A row that an earlier process wrote must be of the same decision."""
        parents = [outcome.asked.parent.id] if outcome.asked else []
        items = {item.id for item in outcome.minibatch}
        written = row["id"], row["status"], row["parents"], set(row["train_scores"])
        if written != (outcome.prompt.id, outcome.status, parents, items):
            raise RunDirectoryError(
                f"{self._journal.candidates}: number {row['number']} is {row['id']} ({row['status']}), "
                f"and the search makes {outcome.prompt.id} ({outcome.status}) of it, or of other items",
                "The file was changed, or gepa/ beside it is gone and completions came out otherwise. "
                "Start again with --fresh.",
            )


def _objectives(measured: Measured) -> ObjectivesRecord:
    tokens = measured.completion_tokens
    return {
        "score": measured.mean,
        "prompt_tokens": measured.prompt_tokens,
        "completion_tokens": sum(tokens.values()) / len(tokens),
    }


def _cost_record(cost: Spent, entry: Proposed | None) -> CostRecord:
    return {
        "rollouts": cost.rollouts,
        "usd": entry["usd"] if entry else 0,
        "input_tokens": entry["input_tokens"] if entry else 0,
        "output_tokens": entry["output_tokens"] if entry else 0,
        "seconds": cost.seconds,
    }
