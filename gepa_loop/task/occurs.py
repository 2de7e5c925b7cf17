"""Whether a text holds another one as words and numbers of their own: `7` is not in 17, in 7.5 or in -7, nor `no` in know."""

from __future__ import annotations

import re

_INTO = re.compile(r"\d[.,]\Z|(?<!\w)[-−]\Z")
"""What a number that goes on is preceded by: a part before it, or a sign, which after a word is a dash."""
_ON = re.compile(r"[.,]\d")
"""And what follows it."""


def occurs(wanted: str, text: str) -> bool:
    """Whether `wanted` stands somewhere in `text` and is no part of a longer word or number there.

    Letters without case, as of Chinese and Thai, which have no spaces between words, or of Korean and Hebrew, which write particles
    at them, do not make a word longer.
    """
    start = text.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if _is_whole(text[max(start - 2, 0) : start], wanted, text[end : end + 2]):
            return True
        start = text.find(wanted, start + 1)
    return False


def _is_whole(before: str, wanted: str, after: str) -> bool:
    """`before` and `after` are the two characters around it."""
    if _in_word(before[-1:]) and _in_word(wanted[:1]):
        return False
    if _in_word(wanted[-1:]) and _in_word(after[:1]) and not _is_unit(wanted, after):
        return False
    goes_on = wanted[:1].isdecimal() and _INTO.search(before)
    return not (goes_on or (wanted[-1:].isdecimal() and _ON.match(after)))


def _is_unit(wanted: str, after: str) -> bool:
    """Whether letters follow a number, as in 7km and 9:40pm, and no code, as in GX4b."""
    last = re.findall(r"\w+", wanted)[-1:]
    return bool(last) and last[0].isdecimal() and after[:1].isalpha()


def _in_word(sign: str) -> bool:
    return sign == "_" or sign.isdecimal() or sign.lower() != sign.upper()
