"""Scores on disk: rows of replies, and the numbers that are made of them."""

from __future__ import annotations

from typing import TypedDict

from gepa_loop.sampling.base import FinishReason

SCORED = (
    "*baseline/*.jsonl",
    "*evaluate/*.jsonl",
    "round_*/race/*.jsonl",
    "test/*.jsonl",
    "references/*.jsonl",
)
"""Patterns of the files of a run that hold `ScoreRow`s; `*` stands for slashes as well."""


class ReplyRow(TypedDict):
    """One scored completion."""

    item: str
    """The item's id."""
    sample: int
    """Which of the item's completions it is, from 0."""
    score: float
    """0 to 1: what reaches every decision."""
    raw: float
    """What the task's own scorer said."""
    extracted: str | None
    """What was read of the reply; null where there was nothing to read."""
    completion: str
    """The reply."""
    tokens: int
    """Its length, with the stop token."""
    finish_reason: FinishReason
    """`stop`, or `length` where it was cut at the horizon."""
    feedback: str
    """What was wrong, for the reflection."""


class ScoreRow(ReplyRow):
    """One row for each reply of a subject on a split, item by item. Drawn as `evaluate.samples` and `evaluate.temperature` say;
    greedily in files of `<name>_greedy.jsonl`."""

    student: str | None
    """Fingerprint of the adapter that answered; null is the bare base."""


class EstimateRecord(TypedDict):
    """A mean score over items."""

    n: int
    """Items."""
    mean: float
    """0 to 1."""
    ci: list[float]
    """95 % interval over items."""


class DifferenceRecord(TypedDict):
    """A mean of differences, paired by item."""

    mean: float
    """-1 to 1; above 0 where the first named is better."""
    ci: list[float]
    """95 % interval over items."""
    p: float
    """Of no difference, two-sided."""


class RatioRecord(TypedDict):
    """A ratio of two mean differences."""

    mean: float
    """1 is all of the prompt's gain; it may lie outside of 0 to 1."""
    ci: list[float]
    """95 % interval over items."""


class CardRecord(EstimateRecord):
    """What a subject's replies are like."""

    samples: int
    """Replies an item."""
    pass_at_k: float
    """0 to 1: items with a full score among their replies."""
    tokens: float
    """Mean length of the replies."""
    cut: float
    """0 to 1: replies that were cut at the horizon."""


class ObjectivesRecord(TypedDict):
    """What a candidate was measured on, on `pareto`."""

    score: float
    """Mean score, 0 to 1."""
    prompt_tokens: int
    """Length of the prompt."""
    completion_tokens: float
    """Mean length of the completions."""


class LookKey(TypedDict):
    """What names a look at `test`."""

    items: str
    """A fingerprint of questions and answers, of all items together."""
    run: str
    """The run's name."""
    birth: str
    """Its manifest's."""
    config: str
    """A fingerprint of its identity."""
    look: str
    """What the scorings that end in one table have in common."""


class LedgerRow(LookKey):
    """Beside the runs. One row for each scoring of `test`, by `loop`, `distill` or `evaluate --split test`. A killed scoring that
    goes on is the same row; a run that is made again, by `--fresh` or after it was deleted, is another one, and so is one that
    goes on under another name. Where the file cannot be written or read, tables say that earlier looks are not known."""

    time: str
    """When, in UTC."""
    subject: str
    """Who was scored."""
    prints: list[str] | None
    """A fingerprint of each item's question and answer; null where an earlier row with the same `items` has them."""


class LooksRecord(TypedDict):
    """How often the run's items of `test`, or some of them, had been scored, by the ledger, when the last look of this run
    began."""

    look: str
    """Which."""
    items: int
    """Items of `test`."""
    seen: int
    """Those that were scored before."""
    looks: int
    """Earlier looks at any of them."""
    scorings: int
    """Earlier scorings of the item that has most of them."""
    unknown: str | None
    """Why they could not be counted."""


class OverSeedsRecord(TypedDict):
    """A mean over training seeds."""

    mean: float
    """Of scores, 0 to 1, or of their differences."""
    by_seed: list[float]
    """In the order of the seeds."""
    sd: float | None
    """Standard deviation between seeds, of training and of items; null for a single one."""
    ci: list[float] | None
    """95 %, by Student's t, within what a score or a difference can be; null below three seeds, and where all of them are equal."""
    p: float | None
    """Of no difference, two-sided, by a paired t test over seeds; null where `ci` is, and where it is not asked."""
