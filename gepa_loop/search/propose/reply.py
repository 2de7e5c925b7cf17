"""Reading the new instruction out of what a reflection model wrote, where DSPy's own reader finds none. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from gepa_loop.task.answers import without_thoughts

FIELD = "new_instruction"

KEPT = 4_000
"""Characters of a reply that are kept in the record, from its beginning and its end."""

_MARKER = re.compile(rf"\[\[ ?## ?{FIELD} ?## ?\]\](.*?)(?:\[\[ ?## |\Z)", re.DOTALL)
_FENCED = re.compile(r"```[^\n`]*\n(.*)```", re.DOTALL)
_ANNOUNCED = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|here(?:['’]s| is| are)|below is|i (?:suggest|propose|recommend)"
    r"|(?:my|the|a)? ?(?:new|improved|revised|updated|final))\b[^\n]{0,200}:[*_ ]*\n"
    r"|[#*_ ]*(?:(?:new|improved|revised|updated|final)[ _])?(?:instructions?|prompt)[*_ ]*(?::[*_ ]*|\n))",
    re.IGNORECASE,
)
_EXPLAINED = re.compile(
    r"\n\s*\n(?:let me know|i hope|this (?:(?:new|improved|revised|updated) )?(?:instruction|prompt|version)\b).*\Z",
    re.IGNORECASE | re.DOTALL,
)
_REFUSED = re.compile(
    r"\A(?:(?:i['’]?m|i am) (?:really |very |so )?(?:sorry|afraid|unable|not able)|sorry\b|i apologi[sz]e|as an ai\b"
    r"|(?:unfortunately,? )?i (?:cannot|can['’]?t|won['’]?t|will not|would rather not|must decline|do not|don['’]t)\b)",
    re.IGNORECASE,
)


def instruction(reply: str) -> str:
    """The instruction in a reply; empty where it holds none.

    It is looked for after DSPy's marker `[[ ## new_instruction ## ]]`, as `new_instruction` of a JSON object, between
    the first fence and the last one, and else it is all of the reply but for an announcement in front ("Here is the
    improved instruction:") and an explanation behind. Thoughts, JSON of another form and refusals in words hold none.
    """
    said = without_thoughts(reply).strip()
    if (marked := _MARKER.search(said)) is not None:
        said = marked[1].strip()
    if (field := _json_field(said)) is not None:
        return field.strip()
    if (fenced := _FENCED.search(said)) is not None:
        return fenced[1].strip()
    if said[:1] in ("{", "[") or _REFUSED.match(said):
        return ""
    prose = _EXPLAINED.sub("", _ANNOUNCED.sub("", said, count=1)).strip()
    quoted = re.fullmatch(r"[\"“]([^\"“”]*)[\"”]", prose, re.DOTALL)
    return quoted[1].strip() if quoted else prose


def whole(text: str) -> str:
    """A text with question marks for halves of surrogate pairs, which JSON can escape and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def kept(reply: str) -> str:
    """A reply at a length that can be kept."""
    left_out = len(reply) - KEPT
    if left_out <= 0:
        return reply
    return f"{reply[: KEPT // 2]}\n[{left_out} characters left out]\n{reply[-KEPT // 2 :]}"


def shown(reply: str) -> str:
    """A reply in a sentence of an error."""
    words = " ".join(reply.split())
    return repr(words if len(words) <= 300 else f"{words[:300]} ...") if words else "an empty reply"


def _json_field(text: str) -> str | None:
    """`new_instruction` of the first JSON object in a text that has it."""
    decoder = json.JSONDecoder(strict=False)  # models write line breaks as they are
    for opened in list(re.finditer(r"\{", text))[:20]:
        try:
            found: Any = decoder.raw_decode(text, opened.start())[0]
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and FIELD in found:
            return found[FIELD] if isinstance(found[FIELD], str) else ""
    return None
