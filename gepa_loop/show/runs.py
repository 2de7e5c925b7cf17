"""The runs of a folder, a line each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.directory import in_use, part_in_use
from gepa_loop.run.files import read_json
from gepa_loop.run.find import written
from gepa_loop.run.identity import read_manifest
from gepa_loop.scores.numbers import decimal
from gepa_loop.stages.grid import is_whole
from gepa_loop.stages.reached import reached


@dataclass(frozen=True)
class RunLine:
    """What a line says of a run."""

    name: str
    command: str
    state: str
    """`running` while a process is at it, else `done`, `unfinished` (a sweep also where it was asked for more since), `another version` whose records have other keys, or `damaged` where a
    file is not as it was written."""
    outcome: str
    """What it found; where it is not done, how far it is."""
    megabytes: float
    hours: float
    """Since something was written last."""


def run_line(folder: Path) -> RunLine:
    """A run, as far as it can be read."""
    size = _bytes(folder) / 1e6
    hours = (time.time() - written(folder)) / 3600
    command, state, outcome = "", "unfinished", ""
    try:
        command = str(read_manifest(folder)["identity"].get("command", ""))
        done = folder / ("optimize/result.json" if command == "optimize" else "result.json")
        if done.exists():
            state, outcome = "done", _outcome(command, read_json(done))
            if command == "sweep" and not is_whole(folder):
                state = "unfinished"
        else:
            outcome = reached(folder)
    except RunDirectoryError:
        state = "damaged"
    except KeyError:
        state = "another version"
    if in_use(folder) or part_in_use(folder) is not None:
        state = "running"
    return RunLine(folder.name, command, state, outcome, size, hours)


def _bytes(folder: Path) -> int:
    """Of the files of a run; while it works, some go before they are asked."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size
    return size


def _outcome(command: str, result: Any) -> str:
    """What a finished run found, on `test` where it looked there."""
    said, scores = [], []
    if command in ("loop", "distill"):
        cards = result["test"] if command == "loop" else result[result["decides"]]
        scores = [("bare", cards["base"]), ("prompted", cards["prompted"]), ("student", cards["student"])]
        said = ["no winner"] if command == "loop" and result["adapter"] is None else []
    elif command == "evaluate":
        # An earlier version's have no name.
        scores = [(f"{one.get('name', one['id'])} on {result['split']}", one) for one in result["subjects"]]
    elif command == "sweep":
        untrained, students = result["untrained"][0], {one["cell"]: one["student"] for one in result["cells"]}
        highest = max(students, key=lambda name: students[name]["mean"])
        scores = [("bare", untrained["base"]), ("prompted", untrained["prompted"])]
        scores += [(name, students[name]) for name in dict.fromkeys((result["baseline"], highest))]
    return ", ".join([*said, *(f"{name} {decimal(one['mean'])}" for name, one in scores if one is not None)])


def runs_table(lines: Sequence[RunLine]) -> Table:
    """One line each, as they come."""
    table = Table(box=None, pad_edge=False, header_style="underline")
    for name, right in (
        ("run", False),
        ("command", False),
        ("state", False),
        ("size", True),
        ("written", True),
        ("outcome", False),
    ):
        # A name stays whole, to be copied.
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "run")
    for one in lines:
        style = {"done": "green", "running": "bold", "damaged": "red"}.get(one.state, "yellow")
        table.add_row(
            Text(one.name, "bold"),
            one.command,
            Text(one.state, style),
            _size(one.megabytes),
            _ago(one.hours),
            one.outcome,
        )
    return table


def _size(megabytes: float) -> str:
    return f"{megabytes:,.0f} MB" if megabytes >= 1 else f"{max(1, 1000 * megabytes):.0f} kB"


def _ago(hours: float) -> str:
    if hours * 60 < 1:
        return "just now"
    if hours < 1:
        return f"{hours * 60:.0f} min ago"
    return f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"
