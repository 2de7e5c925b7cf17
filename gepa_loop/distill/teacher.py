"""The teacher: a model that reads the prompt and then the student's own tokens. Its past is computed once.

Most teachers are the student's own model with other adapters; one is a second model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gepa_loop.config import Config
from gepa_loop.distill.batch import Group, completion_tokens, pack
from gepa_loop.distill.forward import Forward, Prefix, open_forward, read_prefix, renew_prefix
from gepa_loop.distill.head import Dense, TopK, token_logprobs
from gepa_loop.errors import ConfigError, ModelError, PromptError
from gepa_loop.lab import Lab
from gepa_loop.lora import Adapter, read_adapter, stack_adapters
from gepa_loop.lora_training import (
    STACK,
    STUDENT,
    TEACHER,
    add_teacher,
    as_teacher,
    follow_student,
    remove_lora,
    student_adapter,
    teacher_adapter,
    with_lora,
)
from gepa_loop.models import Base
from gepa_loop.origin import check_origin
from gepa_loop.prompts import NO_PROMPT, Renderer
from gepa_loop.recipe import GRPO, SequenceKL, Teacher, TokenKL, on_policy_share
from gepa_loop.sampling.base import Sampler
from gepa_loop.sampling.batches import shared_length
from gepa_loop.sampling.engines import open_sampler, resolve_engine
from gepa_loop.schema import SamplingConfig
from gepa_loop.task import Item

if TYPE_CHECKING:
    from peft import PeftModel


class Reader(Protocol):
    """What reads completions after prompts of its own, without gradients."""

    @property
    def prompts(self) -> Mapping[str, tuple[int, ...]]:
        """Item id -> the whole prompt."""
        ...

    @property
    def follows(self) -> bool:
        """It has an adapter of its own that follows the student's."""
        ...

    def rest(self, item: Item) -> tuple[int, ...]:
        """An item's prompt without the part that is computed once."""
        ...

    def read(self, groups: Sequence[Group], device: torch.device) -> Dense | TopK:
        """Its distributions at the positions that predict the groups' completion tokens, on `device`."""
        ...

    def logprobs(self, groups: Sequence[Group], device: torch.device, temperature: float) -> Tensor:
        """Its log-probability of each completion token at a temperature, [N] float32 on `device`."""
        ...

    def moved(self) -> None:
        """Take note that an update has moved the student."""
        ...

    def restored(self) -> None:
        """Take note that weights of a checkpoint were put back."""
        ...

    def follow(self) -> None:
        """Follow the student, whose step is over."""
        ...

    def release(self) -> None:
        """Give back the memory that is held between calls and can be done without."""
        ...

    def sampler(self, own: Sampler, stack: Adapter | None, settings: SamplingConfig) -> Sampler:
        """What samples from it: the run's own sampler with its adapters, or one for another model."""
        ...


@dataclass
class LocalReader:
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
    _sampler: Sampler | None = field(default=None, repr=False)

    @property
    def follows(self) -> bool:
        return self.rate > 0

    def rest(self, item: Item) -> tuple[int, ...]:
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
        return Dense(states.to(device), self.base.model.get_output_embeddings().weight.to(device))

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

    def sampler(self, own: Sampler, stack: Adapter | None, settings: SamplingConfig) -> Sampler:
        if self.model is None:
            if self._sampler is None:
                self._sampler, _ = open_sampler(self.base, settings)
            return self._sampler
        values = {STUDENT: student_adapter, TEACHER: teacher_adapter}
        parts = [stack if name == STACK else values[name](self.model) for name in self.adapters]
        own.set_student(stack_adapters([part for part in parts if part is not None]) if parts else None)
        return own

    @contextmanager
    def _weights(self) -> Iterator[None]:
        with nullcontext() if self.model is None else as_teacher(self.model, self.adapters):
            yield


