"""Chats with a student, and with the model that it came from, as they were trained: same renderer, same sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gepa_loop.errors import PromptError
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.origin import check_origin
from gepa_loop.sampling.base import Completion, Sampler, Sampling
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
        asked = limits or [sampling.max_tokens] * len(chats)
        # Each row has its own room, whatever the others take.
        most = [
            min(limit, self.check_room(len(prompt))) for limit, prompt in zip(asked, prompts, strict=True)
        ]
        adapter = self.student if who == "student" else None
        found: list[Completion] = []
        for part in self._parts(prompts, most):
            horizon = Sampling(sampling.temperature, max(most[n] for n in part))
            found += self.sampler.generate(
                [prompts[n] for n in part], horizon, [seeds[n] for n in part], adapter
            )
        return [
            Reply(
                self.renderer.reply(one.token_ids[:limit]),
                len(prompt),
                min(limit, len(one.token_ids)),
                one.finish_reason == "length" or limit < len(one.token_ids),
            )
            for one, prompt, limit in zip(found, prompts, most, strict=True)
        ]

    def _parts(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[range]:
        """What is decoded together: all rows, or where those would outgrow the context each by itself."""
        if max(map(len, prompts)) + max(limits) <= self.renderer.context:
            return [range(len(prompts))]
        return [range(n, n + 1) for n in range(len(prompts))]

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
        texts = [content for _, content in chat]
        if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
            raise PromptError("the chat: not UTF-8 text", "Send it as UTF-8.")
        self.renderer.refuse_special_tokens(texts, "the chat")
        prompt = self.finished.prompt.text if who == "prompted" else NO_PROMPT
        return self.renderer.tokens(prompt, Item("chat:1", chat, "", {}))


def open_talker(finished: Finished) -> Talker:
    """Load a run's model and student.

    Args:
        finished: The run.

    Raises:
        ModelError: The model or the adapter cannot be read, or they do not belong together.
        ConfigError: The engine cannot generate here.
    """
    config = finished.config
    base = load_base(config.model)
    student = read_adapter(finished.adapter)
    check_origin(student.origin, base.origin, str(finished.adapter))
    sampler, engine = open_sampler(base, config.sampling)
    chat = Chat(config.model.template, finished.day, config.model.system)
    return Talker(finished, base, Renderer(base.tokenizer, base.context, chat), sampler, student, engine)
