"""What every run writes of itself: its manifest and its events."""

from __future__ import annotations

from typing import TypedDict


class ManifestRecord(TypedDict):
    """What a run is recognised by; it continues only where all values are equal."""

    birth: str
    """A random number, made with the folder: a run that is deleted and made again is another one."""
    identity: dict[str, object]
    """What the results depend on: values of the config by dotted name, and fingerprints of model, data and versions."""


class EventRow(TypedDict):
    """One row for each thing that happened, the first when the run began. What else a row has depends on `event`."""

    event: str
    """`start` (with the command, in `task` whether its items are of the `config` or of an `object` of a Python program, in `typed` the command line,
    if any, and the facts of the data), `round`, `front`, `judge`, `questions` or `done`."""