def open_reader(lab: Lab, model: PeftModel, prompt: str) -> Reader | None:
    """What reads besides the student: the teacher with its prompt, the base without one for `grpo`, or nothing.

    Args:
        lab: Its base carries `model`'s adapters. It reads items of `train`, and of `pareto` where no privileged field is read.
        model: The student's adapter and the stack.
        prompt: The teacher's.

    Raises:
        ModelError: The teacher cannot be reached, or its vocabulary is not the student's.
        PromptError: A prompt and the horizon do not fit a context, a privileged text contains a special token, or the
            replies would start differently.
        TaskError: An item lacks the privileged field.
    """
    config, base, renderer, items = lab.config, lab.base, lab.rollouts.renderer, lab.task.splits["train"]
    if not config.teacher.privileged:
        items = (*items, *lab.task.splits["pareto"])
    teacher, horizon = config.teacher, config.distill.longest(config.sampling.max_tokens)
    stack = (STACK,) if STACK in model.peft_config else ()
    questions = renderer.all_tokens(NO_PROMPT, items)
    own = {item.id: tuple(tokens) for item, tokens in zip(items, questions, strict=True)}
    _check_room(own, horizon, renderer.context, "a question")
    if isinstance(config.objective, GRPO):
        return LocalReader(base, model, stack, own, 0) if config.objective.kl_tau else None
    texts = {item.id: teacher_text(teacher, prompt, item) for item in items}
    if teacher.privileged:
        for item in items:
            renderer.refuse_special_tokens(
                [texts[item.id]], f"teacher.privileged = {teacher.privileged!r}, item {item.id}"
            )
    reads, names, rate = base, stack, 0.0
    owner: PeftModel | None = model
    if teacher.kind == "live":
        names = (*stack, STUDENT)
    elif teacher.kind == "ema":
        add_teacher(base, model, student_adapter(model), "lora.targets")
        names, rate = (*stack, TEACHER), teacher.rate
    elif teacher.kind == "adapter":
        other, source = read_adapter(Path(teacher.path)), f"teacher.path = {teacher.path!r}"
        add_teacher(base, model, other, source)
        check_origin(other.origin, base.origin, source)
        names = (TEACHER,)
    elif teacher.kind == "model":
        assert lab.teacher is not None, "lab.for_training() loads it"
        reads, owner, names = lab.teacher, None, ()
        renderer = _renderer(reads, base, renderer, items[0])
    prompts = {item.id: tuple(renderer.tokens(texts[item.id], item)) for item in items}
    if teacher.kind == "server":
        from gepa_loop.distill.server import open_server

        rows = len(base.model.get_output_embeddings().weight)
        return open_server(teacher, prompts, rows, renderer.text(texts[items[0].id], items[0]), horizon)
    _check_room(prompts, horizon, renderer.context, "the teacher's prompt")
    # The empty prompt shares nothing: then teacher and student read the same tokens in the same shapes, and their
    # divergence is exactly 0 rather than 0 up to rounding.
    same = shared_length(list(prompts.values())) if any(texts.values()) else 0
    return LocalReader(reads, owner, names, prompts, same, rate)


def check_teacher(lab: Lab, prompt: str) -> None:
    """Open the teacher as a distillation does, and close it again, so that what does not fit is found before anything is spent.

    Raises:
        ConfigError: As `open_reader` and `with_lora` do, or because the sampler cannot run a teacher that samples.
    """
    config, other = lab.config, lab.teacher
    if other is not None and on_policy_share(config.distill, config.objective, config.teacher) < 1:
        try:
            resolve_engine(other, config.sampling)
        except ConfigError as error:
            hint = error.hint.replace("model.device", "teacher.device")
            raise ConfigError(f"teacher.name = {other.name!r}: {error}", hint) from error
    model = with_lora(lab.base, lab.config.lora, 0, None)
    try:
        open_reader(lab, model, prompt)
    finally:
        remove_lora(model)


def teacher_text(teacher: Teacher, prompt: str, item: Item) -> str:
    """The teacher's system turn for an item: the prompt, then the privileged field where there is one."""
    if not teacher.privileged:
        return prompt
    shown = teacher.privileged_text.replace("{value}", item.read_field(teacher.privileged))
    return f"{prompt}\n\n{shown}" if prompt else shown


def reads_before(config: Config) -> bool:
    """Whether log-probabilities of the step's tokens are needed before the student trains on them."""
    return isinstance(config.objective, TokenKL | SequenceKL | GRPO)


def _renderer(teacher: Base, student: Base, renderer: Renderer, item: Item) -> Renderer:
    where = f"teacher.name = {teacher.name!r}"
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ModelError(
            f"{where}: its vocabulary is not that of {student.name}",
            "Its probabilities are of other tokens; choose a teacher of the same family.",
        )
    own = Renderer(teacher.tokenizer, teacher.context, renderer.chat)
    try:
        sides = [own.suffix(item), renderer.suffix(item)]
    except ModelError as error:
        raise ModelError(f"{where}: {error}", error.hint) from error
    if sides[0] != sides[1]:
        raise PromptError(
            f"{where}: its chat template starts a reply with other tokens than {student.name}'s"
        )
    return own


def _check_room(prompts: Mapping[str, tuple[int, ...]], horizon: int, context: int, what: str) -> None:
    longest = max(map(len, prompts.values()))
    if longest + horizon > context:
        raise PromptError(
            f"{what} takes {longest} tokens and a completion up to {horizon}, over the model's context of {context}",
            "Shorten the prompt, or lower sampling.max_tokens or distill.horizon; nothing is ever cut.",
        )
