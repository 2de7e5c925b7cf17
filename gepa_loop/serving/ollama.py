"""A Modelfile for Ollama, whose templates are Go's: what stands between the turns of a chat is read off the model's own template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.serving.template import CHATS
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.task.records import Item, Messages

SAID = ("ONE", "TWO", "THREE", "FOUR")
"""Contents of turns by which a template is tried."""


@dataclass(frozen=True)
class Between:
    """What a chat template puts between the contents of turns."""

    first: str
    """Before a chat that begins with the user's turn, as the student read it."""
    system: str | None
    """Before a system turn; None where the template takes none."""
    user: str
    """Before a later turn of the user's, with the end of the turn before it."""
    assistant: str
    """So, of the assistant's."""
    reply: str
    """Behind the last turn, up to where the reply begins."""

    def rendered(self, chat: Messages) -> str:
        """A chat, as the Go template renders it."""
        parts = []
        for number, (role, content) in enumerate(chat):
            before = self.system if role == "system" else self.assistant if role == "assistant" else self.user
            parts += [(self.first if number == 0 and role == "user" else before) or "", content]
        return "".join([*parts, self.reply])

    def template(self) -> str:
        """The Go template."""
        system = (
            ""
            if self.system is None
            else f'{{{{ if eq $m.Role "system" }}}}{self.system}{{{{ $m.Content }}}}{{{{ else }}}}'
        )
        return (
            "{{ range $i, $m := .Messages }}"
            + system
            + f'{{{{ if eq $m.Role "assistant" }}}}{self.assistant}{{{{ else if eq $i 0 }}}}{self.first}{{{{ else }}}}{self.user}{{{{ end }}}}'
            + "{{ $m.Content }}"
            + ("" if self.system is None else "{{ end }}")
            + f"{{{{ end }}}}{self.reply}"
        )


def between_of(renderer: Renderer) -> Between:
    """What stands between turns, tried on whole chats.

    Raises:
        ConfigError: The template does more: it looks at what a turn says, or at its place.
    """
    folds = renderer.habits.folds
    roles = ("user", "assistant", "user") if folds else ("system", "user", "assistant", "user")
    whole = tuple(zip(roles, SAID, strict=False))
    try:
        said = renderer.chat.render(renderer.tokenizer, [{"role": r, "content": c} for r, c in whole])
        parts, alone = _parts(said), _parts(_read(renderer, (("user", SAID[0]),)))
    except (ModelError, ValueError) as error:
        raise _unknown() from error
    if len(parts) != len(roles) + 1 or len(alone) != 2:
        raise _unknown()
    found = Between(alone[0], None if folds else parts[0], parts[-2], parts[-3], parts[-1])
    odd = any(mark in text for text in parts + alone for mark in ("{{", "}}", '"""'))
    tried = [(chat, _read(renderer, chat)) for chat in CHATS] + ([] if folds else [(whole, said)])
    if odd or any(found.rendered(chat) != text for chat, text in tried):
        raise _unknown()
    return found


def _read(renderer: Renderer, chat: Messages) -> str:
    """A chat as the student read it."""
    return renderer.text(NO_PROMPT, Item("chat:1", chat, "", {}))


def _parts(text: str) -> list[str]:
    """What stands around the tried contents, in order."""
    found = []
    for said in SAID:
        before, mark, rest = text.partition(said)
        if mark:
            found.append(before)
            text = rest
    return [*found, text]


def _unknown() -> ConfigError:
    return ConfigError(
        "--ollama: the model's chat template does more than put marks around turns, which Ollama's templates cannot say",
        "Write a Modelfile by hand, with the file that --gguf writes.",
    )


def modelfile(file: str, between: Between, stops: Sequence[str], temperature: float, max_tokens: int) -> str:
    """The text of a Modelfile.

    Args:
        file: The GGUF file, beside it.
        between: Of the model's template.
        stops: Texts that end a reply.
        temperature: As the run was decided.
        max_tokens: Longest reply.
    """
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{between.template()}"""',
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        f"PARAMETER temperature {temperature:g}",
        f"PARAMETER num_predict {max_tokens}",
    ]
    return "\n".join(lines) + "\n"
