"""Prompts as values, and the one renderer of teacher and student messages into token ids."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.errors import PromptError
from gepa_loop.files import read_file
from gepa_loop.task import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_PROMPT = ""
"""The student's prompt: no system turn at all."""

LARGEST = 2**20
"""Bytes of the largest prompt file."""


def normalise(text: str) -> str:
    """The one form of a prompt: DSPy dedents instructions the same way, so all readers see equal bytes.

    `inspect.cleandoc`, Unix line ends, no white space at the end of a line, no byte-order mark. Applying it
    again changes nothing.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = inspect.cleandoc(text).split("\n")
    return inspect.cleandoc("\n".join(line.rstrip() for line in lines)).strip("\n")


@dataclass(frozen=True)
class Candidate:
    """A prompt in its normal form. Make it with `candidate`."""

    text: str

    @property
    def id(self) -> str:
        """First 8 hex digits of the sha256 of the text's bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]


def candidate(text: str, source: str) -> Candidate:
    """Normalise a text and check that it can be a prompt.

    Args:
        text: The prompt.
        source: Where it came from, for the message of an error.

    Raises:
        PromptError: Nothing is left after normalising, or there is a control character.
    """
    clean = normalise(text)
    if not clean:
        raise PromptError(f"{source}: the prompt is empty", "Write at least one word into it.")
    for number, line in enumerate(clean.split("\n"), 1):
        for column, char in enumerate(line, 1):
            if unicodedata.category(char) in {"Cc", "Cs"}:
                raise PromptError(
                    f"{source}: control character {char!r} in line {number}, column {column}", "Remove it."
                )
    return Candidate(clean)


def read_prompt(path: Path) -> Candidate:
    """The prompt of a UTF-8 text file.

    Raises:
        PromptError: The file is missing, is no regular file or no UTF-8 text, or does not hold a prompt.
    """
    try:
        text = read_file(path, LARGEST).decode()
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 text (byte {error.start})", "Save it as UTF-8.") from None
    except OSError as error:
        raise PromptError(f"{path}: {error.strerror or error}", "Name an existing text file.") from None
    return candidate(text, str(path))


@dataclass(frozen=True)
class Renderer:
    """Turns (prompt, item) into chat messages and token ids; everything that reads a prompt uses it."""

    tokenizer: PreTrainedTokenizerBase
    context: int
    """Longest sequence of the model, in tokens."""

    def messages(self, prompt: str, item: Item) -> list[dict[str, str]]:
        """The chat turns: the prompt as system turn (none when it is empty), then all turns of the item.

        An item's own system turn stays: it follows the prompt within the same turn, since many chat
        templates take only one.
        """
        turns = [{"role": role, "content": content} for role, content in item.messages]
        if not prompt:
            return turns
        if turns[0]["role"] == "system":
            return [{"role": "system", "content": f"{prompt}\n\n{turns[0]['content']}"}, *turns[1:]]
        return [{"role": "system", "content": prompt}, *turns]

    def tokens(self, prompt: str, item: Item) -> list[int]:
        """Token ids of `messages`, up to where the assistant's reply begins."""
        return self.encode(self.messages(prompt, item))

    def all_tokens(self, prompt: str, items: Sequence[Item]) -> list[list[int]]:
        """`tokens` of each item, encoded in one call: a fast tokenizer uses all cores."""
        texts = [self.text(prompt, item) for item in items]
        return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of chat messages with the generation suffix."""
        return list(self.tokenizer(self._template(messages), add_special_tokens=False)["input_ids"])

    def text(self, prompt: str, item: Item) -> str:
        """What `tokens` encodes."""
        return self._template(self.messages(prompt, item))

    def _template(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def check(self, prompt: str, items: Sequence[Item], horizon: int, source: str) -> None:
        """Check, before anything is spent, that the prompt can be read with every item.

        Args:
            prompt: The prompt's text.
            items: The items it will be read with.
            horizon: Longest completion, in tokens.
            source: Where the prompt came from, for the message of an error.

        Raises:
            PromptError: Prompt, item and horizon do not fit the context; the chat template refuses the
                prompt; a text contains one of the model's special tokens; or teacher and student would
                start their replies after different tokens.
        """
        import jinja2

        for item in items:
            self.refuse_special_tokens([prompt], source)
            self.refuse_special_tokens([content for _, content in item.messages], f"item {item.id}")
            try:
                teacher, student = self.tokens(prompt, item), self.tokens(NO_PROMPT, item)
                suffix = self.suffix(item)
            except jinja2.TemplateError as error:
                raise PromptError(f"{source}: the model's chat template refuses it: {error}") from None
            if len(teacher) + horizon > self.context:
                raise PromptError(
                    f"{source}: prompt and question take {len(teacher)} tokens and a completion up to {horizon}, "
                    f"over the model's context of {self.context}",
                    "Shorten the prompt or lower sampling.max_tokens; nothing is ever cut.",
                )
            if not suffix or teacher[-len(suffix) :] != suffix or student[-len(suffix) :] != suffix:
                raise PromptError(f"{source}: the chat template ends differently with and without the prompt")

    def suffix(self, item: Item) -> list[int]:
        """The tokens that start the assistant's reply."""
        messages = self.messages(NO_PROMPT, item)
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        closed = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        opened = self.encode(messages)
        # Token by token: some templates close a chat with a token that the generation prompt replaces.
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(opened, closed, strict=False))
        return opened[sum(1 for _ in same) :]

    def refuse_special_tokens(self, texts: Sequence[str], source: str) -> None:
        """Raise PromptError when a text contains one of the model's special tokens; `source` says where it is from."""
        special = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        for token in sorted(special.union(self.tokenizer.all_special_tokens)):
            if any(token in text for text in texts):
                raise PromptError(
                    f"{source}: contains {token!r}, a special token of the model",
                    "It would be read as the end or start of a turn; write it differently.",
                )
