"""Chat templates that users have: what they refuse, add, drop and write, and that all readers go through one place."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
from families import write_model

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import ConfigError, ModelError, PromptError
from gepa_loop.lab import open_lab
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.bundled import TINY
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.task.template import Chat, check_arguments

ASKED = Item("t:1", (("user", "What is 3?"),), "3", {})
OWN = Item("t:2", (("system", "Be kind."), ("user", "What is 3?")), "3", {})

LOOP = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}{% set ms = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set ms = messages %}{% endif %}"
    "{{ bos_token }}{% for m in ms %}{% if m.role == 'user' %}[INST] {{ s if loop.last }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + LOOP
)
DROPS = LOOP.replace("in messages", "in messages if m.role != 'system'")
QWEN = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + LOOP
STUBBORN = (
    "<|im_start|>system\n{{ messages[0].content if messages[0].role == 'system' and messages[0].content else 'You are Qwen.' }}"
    "<|im_end|>\n" + DROPS
)
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + LOOP
THINKS = LOOP.replace("assistant\n{%", "assistant\n{% if not thinking %}<think>\n\n</think>\n\n{% endif %}{%")
HEADLESS = LOOP.partition("{% if add")[0]


def with_template(tiny: Base, template: str, **chat: Any) -> Renderer:
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = template
    return Renderer(tokenizer, 2048, Chat(**chat))


def test_a_template_without_a_generation_prompt_begins_the_reply_after_the_question(tiny: Base) -> None:
    renderer = with_template(tiny, MISTRAL)
    renderer.check("Be short.", [ASKED, OWN], 16, "here")
    assert renderer.text(NO_PROMPT, ASKED) == "<|im_start|>[INST] What is 3? [/INST]"
    assert renderer.text("Be short.", ASKED) == "<|im_start|>[INST] Be short.\n\nWhat is 3? [/INST]"
    assert renderer.suffix(ASKED) == []


def test_a_template_that_forgets_its_generation_prompt_is_refused(tiny: Base) -> None:
    with pytest.raises(ModelError, match=r"no generation prompt, .* but '<\|im_start\|>assistant'"):
        _ = with_template(tiny, HEADLESS).habits


def test_a_refused_system_turn_goes_to_the_head_of_the_first_user_turn(tiny: Base) -> None:
    renderer = with_template(tiny, GEMMA)
    assert renderer.habits.folds
    renderer.check("Be short.", [ASKED, OWN], 16, "here")
    assert renderer.messages("Be short.", OWN) == [
        {"role": "user", "content": "Be short.\n\nBe kind.\n\nWhat is 3?"}
    ]
    assert renderer.messages(NO_PROMPT, OWN) == [{"role": "user", "content": "Be kind.\n\nWhat is 3?"}]
    assert renderer.messages(NO_PROMPT, ASKED) == [{"role": "user", "content": "What is 3?"}]
    greeted = Item("t:3", (("assistant", "Hello."), ("user", "What is 3?")), "3", {})
    assert [turn["content"] for turn in renderer.messages("P", greeted)] == ["Hello.", "P\n\nWhat is 3?"]
    with pytest.raises(ConfigError, match=r"model\.system = 'empty': .*System role not supported"):
        _ = with_template(tiny, GEMMA, system="empty").habits
    with pytest.raises(
        ConfigError, match=r"'empty': the chat template puts 'You are Qwen\.' into an empty system turn"
    ):
        _ = with_template(tiny, STUBBORN, system="empty").habits


def test_a_system_turn_that_is_dropped_is_refused(tiny: Base) -> None:
    with pytest.raises(ModelError, match="drops system turns, so no prompt would reach the model"):
        _ = with_template(tiny, DROPS).habits
    # Only this one: what is tried when the model is loaded arrives.
    some = LOOP.replace("in messages", "in messages if m.content != 'Be short.'")
    with pytest.raises(PromptError, match="here: the model's chat template drops it"):
        with_template(tiny, some).check("Be short.", [ASKED], 16, "here")


@pytest.mark.parametrize(
    ("template", "system", "adds", "bare", "counts"),
    [
        (LOOP, "none", "", "", (0, 39)),
        (LOOP, "empty", "", "<|im_start|>system\n<|im_end|>\n", (10, 39)),
        (QWEN, "none", "You are Qwen.", "<|im_start|>system\n<|im_end|>\n", (0, 29)),
        (QWEN, "empty", "You are Qwen.", "<|im_start|>system\n<|im_end|>\n", (0, 29)),
        (QWEN, "template", "You are Qwen.", "<|im_start|>system\nYou are Qwen.<|im_end|>\n", (13, 29)),
        (STUBBORN, "none", "You are Qwen.", "<|im_start|>system\nYou are Qwen.<|im_end|>\n", (0, 16)),
    ],
)
def test_what_the_bare_model_reads_in_place_of_a_prompt(
    tiny: Base, template: str, system: Any, adds: str, bare: str, counts: tuple[int, int]
) -> None:
    """Counts: tokens of the bare chat and of one with a prompt of 29 letters, beyond the question alone."""
    renderer = with_template(tiny, template, system=system)
    question = "<|im_start|>user\nWhat is 3?<|im_end|>\n<|im_start|>assistant\n"
    assert (renderer.habits.adds, renderer.habits.bare) == (adds, "system\n<|im_end|>" in bare)
    assert renderer.text(NO_PROMPT, ASKED) == bare + question
    assert "You are Qwen" not in renderer.text("P" * 29, ASKED)
    assert (renderer.system_tokens(NO_PROMPT, ASKED), renderer.system_tokens("P" * 29, ASKED)) == counts


def test_the_date_is_that_of_the_run(tiny: Base) -> None:
    renderer = with_template(tiny, DATED, day="2024-02-29")
    assert renderer.text(NO_PROMPT, ASKED).startswith("<|im_start|>system\nToday is 29 Feb 2024.<|im_end|>")
    assert renderer.habits.dated and not with_template(tiny, LOOP).habits.dated


def test_a_clock_is_found_however_a_template_writes_it(tiny: Base) -> None:
    for asks in (
        "{{ strftime_now ( '%Y' ) }}",
        '{% if strftime_now is defined %}{{ strftime_now("%Y") }}{% endif %}',
        "{# strftime_now gives the date #}{% macro year() %}{{ strftime_now('%Y') }}{% endmacro %}{{ year() }}",
    ):
        renderer = with_template(tiny, asks + LOOP, day="2024-02-29")
        assert renderer.text(NO_PROMPT, ASKED).startswith("2024<|im_start|>") and renderer.habits.dated


@pytest.mark.parametrize(
    "asks", ["{{ strftime_now('%d' + '%m') }}", "{% set now = strftime_now %}{{ now('%Y') }}"]
)
def test_a_date_that_cannot_be_fixed_is_refused(tiny: Base, asks: str) -> None:
    with pytest.raises(ModelError, match="asks for the date otherwise than by strftime_now with a format"):
        _ = with_template(tiny, asks + LOOP, day="2024-02-29").habits


def test_template_arguments_reach_every_rendering_and_typos_are_refused(tiny: Base) -> None:
    closed, opened = (with_template(tiny, THINKS, arguments=a) for a in ({}, {"thinking": True}))
    assert closed.text("P", ASKED).endswith("assistant\n<think>\n\n</think>\n\n")
    assert opened.text("P", ASKED).endswith("assistant\n")
    assert len(closed.suffix(ASKED)) > len(opened.suffix(ASKED))
    check_arguments(opened.tokenizer, {"thinking": True})
    with pytest.raises(ConfigError, match=r"model\.template\.thinkin: the chat template"):
        check_arguments(opened.tokenizer, {"thinkin": True})
    for name in ("add_generation_prompt", "continue_final_message", "chat_template", "messages", "tokenize"):
        with pytest.raises(ConfigError, match=rf"model\.template\.{name}: that is given with each chat"):
            check_arguments(opened.tokenizer, {name: True})


@pytest.mark.parametrize("name", ["add_generation_prompt", "enable_thinkin"])
def test_arguments_are_looked_at_before_anything_is_rendered(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.template\.{name}: ") as caught:
        load_base(ModelConfig(name=TINY, dtype="float32", device="cpu", template={name: False}))
    assert caught.value.exit_code == 2


def test_what_a_rendering_gives_itself_is_all_refused_as_an_argument(tiny: Base) -> None:
    """A name of `apply_chat_template` that a template reads, set in the config, may not be an error of Python's."""
    own = set(inspect.signature(tiny.tokenizer.apply_chat_template).parameters) - {"kwargs"}
    said = []
    for name in sorted({*own, "messages"}):
        renderer = with_template(tiny, f"{{# {name} #}}{THINKS}", arguments={name: True})
        try:
            check_arguments(renderer.tokenizer, {name: True})
            _ = renderer.habits
        except (ConfigError, ModelError) as error:
            said.append(str(error))
    assert len(said) >= 6 and not any("keyword" in one for one in said), said


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ tools | length }}", "has no len"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ messages[7]['x']['y'] }}", "no element 7|no attribute|undefined"),
        ("{{ messages | tojson(indent='a' * 2 if messages else 1) + 3 }}", "."),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('only tools') }}", "only tools"),
    ],
)
def test_whatever_a_template_raises_is_one_sentence(tiny: Base, template: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"its chat template refuses a plain chat: .*({reason})") as caught:
        _ = with_template(tiny, template).habits
    assert "\n" not in str(caught.value)


def test_a_lab_renders_as_its_config_says(tmp_path: Path) -> None:
    name = write_model("llama", tmp_path / "m")
    asks = "{% if add_generation_prompt %}{{ 'Think. ' if thinking }}{{ strftime_now('%Y') }}{% endif %}"
    (name / "chat_template.jinja").write_text(QWEN + asks)

    def text(*sets: str) -> str:
        lab = open_lab(load_config("smoke", [f"model.name={name}", *sets], env={}), "2024-03-01")
        return lab.rollouts.renderer.text(NO_PROMPT, ASKED)

    question = "<|im_start|>user\nWhat is 3?<|im_end|>\n<|im_start|>assistant\n"
    assert text() == f"<|im_start|>system\n<|im_end|>\n{question}2024"
    own = "<|im_start|>system\nYou are Qwen.<|im_end|>\n"
    assert text("model.system=template", "model.date=2023-02-01") == f"{own}{question}2023"
    assert text("model.template.thinking=true").endswith("assistant\nThink. 2024")
