"""Chat templates that render plain chats, by themselves, as a student read them in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gepa_loop.errors import ConfigError
from gepa_loop.model.base import Base
from gepa_loop.serving.template import CHATS, served_template
from gepa_loop.task.prompts import Renderer
from gepa_loop.task.template import Chat

ADDS = (
    "{% if messages[0]['role'] != 'system' %}<s>You are Q.</s>{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THINKS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    "{{ (extra or {}).get('a', ['-'])[0] }}{% endif %}"
)
DATED = (
    "{{ strftime_now('%Y') }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _renderer(base: Base, template: str, **chat: Any) -> Renderer:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    return Renderer(tokenizer, 256, Chat(**chat))


def _alone(renderer: Renderer, template: str) -> list[str]:
    """What the template makes of plain chats without anything of ours."""
    tokenizer = copy.deepcopy(renderer.tokenizer)
    tokenizer.chat_template = template
    return [
        str(
            tokenizer.apply_chat_template(
                [{"role": r, "content": c} for r, c in chat], tokenize=False, add_generation_prompt=True
            )
        )
        for chat in CHATS
    ]


def test_a_default_system_turn_is_kept_away(tiny: Base) -> None:
    renderer = _renderer(tiny, ADDS)
    assert renderer.habits.bare
    served = _alone(renderer, served_template(renderer))
    assert not any("You are Q." in text for text in served)
    assert served[0] == "<system></system><user>What is it?</user><assistant>"
    # Where the run took the template's own, it stays.
    renderer = _renderer(tiny, ADDS, system="template")
    assert "You are Q." in _alone(renderer, served_template(renderer))[0]


def test_arguments_of_a_run_are_written_into_it(tiny: Base) -> None:
    arguments = {"enable_thinking": False, "extra": {"a": ["x'\"y😀", None, 1.5]}}
    renderer = _renderer(tiny, THINKS, arguments=arguments)
    assert all(
        text.endswith("<assistant><think></think>x'\"y😀")
        for text in _alone(renderer, served_template(renderer))
    )
    assert _alone(renderer, THINKS)[0].endswith("<assistant>-")


def test_a_plain_template_stays_as_it_is(tiny: Base) -> None:
    renderer = _renderer(tiny, str(tiny.tokenizer.chat_template))
    assert served_template(renderer) == tiny.tokenizer.chat_template


def test_the_date_is_that_of_the_day_on_which_it_is_served(tiny: Base) -> None:
    renderer = _renderer(tiny, DATED, day="1999-05-05")
    served = served_template(renderer)
    assert served == DATED and not _alone(renderer, served)[0].startswith("1999")


def test_a_template_that_cannot_be_written_for_others_is_refused(tiny: Base) -> None:
    """Jinja drops the line break behind a statement, and with it the one that this template begins with."""
    template = "\n" + THINKS
    renderer = _renderer(tiny, template, arguments={"enable_thinking": False})
    with pytest.raises(ConfigError, match="cannot be written so that it renders plain chats"):
        served_template(renderer)
    # Without arguments nothing stands before it.
    assert served_template(_renderer(tiny, template)) == template
