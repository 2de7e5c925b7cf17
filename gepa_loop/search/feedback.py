"""What the reflection reads of a candidate's minibatch: per item, what was asked, said and read, and what was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from gepa_loop.scores.rollouts import Row
from gepa_loop.search.propose.base import Example
from gepa_loop.task.items import Item


def failure_of(row: Row) -> str | None:
    """What went wrong: `cut`, `format`, `content`, or None for a full score."""
    if row.score >= 1.0:
        return None
    if row.finish_reason == "length":
        return "cut"
    return "format" if row.extracted is None else "content"


def shown_sample(rows: Sequence[Row]) -> Row:
    """The sample that stands for an item in a reflection: its first failure, else its first."""
    return next((row for row in rows if row.score < 1.0), rows[0])


@dataclass(frozen=True)
class Excerpt:
    """Cuts texts to a token budget, head and tail."""

    tokenizer: PreTrainedTokenizerBase
    tokens: int

    def __call__(self, text: str) -> str:
        """The text, or its first and last tokens with the number of those left out."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= self.tokens:
            return text
        head = self.tokens // 2
        tail = self.tokens - head
        first, last = (self.tokenizer.decode(part) for part in (ids[:head], ids[len(ids) - tail :]))
        return f"{first}\n[{len(ids) - self.tokens} tokens left out]\n{last}"


def reflective_record(item: Item, rows: Sequence[Row], excerpt: Excerpt) -> Example:
    """One item in DSPy's form (Inputs, Generated Outputs, Feedback), and the kind of failure.

    The feedback is the task's: whether the answer was right, which one was expected, which one was read, that
    the format was missing, that the reply was cut, and what the task's own scorer says. Several samples of an item
    are shown by one that failed, with how many were right.
    """
    row = shown_sample(rows)
    feedback = row.feedback
    if len(rows) > 1:
        right = sum(r.score >= 1.0 for r in rows)
        feedback = f"{right} of {len(rows)} replies to this were right. This one: {feedback}"
    return {
        "Inputs": {"question": item.question},
        "Generated Outputs": {"answer": excerpt(row.completion)},
        "Feedback": feedback,
        "Failure": failure_of(row),
    }
