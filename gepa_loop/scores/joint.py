"""Completions of several prompts, sampled in one call: each as it would be alone, up to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby, pairwise

from gepa_loop.sampling.base import Sampling, Waiting, begin
from gepa_loop.sampling.batches import in_turn, shared_length, worth_joining
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item

Pair = tuple[str, Item]
"""A prompt, and what is asked with it."""


def joint_parts(
    rollouts: Rollouts, wanted: Mapping[str, Sequence[Item]], rows: int, horizon: int
) -> list[list[Pair]]:
    """What is answered in one sampler call each, as `Rollouts.parts` does of one prompt: at most `rows` pairs.

    Args:
        rollouts: Where completions come from.
        wanted: Prompt -> its items; none is empty.
        rows: Most pairs of a call.
        horizon: Longest completion.
    """
    pairs = [(prompt, item) for prompt, items in wanted.items() for item in items]
    if len(wanted) > 1:
        lengths = [0] * len(pairs)
        joined = True
        if rollouts.on_cpu:
            groups = [rollouts.renderer.all_tokens(prompt, items) for prompt, items in wanted.items()]
            tokens = [row for group in groups for row in group]
            lengths = [len(row) - shared_length(tokens) for row in tokens]
            joined = worth_joining(groups)
        if joined:
            ends = accumulate(in_turn(lengths, rows, horizon if rollouts.on_cpu else 0))
            return [pairs[start:end] for start, end in pairwise([0, *ends])]
    return [
        [(prompt, item) for item in part]
        for prompt, items in wanted.items()
        for part in rollouts.parts(prompt, items, rows, horizon)
    ]


def joint_begin(
    rollouts: Rollouts, pairs: Sequence[Pair], samples: int, sampling: Sampling, purpose: str
) -> Waiting:
    """`samples` completions of each pair, in one sampler call, read later; see `sampling.base.begin`."""
    items = [item for _, item in pairs]
    tokens = [
        row
        for prompt, own in groupby(pairs, key=lambda pair: pair[0])
        for row in rollouts.renderer.all_tokens(prompt, [item for _, item in own])
    ]
    return begin(rollouts.sampler, rollouts.wanted(tokens, items, samples, purpose), sampling)
