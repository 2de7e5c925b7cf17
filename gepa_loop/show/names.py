"""Names of candidates that a person can remember, beside their ids."""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import Any

ID = re.compile(r"[0-9a-f]{8}")


@cache
def nickname(id_: str) -> str:
    """Two words that an id always has: `keen-otter`. Of 370,000, so that two candidates of a run seldom share them."""
    from coolname import RandomGenerator
    from coolname.data import config

    words: Any = config  # its own annotation is wider than what it asks for
    return RandomGenerator(words, Random(id_)).generate_slug(2)


def named(label: str) -> str:
    """A candidate's id and its name; any other label as it is."""
    return f"{label} {nickname(label)}" if ID.fullmatch(label) else label
