"""The stages of a run as its plan and its costs name them, and the seconds of each."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gepa_loop.cost.records import StageRow
from gepa_loop.run.files import append_jsonl, read_jsonl
from gepa_loop.stages.observer import Observer

FILE = "stages.jsonl"
LOADING = "loading"
"""What comes before the first stage of a process."""
COSTS = "costs"
"""The stage that reckons with the others, and is none of them."""
DONE = 0.05
"""Seconds that a stage takes at most whose work was done by an earlier process: those are not written, and loading is not where all are."""

KINDS = {
    "baseline": "baseline",
    "untrained": "baseline",
    "questions": "questions",
    "the prompted model's replies": "references",
    "optimize": "search",
    "front": "search",
    "prompt on": "prompts",
    "race to": "training",
    "distill": "training",
    "distilled": "training",
    "student": "students",
    "test": "test",
}
"""What a stage's name begins with -> the stage of a plan."""


def kind_of(stage: str) -> str:
    """The stage of a plan that a stage of a run is part of; itself where it is none."""
    found = [
        kind for name, kind in KINDS.items() if stage == name or stage.startswith((f"{name} ", f"{name}:"))
    ]
    return found[-1] if found else stage


class Timed:
    """An observer that writes the seconds of each stage, and hands everything on to another one.

    Args:
        inner: The other one.
        folder: Of the run.
        began: When this process did, by `time.monotonic`.
        gpus: That it has.
    """

    def __init__(self, inner: Observer, folder: Path, began: float, gpus: int = 1) -> None:
        self._gpus = gpus
        self._inner, self._file, self._began = inner, folder / FILE, began
        self._now: tuple[str, int | None, str | None] = (LOADING, None, None)
        self._loading: list[StageRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._now[0] != LOADING:
            self._close()

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        """A stage begins, and the one before it has ended."""
        self._close()
        self._now = (name, round, candidate)
        self._inner.stage(name, round=round, candidate=candidate)

    def progress(self, done: int, total: int, **facts: Any) -> None:
        """Handed on."""
        self._inner.progress(done, total, **facts)

    def note(self, text: str) -> None:
        """Handed on."""
        self._inner.note(text)

    def _close(self) -> None:
        now = time.monotonic()
        stage, number, candidate = self._now
        row: StageRow = {
            "stage": stage,
            "round": number,
            "candidate": candidate,
            "seconds": round(now - self._began, 3),
            "gpus": self._gpus,
        }
        self._began = now
        if stage == LOADING:
            self._loading = [row]
        elif row["seconds"] > DONE:
            append_jsonl(self._file, [*self._loading, row])
            self._loading = []


def seconds_by_stage(folder: Path) -> dict[str, float]:
    """Seconds of a run by stage of its plan, all processes together, in the order in which they began."""
    found: dict[str, float] = {}
    for row in _rows(folder):
        kind = kind_of(row["stage"])
        found[kind] = found.get(kind, 0.0) + row["seconds"]
    return found


def gpu_seconds(folder: Path) -> float:
    """The same of all stages, as many times as a process had GPUs; rows of runs that were begun before there were workers do not say it."""
    return sum(row["seconds"] * row.get("gpus", 1) for row in _rows(folder))


def _rows(folder: Path) -> list[StageRow]:
    return [row for row in read_jsonl(folder / FILE, StageRow) if kind_of(row["stage"]) != COSTS]
