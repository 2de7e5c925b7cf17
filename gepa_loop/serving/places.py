"""Folders of this machine, which what is given to others does not name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEXTS = ("seed_prompt",)
"""Keys of a configuration that are a user's own text, which is shown as it is."""

_WHOLE = re.compile(r"(?:\w+:(?:///?)?(?:~[^/]*)?/(?!/)|(?:~[^/]*)?/).*")
"""A value that is a path, with blanks or without, behind `file://` and `sqlite:///` as well; no address of a host."""
_FOLDERS = re.compile(r"(?<![^\s=,;'\"(\[])(?:file://)?(?:~[^\s/]*)?/(?:[^\s/,;'\")\]]+/)*(?=[^\s/,;'\")\]])")
"""The folders of a path inside a value, at its beginning or behind what sets it off."""


def is_place(name: str) -> bool:
    """Whether a model's name is where it lies on a machine, and no id."""
    return name.startswith("~") or Path(name).is_absolute()


def last_part(text: str) -> str:
    """A text in which every absolute path is its last part alone."""
    if _WHOLE.fullmatch(text):
        return text.rstrip("/").rpartition("/")[2] or text
    return _FOLDERS.sub("", text)


def without_places(value: Any, key: str = "") -> Any:
    """A configuration without the folders of this machine: of each path its last part."""
    if isinstance(value, Mapping):
        return {name: without_places(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner, key) for inner in value]
    return last_part(value) if isinstance(value, str) and key not in TEXTS else value
