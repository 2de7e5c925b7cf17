"""Reading an answer out of a completion, and comparing it with the expected one."""

from __future__ import annotations

import re
from decimal import Decimal

MISSING = {
    "tags": "No <answer>...</answer> was found in the reply.",
    "boxed": r"No \boxed{...} was found in the reply.",
    "last_number": "No number was found in the reply.",
    "last_line": "The reply was empty.",
    "whole": "The reply was empty.",
}
"""What to say when an answer is missing, for each kind of extraction."""

NUMBER = re.compile(
    r"(?:(?<![^\W_])(?<![)\]])[-+−])?"
    r"(?:(?<![0-9,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
)
TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.IGNORECASE | re.DOTALL)


def extract(kind: str, completion: str) -> str | None:
    r"""The answer in a completion, stripped; None where there is none.

    Args:
        kind: `tags`: the last closed `<answer>...</answer>`; `boxed`: the last `\boxed{...}` with balanced
            braces; `last_number`: the last integer or decimal, without thousands commas, a plus or the full stop
            of a sentence; `last_line`: the last line that is not empty; `whole`: everything.
        completion: The reply as text.

    Raises:
        ValueError: Another `kind`.
    """
    match kind:
        case "tags":
            found = TAGS.findall(completion)
        case "boxed":
            found = _boxed(completion)
        case "last_number":
            found = [_plain(number) for number in NUMBER.findall(completion)]
        case "last_line":
            found = completion.strip().splitlines()
        case "whole":
            found = [completion]
        case _:
            raise ValueError(f"unknown extraction {kind!r}")
    return (found[-1].strip() or None) if found else None


def _boxed(text: str) -> list[str]:
    opened: list[re.Match[str]] = []
    found: dict[int, str] = {}
    for brace in re.finditer(r"\\boxed\s*\{|[{}]", text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened and (start := opened.pop())[0] != "{":
            found[start.end()] = text[start.end() : brace.start()]
    return [found[position] for position in sorted(found)]


def equal(read: str, answer: str) -> bool:
    """Whether two texts are equal after stripping, or are numbers of the same value."""
    read, answer = read.strip(), answer.strip()
    value = _number(answer)
    return read == answer or (value is not None and value == _number(read))


def _number(text: str) -> Decimal | None:
    """The value of a text that is a number as a whole, as `1,234`, `42.` and `42.0` are."""
    text = text.removesuffix(".")
    return Decimal(_plain(text)) if NUMBER.fullmatch(text) else None


def _plain(number: str) -> str:
    return number.replace(",", "").replace("−", "-").removeprefix("+")
