"""The commands about the runs of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli import complete
from gepa_loop.cli.answer import STANDARD_OUTPUT, give, head, reader, run_head
from gepa_loop.cli.options import JsonOption, SweepArgument, say_next
from gepa_loop.errors import ConfigError

if TYPE_CHECKING:
    from gepa_loop.cli.records.read import (
        CellAnswer,
        CellsAnswer,
        RemovedAnswer,
        RunLineAnswer,
        RunsAnswer,
    )
    from gepa_loop.show.runs import RunLine
    from gepa_loop.stages.cells import Cell


def runs_list(json_file: JsonOption = None) -> None:
    """List the runs below ./runs, the last written first: what they are, how far, how large, what they found."""
    from gepa_loop.config.layers import LOCAL_FILE
    from gepa_loop.run.find import all_runs
    from gepa_loop.serving.finished import has_student
    from gepa_loop.show.runs import run_line, runs_table
    from gepa_loop.stages.reached import continuation

    folders, to = all_runs(), reader(json_file)
    lines = [run_line(path) for path in folders]
    answer: RunsAnswer = {**head("runs"), "runs": [_run(one) for one in lines]}
    give(json_file, answer)
    if not folders:
        to.print("there are no runs below ./runs", highlight=False)
        if Path(LOCAL_FILE).is_file():
            say_next("check", to=to)
        else:
            say_next("init", "--data", "FILE", "--prompt", "FILE", to=to)
        return
    to.print(runs_table(lines), soft_wrap=False)
    last = folders[0]
    typed = continuation(last) if lines[0].state == "unfinished" else None
    ready = next((path for path in folders if has_student(path)), None)
    if typed:
        to.print(f"to continue {last.name}, next: {typed}", highlight=False)
    elif ready is not None:
        say_next("chat", ready.name, "--compare", to=to)


def _run(line: RunLine) -> RunLineAnswer:
    return {
        "run": line.name,
        "run_command": line.command,
        "state": line.state,
        "outcome": line.outcome,
        "megabytes": line.megabytes,
        "hours": line.hours,
    }


def runs_cells(run: SweepArgument, json_file: JsonOption = None) -> None:
    """Show which cells of a sweep are done, running and owed, with their learning curves so far."""
    from gepa_loop.run.directory import in_use
    from gepa_loop.run.find import known_runs, run_folder
    from gepa_loop.show.cells import cells_line, cells_table
    from gepa_loop.stages.cells import cells_of
    from gepa_loop.stages.grid import is_sweep, is_whole
    from gepa_loop.stages.reached import continuation

    folder = run_folder(run, is_sweep, "Sweeps")
    if not is_sweep(folder):
        raise ConfigError(f"{run}: no sweep", known_runs(is_sweep, "Sweeps"))
    cells, to = cells_of(folder), reader(json_file)
    answer: CellsAnswer = {**run_head("runs cells", folder), "cells": [_cell(one) for one in cells]}
    give(json_file, answer)
    to.print(cells_table(cells), soft_wrap=False)
    to.print(cells_line(cells), highlight=False)
    command = continuation(folder)
    if all(one.state == "done" for one in cells) and is_whole(folder):
        say_next("report", run, to=to)
    elif command is not None and not in_use(folder):
        to.print(f"next: {command}", highlight=False)


def _cell(cell: Cell) -> CellAnswer:
    return {
        "cell": cell.name,
        "seed": cell.seed,
        "state": cell.state,
        "steps": cell.steps,
        "kept": cell.kept,
        "held_out": {str(step): score for step, score in cell.held_out.items()},
        "held_out_kl": {str(step): nats for step, nats in cell.kl.items()},
    }


def runs_remove(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Names below runs/.", autocompletion=complete.removable),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Delete runs with all that they made; the ledger of looks at test keeps what it knows."""
    import shutil

    from gepa_loop.run.directory import locked, refuse_parts_in_use
    from gepa_loop.run.files import disk_errors
    from gepa_loop.run.find import named_run

    folders = [named_run(name) for name in names]
    shown = ", ".join(folder.name for folder in folders)
    if not yes and not typer.confirm(f"Delete {shown}?", err=json_file == STANDARD_OUTPUT):
        raise typer.Exit(1)
    for folder in folders:
        with locked(folder / ".lock", folder, "End that process first."), disk_errors(folder):
            refuse_parts_in_use(folder)
            shutil.rmtree(folder)
    answer: RemovedAnswer = {**head("runs remove"), "runs": [folder.name for folder in folders]}
    give(json_file, answer)
    to = reader(json_file)
    to.print(f"deleted {shown}", highlight=False)
    say_next("runs", to=to)
