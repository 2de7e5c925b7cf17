"""Where a finished student and the model that reads its prompt disagree, token by token of the student's own replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gepa_loop.lab import Lab
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Eager
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import TEACHER, add_teacher, remove_lora, with_lora
from gepa_loop.sampling.base import Completion
from gepa_loop.sampling.batches import shared_length
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.training.agreement import reply_groups, token_divergences
from gepa_loop.training.passes import Passes, plan_passes
from gepa_loop.training.teacher.local import LocalTeacher


@dataclass(frozen=True)
class Distance:
    """Reads replies twice; it holds while `opened` is open."""

    base: Base
    teacher: LocalTeacher
    renderer: Renderer
    passes: Passes

    def read(self, items: Sequence[Item], completions: Sequence[Completion]) -> list[list[float]]:
        """KL(student || prompted model) in nats at each token of one completion of each item, over the whole vocabulary.

        Raises:
            ModelError: Not even one completion fits in memory.
        """
        questions = self.renderer.all_tokens(NO_PROMPT, items)
        groups = reply_groups(self.teacher, items, questions, completions)
        found, _ = token_divergences(self.base, self.teacher, groups, self.passes, Eager(self.base.model))
        return [own_T.tolist() for own_T in found]


@contextmanager
def opened(
    lab: Lab, prompt: str, below: Adapter | None, student: Adapter, items: Sequence[Item]
) -> Iterator[Distance]:
    """Put a whole student, and what its prompt was made for, on the lab's base, which carries no adapters before and afterwards.

    Args:
        lab: Of the run.
        prompt: The teacher's.
        below: What reads it: the adapter of the earlier rounds; None is the base alone.
        student: The student's adapter with that of the earlier rounds, as one.
        items: What will be read.
    """
    base, renderer, config = lab.base, lab.rollouts.renderer, lab.config
    # The student stands where training has the earlier rounds' adapters; what training would add to it is 0.
    model = with_lora(base, config.lora, 0, student)
    try:
        if below is not None:
            add_teacher(base, model, below, "the earlier rounds' adapter")
        whole = renderer.all_tokens(prompt, items)
        prompts = {item.id: tuple(tokens) for item, tokens in zip(items, whole, strict=True)}
        same = shared_length(list(prompts.values())) if prompt else 0
        teacher = LocalTeacher(base, model, () if below is None else (TEACHER,), prompts, same)
        longest = max(map(len, prompts.values())) + config.sampling.max_tokens
        yield Distance(base, teacher, renderer, plan_passes(config.distill, base, longest))
    finally:
        remove_lora(model)
