"""Reading files that users name: regular ones only, and no larger than what they can sensibly be."""

from __future__ import annotations

import errno
import json
import re
import stat
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = 2**20
"""Bytes of the largest file of settings: a config, a grid, what an adapter says of itself."""


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: As `check_regular` and `open` do, or it is larger. `strerror` says which.
    """
    size = check_regular(path)
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read", str(path))
    return content


def check_regular(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        OSError: There is none; or it is a folder, or a pipe or a device, which may have no end and stop a process for good.
            `strerror` says which.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))
    return found.st_size


def looks_like_path(text: str) -> bool:
    """Whether a value that may be a text or a file is meant as a file: a line that ends in .txt or .md, or a word with a slash
    or with any file extension.

    Only the text is looked at, so that it means the same wherever it is read. Chinese and Japanese have no spaces between
    words: a line of theirs is no single word.
    """
    if "\n" in text or not text.strip():
        return False
    if text.lower().endswith((".txt", ".md")):
        return True
    if any(c.isspace() or unicodedata.east_asian_width(c) in "WF" for c in text):
        return False
    return "/" in text or "\\" in text or re.search(r"\w\.[A-Za-z][A-Za-z0-9]{0,7}\Z", text) is not None


def found_at(path: Path, there: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether a path is that of a file (or what `there` asks for); what is too long for a name is none."""
    try:
        return there(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document.

    Raises:
        ValueError: It is none, or one that is not read: nested too deeply, a number too long.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_json(text: str | bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: It is none, or one that is not read: nested too deeply, a number too long.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
