"""What a judge said, on disk."""

from __future__ import annotations

from typing import TypedDict


class JudgementRow(TypedDict):
    """With `task.scorer = "model"`: one row for each reply that the judge was asked about. A row without a score was paid and failed,
    and `why` says how. A sweep has one file for all of its cells."""

    mark: str
    """A hash over the item's turns, its answer and what was read of the reply: equal replies to an item share it."""
    repetition: int
    """0 is the score of the reply wherever it comes in the run; 1 to 3 are the further judgements that measure the spread."""
    item: str
    """The first item that it was asked of."""
    reply: str
    """Of long ones the beginning and the end."""
    score: float | None
    """0 to 1."""
    why: str
    """The judge's reason."""
    calls: int
    """Over 1 where verdicts could not be read."""
    input_tokens: int
    """Tokens read, of all calls."""
    output_tokens: int
    """Tokens written, of all calls."""
    usd: float
    """US dollars of all calls, 0 where litellm knows no price."""
