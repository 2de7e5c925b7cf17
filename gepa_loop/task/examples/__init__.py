"""Tasks that come with gepa-loop: their prompts say what no model can guess.

Each module has `rows(source)`, an endless stream of records made with a random source, and some a `score(record, reply)`.
Good, bare and bad prompts for them are in `prompts/`, and a preset has the name of each.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = ("router", "extract", "policy", "style", "desk", "returns")


def load(name: str) -> ModuleType:
    """The module of one of `NAMES`."""
    return importlib.import_module(f"{__name__}.{name}")
