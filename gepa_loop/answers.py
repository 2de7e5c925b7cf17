"""Reading an answer out of a completion, and comparing it with the expected one (`quantity`)."""

from __future__ import annotations

import re

from gepa_loop.quantity import equal as equal
from gepa_loop.quantity import numbers

MISSING = {
    "tags": "No <answer>...</answer> was found in the reply.",
    "boxed": r"No \boxed{...} was found in the reply.",
    "last_number": "No number was found in the reply.",
    "last_line": "The reply was empty.",
    "whole": "The reply was empty.",
}
"""What to say when an answer is missing, for each kind of extraction."""

TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.IGNORECASE | re.DOTALL)


def extract(kind: str, completion: str) -> str | None:
    r"""The answer in a completion, stripped; None where there is none.

    Args:
        kind: `tags`: the last closed `<answer>...</answer>`; `boxed`: the last `\boxed{...}` with balanced
            braces; `last_number`: the last number of `quantity.numbers`; `last_line`: the last line that is not
            empty; `whole`: everything.
        completion: The reply as text. What it holds of a thought, `<think>...</think>`, is no answer, and a thought
            that was cut has none behind it.

    Raises:
        ValueError: Another `kind`.
    """
    said = completion.rpartition("</think>")[2].partition("<think>")[0]
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


def ends_in_thought(completion: str) -> bool:
    """Whether a reply ends inside `<think>`, before any answer."""
    return "<think>" in completion.rpartition("</think>")[2]


def _boxed(text: str) -> list[str]:
    opened: list[re.Match[str]] = []
    found: dict[int, str] = {}
    for brace in re.finditer(r"\\boxed\s*\{|[{}]", text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (start := opened.pop())[0] != "{":
            found[start.end()] = text[start.end() : brace.start()]
    return [found[position] for position in sorted(found)]
