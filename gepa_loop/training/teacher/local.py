"""The teacher: a model that reads the prompt and then the student's own tokens. Its past is computed once.

Most teachers are the student's own model with other adapters; one is a second model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gepa_loop.config.tables import SamplingConfig
from gepa_loop.config.teachers import AnyTeacher
from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Forward, Prefix, read_prefix, renew_prefix
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.training import (
    STACK,
    STUDENT,
    TEACHER,
    as_teacher,
    follow_student,
    student_adapter,
    teacher_adapter,
)
from gepa_loop.model.packed import pack
from gepa_loop.sampling.base import Sampler
from gepa_loop.sampling.choose import open_sampler
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item
from gepa_loop.training.batch import Group, completion_tokens
from gepa_loop.training.head.chunked import Dense, token_logprobs

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass
class LocalTeacher:
    """A model in this process; mutable only in what it keeps for later: its prompts' past, its sampler."""

    base: Base
    """The model that reads: the student's, or another."""
    model: PeftModel | None
    """What holds the adapters; None for another model."""
    adapters: tuple[str, ...]
    """Those it computes with."""
    prompts: Mapping[str, tuple[int, ...]]
    """Item id -> the whole prompt."""
    shared: int
    """How many tokens all prompts begin with."""
    rate: float = 0.0
    """How fast its adapter follows the student's."""
    _prefix: Prefix | None = field(default=None, repr=False)
    _stale: bool = False
    """The weights have moved since the prefix was read."""
    _forward: Forward | None = field(default=None, repr=False)
    _head_VH: Tensor | None = field(default=None, repr=False)
    """Its output layer where the losses are computed: its own, or a copy that is made once."""
    _sampler: Sampler | None = field(default=None, repr=False)

    @property
    def follows(self) -> bool:
        return self.rate > 0

    def after_prefix(self, item: Item) -> tuple[int, ...]:
        return self.prompts[item.id][self.shared :]

    @torch.no_grad()
    def read(self, groups: Sequence[Group], device: torch.device) -> Dense:
        if self.model is None:
            self._refuse_padding(groups)
        with self._weights():
            first = next(iter(self.prompts.values()))[: self.shared]
            if self._prefix is None:
                self._prefix = read_prefix(self.base.model, first)
            elif self._stale:
                # In place, as the graphs of `_forward` hold its address.
                renew_prefix(self.base.model, first, self._prefix)
            self._stale = False
            packed = pack(
                [g.teacher_prompt for g in groups],
                [g.completions for g in groups],
                self._prefix.length,
                self.base.device,
            )
            if self._forward is None:
                self._forward = open_forward(self.base.model)
            states = self._forward(packed, self._prefix)
        if self._head_VH is None or self._head_VH.device != device:
            self._head_VH = self.base.model.get_output_embeddings().weight.to(device)
        return Dense(states.to(device), self._head_VH)

    def _refuse_padding(self, groups: Sequence[Group]) -> None:
        """Output layers of one family have more rows than tokens, and not equally many: what is sampled there is no token."""
        largest = max(max(completion) for group in groups for completion in group.completions)
        if largest >= len(self.base.tokenizer):
            raise ModelError(
                f"teacher.name = {self.base.name!r}: a sampled token, {largest}, is none of the {len(self.base.tokenizer)} of {self.base.name}'s vocabulary",
                "An output layer has more rows than its tokenizer has tokens; a trained model never samples those.",
            )

    def logprobs(self, groups: Sequence[Group], device: torch.device, temperature: float) -> Tensor:
        dense = self.read(groups, device)
        return token_logprobs(*dense, completion_tokens(groups, device), temperature)

    def moved(self) -> None:
        # Between two updates of a step only a teacher that is the student itself has moved; an EMA waits for `follow`.
        self._stale |= STUDENT in self.adapters

    def restored(self) -> None:
        self._stale = True

    def follow(self) -> None:
        if self.follows and self.model is not None:
            follow_student(self.model, self.rate)
            self._stale = True

    def release(self) -> None:
        if self._forward is not None:
            self._forward.release()

    def answers(self, rollouts: Rollouts, stack: Adapter | None, settings: SamplingConfig) -> Rollouts:
        if self.model is None:
            if self._sampler is None:
                self._sampler, _ = open_sampler(self.base, settings)
            # The run's adapters fit the student's model alone.
            return replace(rollouts, sampler=self._sampler, adapter=None)
        values = {STUDENT: student_adapter, TEACHER: teacher_adapter}
        parts = [stack if name == STACK else values[name](self.model) for name in self.adapters]
        own = [part for part in parts if part is not None]
        return rollouts.by(stack_adapters(own) if own else None)

    @contextmanager
    def _weights(self) -> Iterator[None]:
        with nullcontext() if self.model is None else as_teacher(self.model, self.adapters):
            yield


def teacher_text(teacher: AnyTeacher, prompt: str, item: Item) -> str:
    """The teacher's system turn for an item: the prompt, then the privileged field where there is one."""
    if not teacher.privileged:
        return prompt
    shown = teacher.privileged_text.replace("{value}", item.read_field(teacher.privileged))
    return f"{prompt}\n\n{shown}" if prompt else shown
