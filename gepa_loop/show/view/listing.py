"""The runs of a folder, a row each, as far as they can be read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gepa_loop.errors import GepaLoopError
from gepa_loop.outside.redact import printable
from gepa_loop.run.files import read_json
from gepa_loop.run.find import all_runs, written
from gepa_loop.run.identity import read_manifest
from gepa_loop.scores.numbers import decimal
from gepa_loop.show.earlier import of_this_version
from gepa_loop.show.report.read import has_page, read_told
from gepa_loop.show.report.verdict import interval, verdict
from gepa_loop.show.runs import run_line
from gepa_loop.show.sweep_report import has_sweep_page, level_of
from gepa_loop.show.sweep_report import verdict as claims
from gepa_loop.sweep import SweepRecord


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
    when: str
    """Its last change, UTC."""
    seconds: float
    """The same, since the epoch."""
    command: str = ""
    model: str = ""
    task: str = ""
    data: str = ""
    """The fingerprint of its task."""
    verdict: str = ""
    """Or its state, where there is no page."""
    page: bool = False
    """Whether it has one."""
    compared: bool = False
    """Whether it can stand beside another."""
    scores: Mapping[str, Cell] = field(default_factory=dict)
    """`base`, `prompted` and `student`, as far as they are known, as what decides was drawn."""
    way: str = ""
    saved: int | None = None
    """Tokens at every call."""


def runs_of(folder: Path) -> dict[str, Path]:
    """The run directories of a folder by name, the last that was written to first."""
    return {path.name: path for path in all_runs(folder)}


def listed(path: Path) -> Listed:
    """A run's row, made of its records alone: files that they list are not looked at. What cannot be read is said in it."""
    changed = written(path)
    when = datetime.datetime.fromtimestamp(changed, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    row = Listed(path.name, when, changed)
    try:
        with of_this_version(path.name):
            identity = read_manifest(path)["identity"]
            keys = ("command", "model.name", "task.name", "task.fingerprint")
            command, model, task, data = (str(identity.get(key, "")) for key in keys)
            row = replace(row, command=command, model=model, task=task, data=data)
            row = (
                _of_student(row, path)
                if has_page(path)
                else _of_sweep(row, path)
                if has_sweep_page(path)
                else _of_other(row, path)
            )
    except (GepaLoopError, TypeError, ValueError) as error:
        # A run that somebody has edited must not hide the others.
        row = replace(row, verdict=f"cannot be read: {printable(str(error))}")
    if not _is_utf8(path.name):
        # No address leads there.
        row = replace(row, name=printable(path.name), page=False, compared=False)
    return row


def _of_student(row: Listed, path: Path) -> Listed:
    told = read_told(path)
    cards = {one.key: told.card(one.key, told.decides) for one in told.subjects}
    scores: dict[str, Cell] = {
        key: Cell(card["mean"], decimal(card["mean"]), interval(card))
        for key, card in cards.items()
        if key != "student_prompted"
    }
    saved = None if told.adapter is None else told.saved
    said = verdict(told)
    return replace(row, verdict=said, page=True, compared=True, scores=scores, way=told.decides, saved=saved)


def _of_sweep(row: Listed, path: Path) -> Listed:
    result = read_json(path / "result.json", SweepRecord)
    return replace(row, verdict=f"{claims(result, level_of(path))}.", page=True)


def _of_other(row: Listed, path: Path) -> Listed:
    line = run_line(path)
    return replace(row, verdict=f"{line.state}{f': {line.outcome}' if line.outcome else ''}")


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)
