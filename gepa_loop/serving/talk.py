"""Chats with a student, and with the model that it came from, as they were trained: same renderer, same sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gepa_loop.config.tables import SamplingConfig
from gepa_loop.errors import PromptError
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.origin import check_origin
from gepa_loop.sampling.base import Sampler, Sampling
from gepa_loop.sampling.choose import open_sampler
from gepa_loop.serving.finished import Finished
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.task.records import Item, Messages
from gepa_loop.task.template import Chat

Who = Literal["student", "bare", "prompted"]
"""The student without a prompt, the model without one, and the model with the prompt that the student was made of."""


@dataclass(frozen=True)
class Reply:
    """What was said."""

    text: str
    prompt_tokens: int
    tokens: int
    """Of the reply, its end of turn among them."""
    cut: bool


@dataclass(frozen=True)
class Talker:
    """A student's run, loaded to answer."""

    finished: Finished
    base: Base
    renderer: Renderer
    sampler: Sampler
    student: Adapter
    engine: str

    def reply(
        self,
        who: Who,
        chats: Sequence[Messages],
        sampling: Sampling,
        seeds: Sequence[int],
        limits: Sequence[int] | None = None,
    ) -> list[Reply]:
        """Answer chats, all in one batch.

        Args:
            who: Who answers.
            chats: (role, content) turns, of which the last is the user's.
            sampling: Temperature and length; a reply ends at the model's context in any case.
            seeds: One for each; the same gives the same reply, whatever it is answered with.
            limits: Tokens of each one's longest reply, where that is shorter.

        Raises:
            PromptError: A chat does not fit the context, or holds a special token of the model.
            ModelError: The chat template refuses its turns.
        """
        prompts = [self.tokens(who, chat) for chat in chats]
        room = self.check_room(max(map(len, prompts)))
        asked = Sampling(sampling.temperature, min(sampling.max_tokens, room))
        adapter = self.student if who == "student" else None
        found = self.sampler.generate(prompts, asked, seeds, adapter)
        most = limits or [sampling.max_tokens] * len(chats)
        return [
            Reply(
                self.renderer.reply(one.token_ids[:limit]),
                len(prompt),
                min(limit, len(one.token_ids)),
                one.finish_reason == "length" or limit < len(one.token_ids),
            )
            for one, prompt, limit in zip(found, prompts, most, strict=True)
        ]

    def check_room(self, tokens: int) -> int:
        """Tokens that a chat of so many leaves for its reply; raises PromptError where it leaves none."""
        room = self.renderer.context - tokens
        if room < 1:
            raise PromptError(
                f"the chat takes {tokens:,} tokens, and the model's context has {self.renderer.context:,}",
                "Begin a new one.",
            )
        return room

    def tokens(self, who: Who, chat: Messages) -> list[int]:
        """Token ids of a chat, as the one who answers reads it."""
        self.renderer.refuse_special_tokens([content for _, content in chat], "the chat")
        prompt = self.finished.prompt.text if who == "prompted" else NO_PROMPT
        return self.renderer.tokens(prompt, Item("chat:1", chat, "", {}))


def open_talker(finished: Finished, batch: int | None = None) -> Talker:
    """Load a run's model and student.

    Args:
        finished: The run.
        batch: Most chats answered together; None is `sampling.batch`.

    Raises:
        ModelError: The model or the adapter cannot be read, or they do not belong together.
        ConfigError: The engine cannot generate here.
    """
    config = finished.config
    base = load_base(config.model)
    student = read_adapter(finished.adapter)
    check_origin(student.origin, base.origin, str(finished.adapter))
    settings: SamplingConfig = config.sampling
    if batch is not None:
        settings = settings.model_copy(update={"batch": batch})
    sampler, engine = open_sampler(base, settings)
    chat = Chat(config.model.template, finished.day, config.model.system)
    return Talker(finished, base, Renderer(base.tokenizer, base.context, chat), sampler, student, engine)
