"""`gepa-loop sweep`: one prompt under every cell of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli import complete
from gepa_loop.cli.answer import caller_of, give, run_head
from gepa_loop.cli.options import (
    ConfigOption,
    DryOption,
    FreshOption,
    JsonOption,
    NameOption,
    QuietOption,
    SetOption,
    TrackOption,
    say_next,
    with_setting,
)
from gepa_loop.command import Flags
from gepa_loop.errors import ConfigError
from gepa_loop.program import tell, work
from gepa_loop.session import shown

if TYPE_CHECKING:
    from gepa_loop.cli.records.made import SweptAnswer
    from gepa_loop.config.grids import Grid


def sweep(
    prompt: Annotated[Path, typer.Option("--prompt", metavar="FILE", help="The teacher's prompt.")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="GRID",
            help="A grid's name, or a TOML file with one.",
            autocompletion=complete.grid_sources,
        ),
    ] = None,
    line: Annotated[
        str | None,
        typer.Option(
            "--grid",
            metavar="LINE",
            help="A grid in a line: 'distill.lr=1e-5,5e-5 x objective.type=full_kl,token_kl'.",
            autocompletion=complete.keys,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Seeds of each cell, from the config's on.")
    ] = 1,
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell",
            metavar="CELL_seedN",
            help="Make this cell and seed alone, while other processes make others of the same sweep; without it what is left is made, and all are compared.",
        ),
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    track: TrackOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
    json_file: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Distill one prompt under every cell of a grid and compare the students with the baseline's."""
    from gepa_loop.task.prompts import read_prompt

    if cell is not None and (fresh or run_name is None):
        raise ConfigError(
            f"--cell {cell}: "
            + ("--fresh would delete what others make" if fresh else "the sweep has no name"),
            "Others make its other cells: all of them need the same --run-name, and none --fresh.",
        )
    grid = grid_of(preset, line)
    flags = Flags(config, with_setting(sets, "track.kind", track), run_name, dry_run, fresh)
    asked = work.Asked(grid, seeds, cell)
    caller = caller_of(json_file, quiet)
    if cell is not None:
        made = work.sweep_cell(flags, asked, read_prompt(prompt), str(prompt), caller)
        caller.results.print(f"made: {shown(made)}", highlight=False)
        path, result = made.parent, None
    else:
        outcome = work.sweep(flags, asked, read_prompt(prompt), str(prompt), caller)
        tell.tell_swept(outcome, caller.results)
        path, result = outcome.path, outcome.result
    say_next("runs", "cells", path.name, to=caller.facts)
    answer: SweptAnswer = {**run_head("sweep", path), "result": result}
    give(json_file, answer)


def grid_of(preset: str | None, line: str | None) -> Grid:
    """The grid that --preset or --grid gives; ConfigError where it is none, or both do."""
    from gepa_loop.config.grids import load_grid, parse_grid

    if (preset is None) == (line is None):
        both = "" if preset is None else ", and not both"
        raise ConfigError(
            f"a sweep needs --preset or --grid{both}", "`gepa-loop config presets` lists grids."
        )
    return load_grid(preset) if preset else parse_grid(line or "")
