"""A chat template that makes of plain chats what the student read in training, for whoever renders them elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gepa_loop.errors import ConfigError
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.task.records import Item

BARE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{%- set messages = [{'role': 'system', 'content': ''}] + messages %}"
    "{%- endif %}"
)
"""Where a chat without a system turn was given an empty one."""

CHATS = (
    (("user", "What is it?"),),
    (("user", "What is it?"), ("assistant", "A spade."), ("user", "Sure?\n\n  Really?")),
)
"""What both renderings are compared on."""


def served_template(renderer: Renderer) -> str:
    """The model's chat template with what a run gives it besides: its arguments, and an empty system turn where chats had one.

    The date stays the template's own: a student is served on other days than it was trained.

    Raises:
        ConfigError: It renders a plain chat otherwise than the student read it.
    """
    source = str(renderer.tokenizer.get_chat_template())
    own = source
    if renderer.habits.bare:
        own = BARE + own
    own = "".join(_set(name, value) for name, value in renderer.chat.arguments.items()) + own
    for chat in CHATS:
        turns = [{"role": role, "content": content} for role, content in chat]
        ours = renderer.text(NO_PROMPT, Item("chat:1", chat, "", {}))
        theirs = renderer.tokenizer.apply_chat_template(
            turns, chat_template=renderer.chat.dated(own), tokenize=False, add_generation_prompt=True
        )
        if ours != theirs:
            raise ConfigError(
                "the model's chat template cannot be written so that it renders plain chats as the student read them",
                "Render chats with gepa-loop (`gepa-loop serve`).",
            )
    return own


def _set(name: str, value: object) -> str:
    return f"{{%- set {name} = {_literal(value)} %}}"


def _literal(value: Any) -> str:
    """A value as Jinja writes it."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{json.dumps(str(key))}: {_literal(inner)}" for key, inner in value.items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
