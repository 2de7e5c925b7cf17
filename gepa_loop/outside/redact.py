"""Texts for a person: without keys and passwords, without what steers a terminal, and no longer than can be read."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

HIDDEN = "***"
SHORTEST = 8
"""Characters of the shortest value of a variable that is taken for a key: shorter ones stand in any text."""

LONGEST = 4_000
"""Characters of a message; its middle is left out beyond."""

_SECRET = "(?:key|token|secret|password|passwd|credentials?)"
_NAMES = re.compile(f"{_SECRET}$", re.IGNORECASE)
_LITERAL = re.compile(
    # api_key="sk-1" and "api_key": "sk-1", but not api_key="$KEY", nor a prompt's "say one token: yes"
    rf"""([\w.-]*{_SECRET})(?:["']?\s*=|["']\s*:|:(?=\S))\s*["']?(?![\s"'$]|$)"""
    rf"|(?<!\S)(--[\w-]*{_SECRET})\s+[\"']?(?![\s\"'$-]|$)"
    r"|\b(authorization|x-[\w-]*(?:key|token))\s*:\s*(?:(?:bearer|basic|token)\s+)?(?![\s$]|bearer|basic|token)"
    r"|\b(sk-|hf_|gh[pous]_|github_pat_|glpat-|xox[abp]-|AKIA)[\w-]{16}",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(?<=://)[^\s/@'\"]*@")
_CONTROL = re.compile(
    r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def names_a_secret(name: str) -> bool:
    """Whether what a variable or a setting of this name holds is a secret."""
    return _NAMES.search(name) is not None


def has_password(url: str) -> bool:
    """Whether a text is an address with a user or password in it."""
    return re.match(r"[a-z][a-z0-9+.-]*://[^\s/@]*@", url, re.IGNORECASE) is not None


def key_in(text: str) -> str | None:
    """What gives a key away in words for a shell: the name that it is given to, or how it begins; None where there is none.

    What a shell puts in itself, after a `$`, is no key.
    """
    found = _LITERAL.search(text)
    if found is not None:
        return next(group for group in found.groups() if group)
    return "an address with a password" if _USERINFO.search(text) else None


def keys_within(text: str, env: Mapping[str, str]) -> list[str]:
    """Variables that hold keys which stand in a text."""
    return [
        name
        for name, value in env.items()
        if names_a_secret(name) and len(key := value.strip()) >= SHORTEST and key in text
    ]


def redacted(text: str, env: Mapping[str, str] | None = None) -> str:
    """A text without users and passwords of addresses and without the values of variables that hold keys.

    Args:
        text: What is to be shown; others' words in it may repeat a key.
        env: The environment; None takes the process's own.
    """
    known = os.environ if env is None else env
    keys = [known[name].strip() for name in keys_within(text, known)]
    for key in sorted(keys, key=len, reverse=True):  # a key may begin with another
        text = text.replace(key, HIDDEN)
    return _USERINFO.sub(f"{HIDDEN}@", text)


def told(words: Sequence[str]) -> str:
    """A command as a line for a shell, without secrets, those of settings (`KEY=VALUE`) included."""
    shown = []
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and names_a_secret(key):  # whatever it is: what a shell puts in is there by now
            shown.append(f"{key}={HIDDEN}")
            continue
        found = _LITERAL.search(word)
        shown.append(
            word if found is None else f"{word[: found.end() if found[1] else found.start()]}{HIDDEN}"
        )
    return redacted(shlex.join(shown))


def printable(text: str) -> str:
    """`redacted`, with control characters as escapes and without the middle of what is too long to be read."""
    text = redacted(text)
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
    return escaped(text)


def escaped(text: str) -> str:
    """A text with control characters, and those that turn the direction of what follows, as escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
