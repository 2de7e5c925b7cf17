"""How far a student is from the prompted model on replies of its own that nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gepa_loop.model.base import Base
from gepa_loop.model.forward import Forward
from gepa_loop.sampling.base import Completion
from gepa_loop.task.items import Item
from gepa_loop.training.batch import Group, completion_tokens
from gepa_loop.training.gradient import NO_PREFIX, packed_questions
from gepa_loop.training.head.chunked import token_stats
from gepa_loop.training.passes import Passes, in_parts

if TYPE_CHECKING:
    from gepa_loop.training.teacher.base import Teacher


def reply_groups(
    teacher: Teacher,
    items: Sequence[Item],
    questions: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    student: int = 0,
) -> list[Group]:
    """A student's replies as a teacher reads them, one group an item.

    Args:
        teacher: Has prompts of these items.
        items: What was asked.
        questions: Their tokens without a prompt.
        completions: The student's, the same number of each item, item by item.
        student: Its number in the model.
    """
    each = len(completions) // len(items)
    return [
        Group(
            tuple(question),
            teacher.after_prefix(item),
            tuple(c.token_ids for c in completions[each * place : each * (place + 1)]),
            student,
        )
        for place, (item, question) in enumerate(zip(items, questions, strict=True))
    ]


@torch.no_grad()
def divergences(
    base: Base, teacher: Teacher, groups: Sequence[Group], passes: Passes, forward: Forward
) -> tuple[list[float], Passes]:
    """KL(student || teacher) of each group's completions in nats, mean over their tokens; all else as of `token_divergences`."""
    found, passes = token_divergences(base, teacher, groups, passes, forward)
    return [float(own_N.mean()) for own_N in found], passes


@torch.no_grad()
def token_divergences(
    base: Base, teacher: Teacher, groups: Sequence[Group], passes: Passes, forward: Forward
) -> tuple[list[torch.Tensor], Passes]:
    """KL(student || teacher) at each token of each group's completions in nats, the whole vocabulary at temperature 1.

    Args:
        base: The model, with the student's adapter active.
        teacher: Reads the prompt.
        groups: From `reply_groups`.
        passes: How they are cut.
        forward: Runs it.

    Returns:
        A group's tokens each, [N] on the CPU, and the passes that fitted in memory.

    Raises:
        ModelError: Not even one completion fits in memory.
    """
    head = base.model.get_output_embeddings().weight

    def read(part: Sequence[Group]) -> torch.Tensor:
        dense = teacher.read(part, base.device)
        states = forward(packed_questions(part, base), NO_PREFIX)
        return token_stats(states, head, completion_tokens(part, base.device), dense).reverse_kl_N

    kl_N, passes = in_parts(read, groups, passes, teacher, forward)
    return list(torch.split(kl_N, [group.tokens for group in groups])), passes
