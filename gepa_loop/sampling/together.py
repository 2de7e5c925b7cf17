"""Completions of several students in one call, where a sampler can compute each row with its own adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gepa_loop.errors import Diverged
from gepa_loop.sampling.base import Completion, Sampler, Sampling

if TYPE_CHECKING:
    from gepa_loop.model.lora.adapter import Adapter


@dataclass(frozen=True)
class Request:
    """Prompts that one student answers."""

    prompts: Sequence[Sequence[int]]
    """Token ids, none empty."""
    seeds: Sequence[int]
    """One for each prompt."""
    adapter: Adapter | None
    """What stands on the base model."""


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
    return [_alone(sampler, rows, sampling) for rows in wanted]


def in_order(wanted: Sequence[Request]) -> tuple[list[Sequence[int]], list[int], list[int]]:
    """The prompts of all parts, one part after the other, with their seeds and the number of the part."""
    return (
        [prompt for rows in wanted for prompt in rows.prompts],
        [seed for rows in wanted for seed in rows.seeds],
        [number for number, rows in enumerate(wanted) for _ in rows.prompts],
    )


def _alone(sampler: Sampler, rows: Request, sampling: Sampling) -> list[Completion] | Diverged:
    if not rows.prompts:
        return []
    try:
        return sampler.generate(rows.prompts, sampling, rows.seeds, rows.adapter)
    except Diverged as error:
        return error
