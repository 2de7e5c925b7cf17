"""What is kept of a job."""

from __future__ import annotations

from typing import TypedDict

COMMANDS = ("optimize", "distill", "loop", "evaluate", "sweep")
"""Those that make a run, which a job can be."""


class TaskRecord(TypedDict):
    """A task of a job, which makes one run, or one cell of a sweep."""

    run: str
    """The run's name."""
    seed: int | None
    """Of an array over seeds, and of a cell; null where the config says it."""
    cell: str | None
    """The cell's folder in its sweep; null of what is no sweep."""
    words: list[str]
    """What its command has besides what all tasks have."""


class JobRecord(TypedDict):
    """What was submitted under a name."""

    run_command: str
    """`loop`, `distill`, `optimize`, `evaluate` or `sweep`."""
    words: list[str]
    """What stands behind it for all tasks."""
    array: bool
    """Whether it is a job array; else it has one task."""
    tasks: list[TaskRecord]
    """By their number in the array."""
    job_ids: list[str]
    """Slurm's numbers, one for each time that it was submitted; the last one counts."""
