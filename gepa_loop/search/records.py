"""A search on disk: every candidate, what each call of the proposer gave, and the front."""

from __future__ import annotations

from typing import Literal, TypedDict

from gepa_loop.scores.records import DifferenceRecord, EstimateRecord, ObjectivesRecord, ReplyRow

Status = Literal["accepted", "rejected", "refused", "failed"]
Why = Literal["best mean", "seed", "front", "pool"]


class CostRecord(TypedDict):
    """What one candidate cost."""

    rollouts: int
    """Its own and, where they were not known, its parent's on the minibatch."""
    usd: float
    """US dollars."""
    input_tokens: int
    """Tokens that the reflection model read."""
    output_tokens: int
    """Tokens that it wrote."""
    seconds: float
    """Seconds."""


class SpentRecord(TypedDict):
    """What a search has used."""

    rollouts: int
    """On minibatches and `pareto`."""
    proposals: int
    """Calls of the proposer."""
    usd: float
    """US dollars."""
    seconds: float
    """Seconds."""


class CandidateRow(TypedDict):
    """One row for each candidate, written when it is decided. A killed search is continued from it by the same command, and ends as it
    would have without the kill; `gepa/` saves sampling completions again and asking again for a proposal that was being judged.
    Without it a search goes on as well, with the decided candidates as they are. `gepa-loop prompts list|show|diff RUN` reads it,
    also while the search runs."""

    number: int
    """0 is the seed prompt, then proposals in order."""
    id: str
    """Of the prompt."""
    text: str
    """The prompt."""
    tokens: int
    """Its length for the student's tokenizer."""
    parents: list[str]
    """Which candidate it was made from."""
    proposer: str
    """By whom."""
    how: str
    """By what edit."""
    reply: str
    """What the reflection model wrote, of long replies the first and the last 2,000 characters; empty for the others."""
    status: Status
    """`accepted` (better than its parent on its minibatch), `rejected`, `refused` (never scored) or `failed` (the reflection model
    gave none)."""
    reason: str | None
    """Why it is not accepted, in words."""
    parent_scores: dict[str, list[float]]
    """Item of the minibatch -> score of each sample: the parent's, on the same random numbers."""
    train_scores: dict[str, list[float]]
    """The same: its own."""
    pareto_scores: dict[str, list[float]]
    """Of an accepted one, item of `pareto` -> score of each sample."""
    pareto_tokens: dict[str, float]
    """Of an accepted one, item of `pareto` -> mean length of the completions."""
    pareto_mean: float | None
    """Of an accepted one, mean score on `pareto`."""
    objectives: ObjectivesRecord | None
    """Of an accepted one."""
    cost: CostRecord
    """Its own."""
    spent: SpentRecord
    """The search's up to here."""
    quote_usd: float
    """The dearest that one proposal of this search may be, US dollars."""


class ProposalRow(TypedDict):
    """One row for each call of the proposer when it ends, before its proposal is judged, so that none is paid twice."""

    number: int
    """From 0; with `optimize.proposals` above 1 rows may come in another order."""
    parent: str
    """Of the prompt that it was shown."""
    proposer: str
    """Who was called."""
    text: str
    """The proposal; empty where there is none."""
    usd: float
    """US dollars, of a failed call as well."""
    how: str
    """By what edit."""
    cut: bool
    """The reply ended at its token limit."""
    failed: str | None
    """Why the call gave nothing, in words."""
    reply: str
    """What a model wrote, of long replies the first and the last 2,000 characters."""
    input_tokens: int
    """Tokens that it read."""
    output_tokens: int
    """Tokens that it wrote."""
    seconds: float
    """Seconds that the search waited for it: those of the call, or where several are under way, since the one before it ended."""


class EvaluationRow(TypedDict):
    """The completions that candidates were scored by, of whole items with all of their samples."""

    candidate: str
    """Of the prompt."""
    seconds: float
    """What the completions took."""
    rows: list[ReplyRow]
    """They, scored."""


class ChosenRecord(TypedDict):
    """A candidate that is handed on, and why."""

    id: str
    """Of the prompt."""
    text: str
    """The prompt."""
    tokens: int
    """Its length for the student's tokenizer."""
    parents: list[str]
    """Which candidate it was made from."""
    how: str
    """By what edit."""
    pareto_mean: float
    """Mean score on `pareto`."""
    objectives: ObjectivesRecord
    """As in candidates.jsonl."""
    kept: Why
    """Why it stays: `best mean`, `seed`, `front` or, beyond those, `pool`."""


class FrontRow(ChosenRecord):
    """What is handed on: of `optimize` the best mean on `select` first, of `loop`, whose students decide there, on `pareto`."""

    select: EstimateRecord | None
    """Its score on `select`; null of a loop's."""
    against_seed: DifferenceRecord | None
    """The paired difference from the seed prompt there; null for the seed, and of a loop's."""
    adjusted_p: float | None
    """Its p after Holm's correction over all finalists; null as the difference is."""


class SearchRecord(TypedDict):
    """How a search ended."""

    winner: str | None
    """The best of the prompts that are significantly better than the seed prompt; null of a loop's, where students decide."""
    reason: str
    """Who won and why, in words and numbers."""
    stack: str | None
    """Fingerprint of the adapter that the prompts were evolved for; null is the bare base."""
    stopped_by: str
    """What ended it, in words."""
    exhausted: bool
    """Nothing better or new came any more (`optimize.patience`, or 20 iterations without a text to score); false where a budget ended it."""
    spent: SpentRecord
    """What it took."""
    refused: int
    """Proposals that were refused or failed."""
    finalists: list[str]
    """Candidates that were scored on `select`; not all are handed on. Of a loop's search none."""
