"""What a tracker is: a record of a run beside the run's own.

It is told what the run's files say, in the order in which they came to be, and nothing else. Whatever its methods raise never
ends a run: it is said once, and what the tracker lacks is sent at the end, or by the next process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Value = float | str
Ending = Literal["done", "stopped", "failed"]
"""How a process ended: `stopped` is a signal's."""

NOTHING = -1
"""The step before all steps of a series."""


@dataclass(frozen=True)
class Point:
    """What a file of a run says of one step."""

    series: str
    """What has an axis of steps of its own: a student (`round_00/1a2b3c4d`), a race, a search, the decisions, the events."""
    step: int
    values: Mapping[str, Value]
    """By the names that they have in the file, `step` among them; those of inner tables after slashes."""


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with."""

    folder: Path
    """The run's directory."""
    project: str
    name: str
    config: Mapping[str, Value]
    """By dotted key, without secrets; said once, when a tracked run is begun."""
    id: str | None
    """The tracked run that is to go on; None begins one."""


class Tracker(Protocol):
    """A tracked run, opened."""

    id: str
    """By which a later process goes on with it."""
    where: str
    """Where a person sees it: an address, a folder, a command."""

    def held(self, series: str) -> int | None:
        """The last step that it has of a series, `NOTHING` where it has none, and None where it cannot tell."""
        ...

    def log(self, points: Sequence[Point], first: int) -> None:
        """Take points, the first of which is the `first`-th of the tracked run, from 0.

        What a process sent just before it was killed may come again where `held` cannot tell, and so may what was sent in a call
        that failed, with the number that it had.
        """
        ...

    def summary(self, values: Mapping[str, Value]) -> None:
        """Take what the run came to."""
        ...

    def artifact(self, name: str, text: str) -> None:
        """Take a file, where it keeps files."""
        ...

    def close(self, ending: Ending) -> None:
        """End it, for now or for good."""
        ...
