"""Of commands that come before a run."""

from __future__ import annotations

from typing import TypedDict

from gepa_loop.cli.records.whole import Answer
from gepa_loop.scores.records import ReplyRow


class FieldAnswer(TypedDict):
    """A field of the data."""

    name: str
    """Dotted where it lies deeper."""
    kind: str
    """What it holds."""
    filled: int
    """Records that have it."""
    distinct: int
    """Different values."""
    words: float
    """Median of its texts; 0 where it holds none."""
    example: str
    """A value, shortened."""


class InitAnswer(Answer):
    """Of `init`."""

    path: str
    """The file that was written, absolute."""
    records: int
    """Of the data."""
    fields: list[FieldAnswer]
    """In the order in which the data have them."""
    said: dict[str, str]
    """What was found or proposed -> a sentence."""
    warnings: list[str]
    """Doubts."""
    splits: dict[str, int]
    """Split -> items."""


class TriedAnswer(TypedDict):
    """An item of `check` and its two greedy replies."""

    item: str
    """The item's id."""
    question: str
    """Its last turn."""
    answer: str
    """What is expected; empty for none."""
    bare: ReplyRow
    """The reply without a prompt."""
    prompted: ReplyRow
    """And with it."""


class CheckedAnswer(Answer):
    """Of `check`."""

    facts: list[str]
    """What was resolved."""
    warnings: list[str]
    """Reasons not to trust a score."""
    scored: bool
    """Whether replies have scores; else they are 0 here."""
    bare: float | None
    """Mean score without a prompt; null where nothing scores."""
    prompted: float | None
    """And with it."""
    items: list[TriedAnswer]
    """Those that were tried."""
    suggestions: list[str]
    """What to change."""


class FindingAnswer(TypedDict):
    """One thing that was looked at."""

    about: str
    """What."""
    state: str
    """`ok`, `note` or `fault`."""
    sentence: str
    """What was found."""
    hint: str
    """How to mend it; may be empty."""


class DoctorAnswer(Answer):
    """Of `doctor`."""

    config: str
    """Where it comes from."""
    findings: list[FindingAnswer]
    """In the order in which they were found."""
    faults: int
    """How many are faults."""


class WorthAnswer(TypedDict):
    """A reply that needs no model."""

    item: str
    """The item's id."""
    what: str
    """`its own answer`, `an empty reply` or `another item's answer`."""
    reply: str
    """Its text."""
    score: float
    """0 to 1."""
    feedback: str
    """What the reflection would read."""


class TaskAnswer(Answer):
    """Of `task check`."""

    task: str
    """Its name."""
    items: int
    """How many there are."""
    distinct: int
    """Distinct questions among them."""
    answered: int
    """Items with an answer."""
    worths: list[WorthAnswer]
    """Replies to a few items; none where nothing could be scored."""
    means: dict[str, float]
    """Kind of reply -> mean score."""
    findings: list[FindingAnswer]
    """What was looked at."""
    faults: int
    """How many are faults."""
