"""Of `submit`, and of commands about jobs."""

from __future__ import annotations

from typing import TypedDict

from gepa_loop.cli.records.whole import Answer
from gepa_loop.scores.records import OverSeedsRecord
from gepa_loop.sweep import SweepRecord


class SubmittedAnswer(Answer):
    """Of `submit`."""

    job: str
    """Its name, by which `jobs` knows it."""
    job_id: str | None
    """Slurm's number; null of a dry run."""
    script: str
    """What runs."""
    path: str
    """The folder of its script and logs, absolute."""
    runs: list[str]
    """What each task makes: a run below runs/, or a cell of one."""


class TaskAnswer(TypedDict):
    """A task of a job."""

    task: int
    """Its number in the array; 0 of what is none."""
    job_id: str
    """What Slurm calls it."""
    slurm: str | None
    """The state in Slurm's word; null where it does not know the task (any more)."""
    reason: str
    """Why it waits, in Slurm's word; empty where it does not."""
    exit_code: str | None
    """`code:signal`, as Slurm says it."""
    path: str
    """The folder of its run, or of its cell, absolute."""
    state: str
    """What that says of itself: as in `runs` or `runs cells`, and `not begun`."""
    outcome: str
    """In words: what it found, or how far it is."""


class JobAnswer(TypedDict):
    """A job."""

    job: str
    """Its name."""
    tasks: list[TaskAnswer]
    """By their number."""


class JobsAnswer(Answer):
    """Of `jobs status`."""

    jobs: list[JobAnswer]
    """The one that was asked for, or all, the last submitted first."""


class LogAnswer(Answer):
    """Of `jobs logs`."""

    job: str
    """Its name."""
    task: int
    """Its number in the array."""
    path: str
    """The log, absolute."""


class CollectedAnswer(Answer):
    """Of `jobs collect`."""

    job: str
    """Its name."""
    run_command: str
    """What made the runs."""
    seeds: list[int]
    """Those that are counted."""
    missing: list[str]
    """Runs that are not finished and not counted."""
    over_seeds: dict[str, OverSeedsRecord]
    """Score or difference -> its mean over seeds; none of a sweep."""
    sweep: SweepRecord | None
    """The sweep's result; null of what is none."""
