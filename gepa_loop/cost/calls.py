"""What a call reads with a prompt, and what without."""

from __future__ import annotations

from gepa_loop.cost.records import CallRecord
from gepa_loop.lab import Lab
from gepa_loop.task.prompts import NO_PROMPT, Candidate


def calls(lab: Lab, prompt: Candidate) -> tuple[CallRecord, CallRecord]:
    """Mean tokens of a call of `test` with the prompt and without it."""
    renderer, items = lab.rollouts.renderer, lab.task.splits["test"]
    first = items[0]
    with_prompt, bare = renderer.system_tokens(prompt.text, first), renderer.system_tokens(NO_PROMPT, first)
    whole = sum(map(len, renderer.all_tokens(NO_PROMPT, items))) / len(items)
    question = whole - bare
    return (
        {"system": with_prompt, "question": question, "reply": None},
        {"system": bare, "question": question, "reply": None},
    )
