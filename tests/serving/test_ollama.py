"""Modelfiles: Go templates that render chats as the student read them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from gepa_loop.errors import ConfigError
from gepa_loop.model.base import Base
from gepa_loop.serving.ollama import between_of, modelfile
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.task.records import Item, Messages
from gepa_loop.task.template import Chat

CHAT: Messages = (
    ("user", "Hi?"),
    ("assistant", "Yes."),
    ("user", "Sure?"),
    ("assistant", "So."),
    ("user", "Why?"),
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Q.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<b>{% for m in messages %}<h>{{ m['role'] }}</h>\n\n{{ m['content'] | trim }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}"
)
GEMMA = (
    "<b>{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "<t>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}</t>\n{% endfor %}"
    "{% if add_generation_prompt %}<t>model\n{% endif %}"
)
COUNTS = (
    "{% for m in messages %}<{{ loop.index }}{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _renderer(base: Base, template: str, **chat: Any) -> Renderer:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    return Renderer(tokenizer, 256, Chat(**chat))


def _go(template: str, chat: Messages) -> str:
    """Renders the few things of Go's templates that are used."""
    head, body, tail = re.fullmatch(
        r"(.*?)\{\{ range \$i, \$m := \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    parts = [head]
    for number, (role, content) in enumerate(chat):
        # {{ if A }}..{{ else if B }}..{{ else }}..{{ end }}, one inside the other.
        tokens = re.split(r"(\{\{.*?\}\})", body)
        stack: list[tuple[bool, bool]] = []  # (this branch is taken, some branch was)
        for token in tokens:
            if token.startswith(("{{ if", "{{ else if")):
                holds = f'$m.Role "{role}"' in token or ("$i 0" in token and number == 0)
                if "else" in token:
                    _, done = stack.pop()
                    stack.append((holds and not done, done or holds))
                else:
                    stack.append((holds, holds))
            elif token == "{{ else }}":
                _, done = stack.pop()
                stack.append((not done, True))
            elif token == "{{ end }}":
                stack.pop()
            elif all(taken for taken, _ in stack):
                parts.append(content if token == "{{ $m.Content }}" else token)
    return "".join([*parts, tail])


@pytest.mark.parametrize("template", [QWEN, LLAMA3, GEMMA])
def test_a_go_template_renders_what_the_student_read(tiny: Base, template: str) -> None:
    renderer = _renderer(tiny, template)
    text = between_of(renderer).template()
    for count in (1, 3, 5):
        ours = renderer.text(NO_PROMPT, Item("chat:1", CHAT[:count], "", {}))
        assert _go(text, CHAT[:count]) == ours
    assert "You are Q." not in text
    if template != GEMMA:
        turns = (("system", "Be brief."), *CHAT[:3])
        assert _go(text, turns) == renderer.chat.render(
            renderer.tokenizer, [{"role": r, "content": c} for r, c in turns]
        )


def test_the_models_own_templates(tiny: Base, smollm: Base) -> None:
    for base in (tiny, smollm):
        renderer = Renderer(base.tokenizer, base.context)
        assert _go(between_of(renderer).template(), CHAT) == renderer.text(
            NO_PROMPT, Item("chat:1", CHAT, "", {})
        )


@pytest.mark.parametrize(
    "template", [COUNTS, LLAMA3.replace("<b>", "{{ '{{' }}"), LLAMA3.replace("<b>", '"""')]
)
def test_templates_that_ollama_cannot_say(tiny: Base, template: str) -> None:
    with pytest.raises(ConfigError, match="--ollama"):
        between_of(_renderer(tiny, template))


def test_a_modelfile(tiny: Base) -> None:
    between = between_of(_renderer(tiny, LLAMA3))
    text = modelfile("student-q8_0.gguf", between, ["<e>", "</s>"], 0.0, 24)
    assert text.startswith("FROM ./student-q8_0.gguf\n")
    assert text.endswith(
        '"""\nPARAMETER stop "<e>"\nPARAMETER stop "</s>"\nPARAMETER temperature 0\nPARAMETER num_predict 24\n'
    )
