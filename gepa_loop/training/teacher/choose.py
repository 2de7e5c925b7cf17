"""Which teacher a config asks for, and whether it can be had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.recipe import on_policy_share
from gepa_loop.errors import ConfigError, ModelError, PromptError
from gepa_loop.lab import Lab
from gepa_loop.model.base import Base
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.lora.training import (
    STACK,
    STUDENT,
    TEACHER,
    add_teacher,
    remove_lora,
    student_adapter,
    with_lora,
)
from gepa_loop.model.origin import check_origin
from gepa_loop.sampling.batches import shared_length
from gepa_loop.sampling.choose import resolve_engine
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.training.teacher.base import Teacher
from gepa_loop.training.teacher.local import LocalTeacher, teacher_text

if TYPE_CHECKING:
    from peft import PeftModel


def open_teacher(lab: Lab, model: PeftModel, prompt: str) -> Teacher | None:
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
    settings, horizon = config.teacher, config.distill.longest(config.sampling.max_tokens)
    stack = (STACK,) if STACK in model.peft_config else ()
    questions = renderer.all_tokens(NO_PROMPT, items)
    own = {item.id: tuple(tokens) for item, tokens in zip(items, questions, strict=True)}
    _check_room(own, horizon, renderer.context, "a question")
    if config.objective.reward_alone:
        return LocalTeacher(base, model, stack, own, 0) if config.objective.anchored else None
    texts = {item.id: teacher_text(settings, prompt, item) for item in items}
    if settings.privileged:
        for item in items:
            renderer.refuse_special_tokens(
                [texts[item.id]], f"teacher.privileged = {settings.privileged!r}, item {item.id}"
            )
    reads, names, rate = base, stack, 0.0
    owner: PeftModel | None = model
    if settings.kind == "live":
        names = (*stack, STUDENT)
    elif settings.kind == "ema":
        add_teacher(base, model, student_adapter(model), "lora.targets")
        names, rate = (*stack, TEACHER), settings.rate
    elif settings.kind == "adapter":
        other, source = read_adapter(Path(settings.path)), f"teacher.path = {settings.path!r}"
        add_teacher(base, model, other, source)
        check_origin(other.origin, base.origin, source)
        names = (TEACHER,)
    elif settings.kind == "model":
        assert lab.teacher is not None, "lab.for_training() loads it"
        reads, owner, names = lab.teacher, None, ()
        renderer = _renderer(reads, base, renderer, items[0])
    whole = renderer.tokens_of([(texts[item.id], item) for item in items])
    prompts = {item.id: tuple(tokens) for item, tokens in zip(items, whole, strict=True)}
    if settings.kind == "server":
        from gepa_loop.training.teacher.server import open_server

        rows = len(base.model.get_output_embeddings().weight)
        return open_server(settings, prompts, rows, renderer.text(texts[items[0].id], items[0]), horizon)
    _check_room(prompts, horizon, renderer.context, "the teacher's prompt")
    # The empty prompt shares nothing: then teacher and student read the same tokens in the same shapes, and their
    # divergence is exactly 0 rather than 0 up to rounding.
    same = shared_length(list(prompts.values())) if any(texts.values()) else 0
    return LocalTeacher(reads, owner, names, prompts, same, rate)


def check_teacher(lab: Lab, prompt: str) -> None:
    """Open the teacher as a distillation does, and close it again, so that what does not fit is found before anything is spent.

    Raises:
        ConfigError: As `open_teacher` and `with_lora` do, or because the sampler cannot run a teacher that samples.
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
        open_teacher(lab, model, prompt)
    finally:
        remove_lora(model)


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
