"""A model's chat template: what it is given besides the turns, and what it makes of system turns."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from gepa_loop.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Sequence[Mapping[str, str]]

OWN = {
    "messages",
    "conversation",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
}
"""What every rendering gives `apply_chat_template` itself."""

QUESTION, INSTRUCTION, ANSWER = "QUESTION", "INSTRUCTION", "ANSWER"
"""What stands in the turns by which a template is tried."""


_CLOCK = re.compile(r"""\bstrftime_now\s*\(\s*(["'])([^"']*)\1\s*\)""")
"""How templates ask for the date."""
_OTHER_CLOCK = re.compile(r"\bstrftime_now\b(?!\s+is\b)")
"""Any other way to the date than that, but for the question whether there is one."""
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)


@dataclass(frozen=True)
class Chat:
    """What a template is given besides the turns; fixed for a run."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Its own arguments, as `enable_thinking`."""
    day: str = ""
    """The date that it is told is today's, YYYY-MM-DD; empty is the machine's."""
    system: Literal["none", "empty", "template"] = "none"
    """`model.system`."""

    def render(self, tokenizer: PreTrainedTokenizerBase, turns: Turns, generate: bool = True) -> str:
        """The text of some turns, up to where a reply begins if `generate`.

        Raises:
            ModelError: The template refuses them; templates raise anything.
        """
        import jinja2

        faults = (
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        )
        try:
            text = tokenizer.apply_chat_template(
                turns,
                chat_template=self.dated(tokenizer.get_chat_template()),
                tokenize=False,
                add_generation_prompt=generate,
                **self.arguments,
            )
            return str(text)
        except faults as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(f"its chat template refuses {_roles(turns)}: {reason}") from error

    def dated(self, source: str) -> str:
        """The template with its date written out: transformers hands templates no function but its own clock."""
        if not self.day:
            return source
        day = date.fromisoformat(self.day)
        fixed = _CLOCK.sub(lambda call: json.dumps(day.strftime(call[2])), source)
        if _OTHER_CLOCK.search(_COMMENT.sub("", fixed)):
            raise ValueError(
                "it asks for the date otherwise than by strftime_now with a format in plain text"
            )
        return fixed


@dataclass(frozen=True)
class Habits:
    """What a template does with system turns."""

    folds: bool
    """It refuses them: a prompt stands at the head of the first user turn."""
    adds: str
    """What it puts into a chat that has none."""
    bare: bool
    """A chat without a prompt is given an empty system turn."""
    dated: bool
    """It writes the date."""


def try_template(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> Habits:
    """Find out what a template does.

    Raises:
        ConfigError: `model.system` cannot be had.
        ModelError: The template refuses a plain chat, drops system turns, or does not open the assistant's turn.
    """
    user, system = {"role": "user", "content": QUESTION}, {"role": "system", "content": INSTRUCTION}
    plain = chat.render(tokenizer, [user])
    _check_opening(tokenizer, chat, user, plain)
    dated = plain != Chat(chat.arguments, "1999-01-01", chat.system).render(tokenizer, [user])
    try:
        prompted = chat.render(tokenizer, [system, user])
    except ModelError as error:
        if chat.system == "empty":
            raise ConfigError(f"model.system = 'empty': {error}", "Set it to none.") from error
        return Habits(True, "", False, dated)
    if INSTRUCTION not in prompted:
        raise ModelError(
            "its chat template drops system turns, so no prompt would reach the model",
            "Use a tokenizer whose chat_template renders the system turn, or puts it into the first user turn.",
        )
    adds = _own_part(*(text.partition(QUESTION)[0] for text in (plain, prompted)))
    if chat.system == "template" or not (adds or chat.system == "empty"):
        return Habits(False, adds, False, dated)
    stubborn = bool(adds) and adds in chat.render(tokenizer, [{"role": "system", "content": ""}, user])
    if stubborn and chat.system == "empty":
        raise ConfigError(
            f"model.system = 'empty': the chat template puts {adds!r} into an empty system turn, too",
            "Set it to none.",
        )
    return Habits(False, adds, not stubborn, dated)


def check_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a template does not read, or that are not for the config to give.

    Raises:
        ConfigError: Names the first.
    """
    for name in arguments:
        if name in OWN:
            raise ConfigError(
                f"model.template.{name}: that is given with each chat and cannot be set",
                "Set only what the template adds to it, as enable_thinking; leave this one out.",
            )
        if not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            raise ConfigError(
                f"model.template.{name}: the chat template of the model reads nothing of this name",
                "Check the spelling in the model's chat_template.",
            )


def _check_opening(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, user: Mapping[str, str], plain: str
) -> None:
    """A template without a generation prompt is fine where a reply follows the question at once (Mistral, Llama 2)."""
    if plain != chat.render(tokenizer, [user], generate=False):
        return
    answered = chat.render(tokenizer, [user, {"role": "assistant", "content": ANSWER}], generate=False)
    header = answered.removeprefix(plain).partition(ANSWER)[0].strip()
    if not answered.startswith(plain) or header:
        raise ModelError(
            f"its chat template has no generation prompt, and a reply would not follow the question but {header!r}",
            "Use a tokenizer whose chat_template ends with that where add_generation_prompt is set.",
        )


def _own_part(plain: str, prompted: str) -> str:
    """What stands before a question without a system turn and not with one."""
    before = _common(plain, prompted)
    after = min(_common(plain[::-1], prompted[::-1]), len(plain) - before)
    return plain[before : len(plain) - after].strip()


def _common(one: str, other: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _roles(turns: Turns) -> str:
    roles = [turn["role"] for turn in turns]
    return "a plain chat" if roles == ["user"] else f"turns of {', '.join(roles)}"
