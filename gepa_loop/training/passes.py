"""How rollouts are cut into forward and backward passes, so that they fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from gepa_loop.config.recipe import DistillConfig
from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.device import free_bytes
from gepa_loop.model.split import layers_by_device
from gepa_loop.training.batch import Group, micro_batches, positions


class Holder(Protocol):
    """What keeps memory between passes: captured graphs, buffers."""

    def release(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True)
class Passes:
    """Size and kind of the passes; the gradient is the same for all of them, up to rounding."""

    tokens: int
    """Most positions of one pass, unless a single completion has more."""
    recompute: bool = False
    """Keep only what goes into each layer for the backward pass, which computes the rest again."""
    shared: bool = True
    """Whether a pass holds rows of several students."""


def plan_passes(settings: DistillConfig, base: Base, longest: int) -> Passes:
    """`distill.micro_tokens`, or what half of a GPU's free memory holds; recompute where that is less than one completion.

    Args:
        settings: The configuration's table `distill`.
        base: The model that is trained.
        longest: Positions of the longest prompt with the longest completion.
    """
    if base.device.type == "cpu":
        # Reading the weights once for all gains nothing there, and each position would compute with every student's ranks: a
        # twelfth more time for eight students' forward and backward pass (benchmarks/NOTES.md).
        return Passes(settings.micro_tokens or 2048, shared=False)
    if settings.micro_tokens is not None:
        return Passes(settings.micro_tokens)
    # Of a split model each GPU keeps what its own layers need.
    cards = [(free_bytes(card), layers) for card, layers in layers_by_device(base.model).items()]
    shape = base.model.config.get_text_config()
    # What is kept of a position: about ten vectors of the hidden size and four of the inner one in each layer; with
    # recomputation that of one layer, and the others' inputs.
    layer = (10 * shape.hidden_size + 4 * shape.intermediate_size) * base.model.dtype.itemsize
    into = shape.hidden_size * base.model.dtype.itemsize
    whole = min(int(0.5 * free / (layers * layer)) for free, layers in cards)
    if whole >= longest:
        return Passes(min(16_384, whole))
    again = min(int(0.5 * free / (layers * into + layer)) for free, layers in cards)
    return Passes(max(256, min(16_384, again)), recompute=True)


def parts_of(groups: Sequence[Group], passes: Passes) -> list[list[Group]]:
    """The groups of each pass, in order; groups of a student lie one behind the other."""
    if passes.shared:
        return micro_batches(groups, passes.tokens)
    by_student = groupby(groups, key=lambda group: group.student)
    return [part for _, own in by_student for part in micro_batches(list(own), passes.tokens)]


def smaller(passes: Passes, groups: Sequence[Group]) -> Passes | None:
    """What to try after the passes over `groups` have run out of memory; None where nothing is left to try."""
    parts = parts_of(groups, passes)
    if any(len(part) > 1 or len(part[0].completions) > 1 for part in parts):
        return replace(passes, tokens=min(passes.tokens, max(map(positions, parts))) // 2)
    return None if passes.recompute else replace(passes, recompute=True)


@torch.no_grad()
def in_parts(
    read: Callable[[Sequence[Group]], Tensor],
    groups: Sequence[Group],
    passes: Passes,
    *holders: Holder | None,
) -> tuple[Tensor, Passes]:
    """What `read` finds of each part's tokens, [N] on the CPU, and the passes that fitted in memory.

    Raises:
        ModelError: Not even one completion fits.
    """
    while True:
        try:
            return torch.cat([read(part).cpu() for part in parts_of(groups, passes)]), passes
        except torch.OutOfMemoryError as error:
            cause = str(error).partition("\n")[0]
        # Outside of the handler, which holds the tensors of what failed.
        less = smaller(passes, groups)
        # Without a backward pass there is nothing to recompute.
        if less is None or less.recompute != passes.recompute:
            raise too_large(groups, cause)
        passes = less
        free(*holders)


def free(*holders: Holder | None) -> None:
    """Give back what is kept between passes; graphs of the size that did not fit will not be wanted again."""
    for holder in holders:
        if holder is not None:
            holder.release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(groups: Sequence[Group], cause: str) -> ModelError:
    """The error of groups of which not even one completion fits."""
    longest = max(len(completion) for group in groups for completion in group.completions)
    return ModelError(
        f"one completion of {longest} tokens does not fit in memory: {cause}",
        "Lower sampling.max_tokens (or distill.horizon), or sampling.batch, whose cache lies beside it.",
    )
