"""Completions of several students in one call, where a sampler can compute each row with its own adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Protocol, runtime_checkable

from gepa_loop.errors import Diverged
from gepa_loop.sampling.base import Completion, Request, Sampler, Sampling, Streaming, Waiting, answers


@runtime_checkable
class Joint(Protocol):
    """A sampler that decodes rows of several adapters together."""

    @property
    def joins(self) -> bool:
        """Whether it can for its model."""
        ...

    def generate_together(self, wanted: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion for each row of each part, one part after the other, as `generate` would give it up to rounding.

        Args:
            wanted: Parts with adapters of one rank, alpha and set of modules.
            sampling: Temperature and length.
        """
        ...


def sample_together(
    sampler: Sampler, wanted: Sequence[Request], sampling: Sampling
) -> list[list[Completion] | Diverged]:
    """The completions of each part, or that its logits are not finite; in one call where the sampler can, else in turn."""
    filled = [rows for rows in wanted if rows.prompts]
    if len(filled) > 1 and isinstance(sampler, Joint) and sampler.joins and all(r.adapter for r in filled):
        try:
            flat = sampler.generate_together(filled, sampling)
        except Diverged:
            pass  # whose logits they are is found by asking each alone
        else:
            ends = accumulate((len(rows.prompts) for rows in wanted), initial=0)
            return [flat[start:end] for start, end in pairwise(ends)]
    if isinstance(sampler, Streaming):
        return begin_together(sampler, wanted, sampling)()
    return [_read(partial(answers, sampler, rows, sampling)) for rows in wanted]


def begin_together(
    sampler: Sampler, wanted: Sequence[Request], sampling: Sampling
) -> Callable[[], list[list[Completion] | Diverged]]:
    """`sample_together`, read later; begun at once where the sampler works beside this process, else when it is read."""
    if not isinstance(sampler, Streaming):
        return lambda: sample_together(sampler, wanted, sampling)
    begun = [sampler.begin(rows, sampling) for rows in wanted]
    sampler.send()
    return lambda: [_read(one) for one in begun]


def in_order(wanted: Sequence[Request]) -> tuple[list[Sequence[int]], list[int], list[int]]:
    """The prompts of all parts, one part after the other, with their seeds and the number of the part."""
    return (
        [prompt for rows in wanted for prompt in rows.prompts],
        [seed for rows in wanted for seed in rows.seeds],
        [number for number, rows in enumerate(wanted) for _ in rows.prompts],
    )


def _read(one: Waiting) -> list[Completion] | Diverged:
    try:
        return one()
    except Diverged as error:
        return error
