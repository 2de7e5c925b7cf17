"""A tracker that keeps what it is told in a file of the run, and fails when it is asked to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gepa_loop.tracking.base import NOTHING, Ending, Opening, Point, Value

DIES = "TRACKER_DIES"
"""Variable: the call of `log`, from 0, that a process does not survive: of its points the first is kept, and Ctrl-C comes."""
FAILS = "TRACKER_FAILS"
"""Variable: the calls, from 0, that fail in a process; a number, several with commas, or `all`."""


class Notebook:
    """Rows {"what": ..., ...} in `notebook.jsonl` beside the run, which a kill leaves whole to the last line."""

    def __init__(self, opening: Opening, tells: bool = True) -> None:
        self.file = book(opening.folder)
        self.tells, self.calls = tells, 0
        self.id = opening.id or f"{opening.project}/{opening.name}"
        self.where = str(self.file)
        self._add("open", run=self.id, begun=opening.id is None, config=dict(opening.config))

    def held(self, series: str) -> int | None:
        if not self.tells:
            return None
        steps = [row["step"] for row in read(self.file, "point") if row["series"] == series]
        return max(steps, default=NOTHING)

    def log(self, points: Sequence[Point], first: int) -> None:
        dies = str(self.calls) == os.environ.get(DIES)
        self._may_fail()
        for number, point in enumerate(points, first):
            self._add("point", number=number, series=point.series, step=point.step, values=dict(point.values))
            if dies:
                raise KeyboardInterrupt

    def summary(self, values: Mapping[str, Value]) -> None:
        self._may_fail()
        self._add("summary", values=dict(values))

    def artifact(self, name: str, text: str) -> None:
        self._may_fail()
        self._add("artifact", name=name, text=text)

    def close(self, ending: Ending) -> None:
        self._add("close", ending=ending)

    def _may_fail(self) -> None:
        number, wanted = self.calls, os.environ.get(FAILS, "").split(",")
        self.calls += 1
        if str(number) in wanted or "all" in wanted:
            raise ConnectionError("the notebook is closed")

    def _add(self, what: str, **more: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"what": what, **more}) + "\n")


def notebook(opening: Opening) -> Notebook:
    return Notebook(opening)


def mute(opening: Opening) -> Notebook:
    """It cannot say what it has."""
    return Notebook(opening, tells=False)


def broken(opening: Opening) -> object:
    """It has no method that a tracker has."""
    return opening


def book(run: Path) -> Path:
    return run.parent / f"{run.name}.notebook.jsonl"


def read(file: Path, what: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row["what"] == what]


def numbered(file: Path) -> list[dict[str, Any]]:
    """The points as a tracker has them that does not take a number again."""
    first: dict[int, dict[str, Any]] = {}
    for row in read(file, "point"):
        first.setdefault(row["number"], row)
    return [first[number] for number in sorted(first)]


def steps(file: Path) -> dict[str, list[int]]:
    """Series -> its steps as they came."""
    found: dict[str, list[int]] = {}
    for row in read(file, "point"):
        found.setdefault(row["series"], []).append(row["step"])
    return found
