"""Reading an answer out of a completion, and comparing it with the expected one (`quantity`)."""

from __future__ import annotations

import re

from gepa_loop.task.quantity import equal as equal
from gepa_loop.task.quantity import numbers

MISSING = {
    "tags": "No <answer>...</answer> was found in the reply.",
    "boxed": r"No \boxed{...} was found in the reply.",
    "last_number": "No number was found in the reply.",
    "last_line": "The reply was empty.",
    "whole": "The reply was empty.",
}
"""What to say when an answer is missing, for each kind of extraction."""

OPENING = ("<think>", "<seed:think>", "[THINK]", "<|channel>", "<|inner_prefix|>")
"""What begins a thought: Qwen, SmolLM, GLM, EXAONE and most others; Seed-OSS; Magistral; Gemma 4; Apertus."""
CLOSING = ("</think>", "</seed:think>", "[/THINK]", "<channel|>", "<|inner_suffix|>")
"""What ends one, in the same order."""
_OPENED, _CLOSED = (re.compile("|".join(map(re.escape, marks))) for marks in (OPENING, CLOSING))

TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.IGNORECASE | re.DOTALL)


def extract(kind: str, completion: str) -> str | None:
    r"""The answer in a completion, stripped; None where there is none.

    Args:
        kind: `tags`: the last closed `<answer>...</answer>`; `boxed`: the last `\boxed{...}` with balanced
            braces; `last_number`: the last number of `quantity.numbers`; `last_line`: the last line that is not
            empty; `whole`: everything.
        completion: The reply as text. What it holds of a thought, between `OPENING` and `CLOSING`, is no answer, and a
            thought that was cut has none behind it.

    Raises:
        ValueError: Another `kind`.
    """
    said = without_thoughts(completion)
    match kind:
        case "tags":
            found = TAGS.findall(said)
        case "boxed":
            found = _boxed(said)
        case "last_number":
            found = numbers(said)
        case "last_line":
            found = said.strip().splitlines()
        case "whole":
            found = [said]
        case _:
            raise ValueError(f"unknown extraction {kind!r}")
    return (found[-1].strip() or None) if found else None


def reply_with(kind: str, answer: str) -> str:
    """The shortest reply that gives an answer in the form that `extract` reads."""
    return {"tags": f"<answer>{answer}</answer>", "boxed": rf"\boxed{{{answer}}}"}.get(kind, answer)


def without_thoughts(reply: str) -> str:
    """What a reply says behind its last thought, and before one that it ends in."""
    return _OPENED.split(_CLOSED.split(reply)[-1])[0]


def open_thought(reply: str) -> str:
    """The mark of a thought that a reply ends in, before any answer; empty where it ends in none."""
    found = _OPENED.search(_CLOSED.split(reply)[-1])
    return found[0] if found else ""


def _boxed(text: str) -> list[str]:
    opened: list[re.Match[str]] = []
    found: dict[int, str] = {}
    for brace in re.finditer(r"\\boxed\s*\{|[{}]", text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (start := opened.pop())[0] != "{":
            found[start.end()] = text[start.end() : brace.start()]
    return [found[position] for position in sorted(found)]
