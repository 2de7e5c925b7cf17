"""Lengths in tokens, of all texts where there are few and of a sample where there are many."""

from __future__ import annotations

from typing import Any

from gepa_loop.model.base import Base
from gepa_loop.start.guess import Scoring
from gepa_loop.start.lengths import LONGEST, SAMPLE, horizon, sampled, token_counts, told_lengths, too_long
from gepa_loop.task.records import Item, item_of

WHOLE = Scoring("whole", "f1", "")


class Counting:
    """A tokenizer of words, which keeps what it was given in each call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str], add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        assert not add_special_tokens and not verbose
        self.calls.append(texts)
        return {"input_ids": [text.split() for text in texts]}


def _items(count: int, longest: int = 3) -> list[Item]:
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    return [
        item_of(
            f"i:{n}",
            {
                "question": [*turns, {"role": "user", "content": "w " * (n % 5 + 1)}],
                "answer": "x " * (longest if n == count // 2 else 2),
            },
            "test",
        )
        for n in range(count)
    ]


def test_few_are_counted_one_and_all() -> None:
    words: Any = Counting()
    # The last turns have 1 to 5 words, the turns before them 3.
    assert told_lengths(_items(10), words) == "4 to 8 tokens, 6 in the middle"
    assert len(words.calls) == 1 and len(words.calls[0]) == 30
    assert horizon(_items(10), WHOLE, None, words)[0] == 16  # 8 ceil((1.25 * 3 + 12) / 8)
    assert sampled(_items(SAMPLE)) == _items(SAMPLE)


def test_of_many_a_sample_is_counted_in_one_call_and_the_longest_answers() -> None:
    items, words = _items(3 * SAMPLE, longest=100), Counting()
    tokenizer: Any = words
    assert told_lengths(items, tokenizer) == f"4 to 8 tokens, 6 in the middle of a sample of {SAMPLE:,}"
    room, why = horizon(items, WHOLE, None, tokenizer)
    assert room == 144 and f"The longest answer of a sample of {SAMPLE:,} has 100 tokens" in why
    assert [len(call) for call in words.calls] == [3 * SAMPLE, SAMPLE + LONGEST]
    assert sampled(items) == sampled(items) and len({item.id for item in sampled(items)}) == SAMPLE


def test_a_real_tokenizer_and_none(smollm: Base) -> None:
    texts = ["Which desk?", "", "GX4"]
    single = [len(smollm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert token_counts(texts, smollm.tokenizer) == single and single[1] == 0
    assert token_counts(["abcd", "é"], None) == [2, 1]
    assert token_counts([], smollm.tokenizer) == []


def test_a_prompt_that_fills_the_context_is_said_at_once(smollm: Base) -> None:
    tokens = len(smollm.tokenizer("one two three")["input_ids"])
    assert too_long("one two three", smollm.tokenizer, tokens + 1, "m") == []
    [said] = too_long("one two three", smollm.tokenizer, tokens, "m")
    assert said.startswith(
        f"the prompt has {tokens} tokens, and the context of m is {tokens}: nothing is ever cut"
    )
