"""What is kept of a tracked run."""

from __future__ import annotations

from typing import TypedDict


class PendingRecord(TypedDict):
    """A point that is being sent."""

    series: str
    """Which axis of steps it is on."""
    step: int
    """Its place there."""


class TrackRecord(TypedDict):
    """How far a tracker is, by which the next process goes on with the same tracked run."""

    project: str
    """Where it is; another one begins another tracked run."""
    run: str
    """The tracker's own id of it."""
    points: int
    """How many it has been sent; the next one has this number."""
    sent: dict[str, int]
    """Series -> the last step that it has been sent."""
    pending: list[PendingRecord]
    """What it is being sent, from the next number on: after a kill it comes again under the same numbers."""
    whole: dict[str, str]
    """Of `result.json` and `report.html`, the first 16 hex digits of the sha256 of what it has been sent."""
