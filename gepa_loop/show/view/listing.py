"""The runs of a folder, a row each, as far as they can be read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.errors import GepaLoopError
from gepa_loop.outside.redact import printable
from gepa_loop.run.find import all_runs, written
from gepa_loop.run.identity import read_manifest
from gepa_loop.scores.numbers import decimal
from gepa_loop.show.report.read import Told, has_page, read_told
from gepa_loop.show.report.verdict import interval, verdict
from gepa_loop.show.runs import run_line


@dataclass(frozen=True)
class Cell:
    """A score; `value` is what a column is sorted by."""

    value: float
    score: str
    interval: str


@dataclass(frozen=True)
class Listed:
    """What a row says of a run."""

    name: str
    command: str
    model: str
    task: str
    verdict: str
    """Or its state, where there is no page."""
    page: bool
    """Whether it has one."""
    scores: Mapping[str, Cell]
    """`base`, `prompted` and `student`, as far as they are known, as what decides was drawn."""
    way: str
    saved: int | None
    """Tokens at every call."""
    when: str
    """Its last change, UTC."""
    seconds: float
    """The same, since the epoch."""


def runs_of(folder: Path) -> dict[str, Path]:
    """The run directories of a folder by name, the last that was written to first."""
    return {path.name: path for path in all_runs(folder)}


def listed(path: Path) -> Listed:
    """A run's row; what cannot be read is said in it."""
    changed = written(path)
    when = datetime.datetime.fromtimestamp(changed, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    command = model = task = ""
    try:
        identity = read_manifest(path)["identity"]
        command, model, task = (str(identity.get(key, "")) for key in ("command", "model.name", "task.name"))
        if has_page(path):
            told = read_told(path)
            found = verdict(told)
            scores = _scores(told)
            saved = None if told.adapter is None else told.saved
            return Listed(
                path.name, command, model, task, found, True, scores, told.decides, saved, when, changed
            )
        line = run_line(path)
        said = f"{line.state}{f': {line.outcome}' if line.outcome else ''}"
    except (GepaLoopError, KeyError, TypeError, ValueError) as error:
        # A run that somebody has edited must not hide the others.
        said = f"cannot be read: {printable(str(error))}"
    return Listed(path.name, command, model, task, said, False, {}, "", None, when, changed)


def _scores(told: Told) -> dict[str, Cell]:
    cards = {one.key: told.card(one.key, told.decides) for one in told.subjects}
    return {
        key: Cell(card["mean"], decimal(card["mean"]), interval(card))
        for key, card in cards.items()
        if key != "student_prompted"
    }
