"""Jobs in tables: what Slurm says of each task beside what its run says, and means over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gepa_loop.jobs.folder import task_id
from gepa_loop.jobs.records import JobRecord
from gepa_loop.jobs.slurm import Told
from gepa_loop.scores.numbers import decimal, interval_text, p_text
from gepa_loop.scores.over_seeds import LEAST, OverSeeds
from gepa_loop.show.runs import run_line
from gepa_loop.stages.cells import cells_of
from gepa_loop.stages.grid import cell_folder, is_sweep

NOT_BEGUN = "not begun"


@dataclass(frozen=True)
class TaskLine:
    """What a line says of a task."""

    task: int
    job_id: str
    told: Told | None
    """By Slurm; None where it does not know the task any more."""
    path: Path
    """Of its run or cell."""
    said: str
    """State, as the files say."""
    outcome: str
    """In words, as the files say."""


def task_lines(record: JobRecord, told: Mapping[str, Told]) -> list[TaskLine]:
    """The tasks of a job.

    Raises:
        RunDirectoryError: A file of a sweep is not as it was written.
    """
    lines, runs = [], Path.cwd() / "runs"
    sweep = runs / record["tasks"][0]["run"]
    cells = {}
    if record["run_command"] == "sweep" and is_sweep(sweep):
        cells = {cell_folder(one.name, one.seed): one for one in cells_of(sweep)}
    for number, task in enumerate(record["tasks"]):
        path, said, outcome = runs / task["run"], NOT_BEGUN, ""
        if task["cell"] is not None:
            path /= task["cell"]
            if (cell := cells.get(task["cell"])) is not None and cell.state != "owed":
                said, outcome = cell.state, f"{cell.steps} steps" if cell.steps else ""
        elif (path / "manifest.json").exists():
            line = run_line(path)
            said, outcome = line.state, line.outcome
        own = task_id(record, number)
        lines.append(TaskLine(number, own, told.get(own), path, said, outcome))
    return lines


def tasks_table(lines: Sequence[TaskLine]) -> Table:
    """One line each."""
    table = Table(box=None, pad_edge=False, header_style="underline")
    for title in ("task", "job", "slurm", "exit", "run", "state", "outcome"):
        table.add_column(title, overflow="fold", no_wrap=title == "run")
    for one in lines:
        style = {"done": "green", "running": "bold", "damaged": "red", NOT_BEGUN: "dim"}.get(
            one.said, "yellow"
        )
        table.add_row(
            str(one.task),
            one.job_id,
            _slurm(one.told),
            "" if one.told is None or one.told.live else one.told.exit_code,
            Text(one.path.name, "bold"),
            Text(one.said, style),
            one.outcome,
        )
    return table


def _slurm(told: Told | None) -> str:
    if told is None:
        return "-"
    return f"{told.state} ({told.reason})" if told.live and told.reason else told.state


def job_line(name: str, lines: Sequence[TaskLine]) -> str:
    """A job in a line: how many tasks are in which state."""
    slurm = Counter(line.told.state for line in lines if line.told is not None)
    said = Counter(line.said for line in lines)
    parts = [", ".join(f"{count} {state}" for state, count in found.items()) for found in (slurm, said)]
    return f"{name}: {'; '.join(filter(None, parts))}"


def seeds_table(command: str, found: Mapping[str, OverSeeds], seeds: int) -> Table:
    """Scores and differences over seeds, each with how many of them have it where not all do."""
    tested = (
        "95 % intervals and p over seeds (t)"
        if seeds >= LEAST
        else f"no interval and no p below {LEAST} seeds"
    )
    table = Table(
        title=f"{command} over {seeds} seed{'s' * (seeds > 1)}; {tested}", title_justify="left", box=None
    )
    for title in ("", "mean", "interval", "p", "by seed"):
        right = title in ("mean", "p")
        table.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=not title)
    for name, one in found.items():
        gap = " - " in name
        sign = "+" if gap else ""
        had = len(one.by_seed)
        table.add_row(
            Text(name if had == seeds else f"{name} ({had} of {seeds} seeds have one)"),
            decimal(one.mean, sign),
            "-" if one.ci is None else interval_text(list(one.ci), sign),
            "" if not gap else "-" if one.p is None else p_text(one.p),
            " ".join(decimal(value, sign) for value in one.by_seed),
        )
    return table
