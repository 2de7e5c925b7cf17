"""Entries of reasoning-gym, of which those that are slow to make are made once for all runs of a user.

They lie below the cache folder, in `items/`, a JSONL file for each task, version, options, first seed and form of the file: the beginning of
what comes from that seed on. A file that is not as it was written is made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.outside.cache import cache_folder
from gepa_loop.run.files import read_jsonl, write_jsonl
from gepa_loop.run.identity import fingerprint

Entry = dict[str, Any]

FORM = 1
"""Of the files: to be raised when `EntryRow`, or what `packed` makes of a value, changes."""
LEAST_SECONDS = 1.0
"""What making a stream's entries must have taken for them to be kept."""
SAVE_SECONDS = 10.0
"""What a process that is killed loses at most of its making."""
BLOCK, LARGEST = 64, 4096
"""Entries of the first dataset that is made, and of the largest; each is twice as large as the one before."""


class EntryRow(TypedDict):
    """A row of a file of entries."""

    entry: object
    """It, as `packed` has it."""


def entries(name: str, options: Mapping[str, Any], start: int, skip: int) -> Iterator[Entry]:
    """The task's examples of seeds `start` on, without the first `skip`; each is a function of its seed."""
    import reasoning_gym

    first, size = 0, BLOCK
    while True:
        if skip < first + size:
            data = reasoning_gym.create_dataset(name, size=size, seed=start + first, **options)
            for number in range(max(skip - first, 0), size):
                yield data[number]
        first, size = first + size, min(2 * size, LARGEST)


class Kept:
    """A stream of entries, read from a file as far as that has them, and made from there on."""

    def __init__(
        self, file: Path, make: Callable[[int], Iterator[Entry]], now: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            file: Where they are kept.
            make: The stream without its first n.
            now: A clock, in seconds.
        """
        self._file, self._make, self._now = file, make, now
        self._rows: list[EntryRow] = []
        self._made = self._spent = self._unsaved = 0.0
        self._keeps = True

    def __iter__(self) -> Iterator[Entry]:
        for row in (found := _read(self._file)):
            yield unpacked(row["entry"])
        self._rows = found
        source = self._make(len(found))
        while True:
            began = self._now()
            entry = next(source)
            took = self._now() - began
            self._spent, self._unsaved = self._spent + took, self._unsaved + took
            self._add(entry)
            yield entry

    def _add(self, entry: Entry) -> None:
        if not self._keeps:
            return
        try:
            self._rows.append({"entry": packed(entry)})
        except TypeError:
            self._keeps, self._rows = False, []
            return
        if self._unsaved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Keep what was made, where that took long."""
        if not (self._keeps and self._unsaved and self._spent >= LEAST_SECONDS):
            return
        try:
            write_jsonl(self._file, self._rows)
        except (
            EnvironmentFault
        ):  # a disk that is full, a folder of somebody else's: items are made as well without it
            self._keeps = False
        self._unsaved = 0.0


def kept(name: str, options: Mapping[str, Any], start: int, release: str) -> Kept:
    """The stream of a task's entries from a seed on, as this release of reasoning-gym makes them."""
    said = json.dumps(options, sort_keys=True, default=repr)
    mark = fingerprint([FORM, release, name, said, start])
    file = cache_folder() / "items" / f"{name}-{mark}.jsonl"
    return Kept(file, lambda skip: entries(name, options, start, skip))


def _read(file: Path) -> list[EntryRow]:
    try:
        return read_jsonl(file, EntryRow)
    except RunDirectoryError:
        return []


def packed(value: object) -> object:
    """A value as JSON has it, from which `unpacked` makes the same again: JSON has no tuples, and no keys but texts.

    Raises:
        TypeError: It is made of something else.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value) is list:
        return [packed(one) for one in value]
    if type(value) is tuple:
        return {"tuple": [packed(one) for one in value]}
    if type(value) is dict:
        return {"dict": [[packed(key), packed(inner)] for key, inner in value.items()]}
    raise TypeError(f"{type(value).__name__} cannot be kept")


def unpacked(value: Any) -> Any:
    """What `packed` was given."""
    match value:
        case list():
            return [unpacked(one) for one in value]
        case {"tuple": items}:
            return tuple(unpacked(one) for one in items)
        case {"dict": pairs}:
            return {unpacked(key): unpacked(inner) for key, inner in pairs}
    return value
