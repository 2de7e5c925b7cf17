"""How long questions and answers are, in tokens: of a sample, as a tokenizer needs minutes for hundreds of thousands of texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from gepa_loop.start.guess import Scoring
from gepa_loop.task.records import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 2_000
"""Items whose texts are tokenised."""

LONGEST = 20
"""Answers besides, the longest in characters: a reply must have room for every one."""

THINKS = re.compile(r"step by step|think|reason|explain|work (it )?out|show your", re.IGNORECASE)
"""How prompts ask for more than an answer."""

LONGEST_REASONING = 256


def token_counts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """Tokens of each text; without a tokenizer an estimate."""
    if tokenizer is None or not texts:
        return [math.ceil(len(text.encode()) / 3) for text in texts]
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]


def sampled(items: Sequence[Item]) -> Sequence[Item]:
    """All of them, or `SAMPLE` that are always the same."""
    return items if len(items) <= SAMPLE else Random(0).sample(items, SAMPLE)


def horizon(
    items: Sequence[Item], scoring: Scoring, prompt: str | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, str]:
    """Tokens of the longest reply, and why so many."""
    answers = [item.answer for item in items]
    tried = [*(item.answer for item in sampled(items)), *sorted(answers, key=len)[-LONGEST:]]
    longest = max(token_counts(tried, tokenizer), default=0)
    room = 8 * math.ceil((1.25 * longest + 12) / 8)
    if (prompt is not None and THINKS.search(prompt)) or scoring.extract in ("tags", "boxed") or not longest:
        return max(
            room, LONGEST_REASONING
        ), "Room to reason before the answer; `gepa-loop check` says which replies are cut."
    return (
        room,
        f"The longest answer{_of(items)} has {longest} tokens; `gepa-loop check` says which replies are cut.",
    )


def told_lengths(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase | None) -> str:
    """How long questions are, earlier turns counted."""
    some = sampled(items)
    texts = [text for item in some for _, text in item.messages]
    counts = iter(token_counts(texts, tokenizer))
    lengths = sorted(sum(next(counts) for _ in item.messages) for item in some)
    about = "" if tokenizer is not None else "about "
    return f"{about}{lengths[0]:,} to {lengths[-1]:,} tokens, {lengths[len(lengths) // 2]:,} in the middle{_of(items)}"


def _of(items: Sequence[Item]) -> str:
    return f" of a sample of {SAMPLE:,}" if len(items) > SAMPLE else ""


def too_long(prompt: str, tokenizer: PreTrainedTokenizerBase, context: int, model: str) -> list[str]:
    """A sentence where a prompt leaves a model's context no room for a question; none where there is some."""
    tokens = len(tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
    if tokens < context:
        return []
    return [
        f"the prompt has {tokens:,} tokens, and the context of {model} is {context:,}: nothing is ever cut, so it needs a shorter prompt or "
        "a model that reads more (--model)"
    ]
