"""Prompts as values, and the one renderer of teacher and student messages into token ids."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.errors import ModelError, PromptError
from gepa_loop.outside.files import read_file
from gepa_loop.task.answers import CLOSING, OPENING
from gepa_loop.task.items import Item
from gepa_loop.task.template import Chat, Habits, try_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_PROMPT = ""
"""The student's prompt: none; what it reads in its place says `model.system`."""

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
    """Turns (prompt, item) into chat messages and token ids; everything that reads a prompt uses it.

    Tokenizers are asked with `verbose=False`: what is over the context is an error of ours, with its item, and no warning of theirs.
    """

    tokenizer: PreTrainedTokenizerBase
    context: int
    """Longest sequence of the model, in tokens."""
    chat: Chat = field(default_factory=Chat)

    @cached_property
    def habits(self) -> Habits:
        """What the chat template does with system turns; raises as `try_template` does."""
        return try_template(self.tokenizer, self.chat)

    def messages(self, prompt: str, item: Item) -> list[dict[str, str]]:
        """The chat turns: the prompt as system turn, then all turns of the item.

        An item's own system turn stays: it follows the prompt within the same turn, since many chat
        templates take only one. Without either there is none, or an empty one where the template would put its own
        there. Where the template refuses system turns, the head of the first user turn is their place.
        """
        turns = [{"role": role, "content": content} for role, content in item.messages]
        parts = [prompt] if prompt else []
        if turns[0]["role"] == "system":
            parts.append(turns.pop(0)["content"])
        text = "\n\n".join(parts)
        if not self.habits.folds:
            return [{"role": "system", "content": text}, *turns] if parts or self.habits.bare else turns
        first = next((n for n, turn in enumerate(turns) if turn["role"] == "user"), None)
        if text and first is not None:
            turns[first] = {"role": "user", "content": f"{text}\n\n{turns[first]['content']}"}
        return turns

    def system_tokens(self, prompt: str, item: Item) -> int:
        """Tokens that a chat with this prompt takes beyond the question alone."""
        alone = Renderer(self.tokenizer, self.context, replace(self.chat, system="none"))
        return len(self.tokens(prompt, item)) - len(alone.tokens(NO_PROMPT, item))

    def prompt_tokens(self, prompt: str) -> int:
        """Tokens of a prompt's own text, without those that a tokenizer puts at the beginning of a whole one."""
        return len(self.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])

    def tokens(self, prompt: str, item: Item) -> list[int]:
        """Token ids of `messages`, up to where the assistant's reply begins."""
        return self.encode(self.messages(prompt, item))

    def all_tokens(self, prompt: str, items: Sequence[Item]) -> list[list[int]]:
        """`tokens` of each item."""
        return self.tokens_of([(prompt, item) for item in items])

    def tokens_of(self, pairs: Sequence[tuple[str, Item]]) -> list[list[int]]:
        """`tokens` of each pair, encoded in one call: a fast tokenizer uses all cores."""
        texts = [self.text(prompt, item) for prompt, item in pairs]
        return (
            list(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]) if texts else []
        )

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of chat messages with the generation suffix."""
        return list(
            self.tokenizer(self._template(messages), add_special_tokens=False, verbose=False)["input_ids"]
        )

    def text(self, prompt: str, item: Item) -> str:
        """What `tokens` encodes."""
        return self._template(self.messages(prompt, item))

    def _template(self, messages: list[dict[str, str]]) -> str:
        return self.chat.render(self.tokenizer, messages)

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
        for item in items:
            self.refuse_special_tokens([prompt], source)
            self.refuse_special_tokens([content for _, content in item.messages], f"item {item.id}")
            try:
                teacher, student = self.tokens(prompt, item), self.tokens(NO_PROMPT, item)
                suffix = self.suffix(item)
            except ModelError as error:
                raise PromptError(f"{source}, item {item.id}: {error}", error.hint) from None
            if prompt and teacher == student:
                raise PromptError(f"{source}: the model's chat template drops it")
            if len(teacher) + horizon > self.context:
                raise PromptError(
                    f"{source}, item {item.id}: prompt and question take {len(teacher)} tokens and a completion up to {horizon}, "
                    f"over the model's context of {self.context}",
                    "Leave out that item, shorten the prompt or lower sampling.max_tokens; nothing is ever cut.",
                )
            endings = {tuple(side[len(side) - max(1, len(suffix)) :]) for side in (teacher, student)}
            if len(endings) > 1 or (suffix and tuple(suffix) not in endings):
                raise PromptError(f"{source}: the chat template ends differently with and without the prompt")

    def check_all(self, prompt: str, items: Sequence[Item], horizon: int, source: str) -> None:
        """`check` of all items: by the first and the longest, and each for special tokens."""
        self.check(prompt, [items[0], self.longest(items)], horizon, source)
        for item in items:
            self.refuse_special_tokens([content for _, content in item.messages], f"item {item.id}")

    def longest(self, items: Sequence[Item]) -> Item:
        """The item with most tokens, to which any prompt adds the same; a short text may have many.

        Raises:
            PromptError: The chat template refuses an item.
        """
        try:
            lengths = [len(tokens) for tokens in self.all_tokens(NO_PROMPT, items)]
        except ModelError:
            for item in items:
                self.check(NO_PROMPT, [item], 0, "the chat template")  # which names the item
            raise
        return items[lengths.index(max(lengths))]

    def reply(self, tokens: Sequence[int]) -> str:
        """The text of a completion, without special tokens but for the marks of a thought."""
        runs = itertools.groupby(tokens, self._thought_marks.get)
        return "".join(
            mark * len(list(ids)) if mark else self.tokenizer.decode(list(ids), skip_special_tokens=True)
            for mark, ids in runs
        )

    @cached_property
    def _thought_marks(self) -> dict[int, str]:
        """Special tokens that begin or end a thought, which is read as a part of the answer where they are dropped."""
        special = self.tokenizer.added_tokens_decoder.items()
        return {n: t.content for n, t in special if t.special and t.content in (*OPENING, *CLOSING)}

    def suffix(self, item: Item) -> list[int]:
        """The tokens that start the assistant's reply; none where the template has no generation prompt."""
        messages = self.messages(NO_PROMPT, item)
        text = self.chat.render(self.tokenizer, messages, generate=False)
        closed = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        opened = self.encode(messages)
        # Token by token: some templates close a chat with a token that the generation prompt replaces.
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(opened, closed, strict=False))
        return opened[sum(1 for _ in same) :]

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The model's; some have thousands, which take longer to list than to look for."""
        special = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        return tuple(sorted(special.union(self.tokenizer.all_special_tokens)))

    def refuse_special_tokens(self, texts: Sequence[str], source: str) -> None:
        """Raise PromptError when a text contains one of the model's special tokens; `source` says where it is from."""
        for token in self.special_tokens:
            if any(token in text for text in texts):
                raise PromptError(
                    f"{source}: contains {token!r}, a special token of the model",
                    "It would be read as the end or start of a turn; write it differently.",
                )
