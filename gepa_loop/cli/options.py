"""Options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE_OR_PRESET",
        help="A TOML file or a preset. Default: ./gepa-loop.toml, else demo.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Set one value; any number of times. `config show` lists the keys.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--run-name", help="Folder below runs/. Default: made from the command and the config."),
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", min=1, help="Rounds; the same as --set loop.rounds=N.")
]


class Switch(StrEnum):
    """Of a flag that names what it is set to."""

    ON = "on"
    OFF = "off"


RaceOption = Annotated[
    Switch | None,
    typer.Option(
        "--race",
        help="Whether students that are behind on the way are dropped; off distills all to their end. The same as --set race.on=...",
    ),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what would run, and stop.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete an earlier run of this name, or continue it.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name below runs/, the path of its folder, or `last`.")
]
RoundOption = Annotated[
    int | None, typer.Option("--round", min=0, help="A loop's round. Default: the last with a search.")
]
ID_HELP = "The beginning of a candidate's id, or 'seed', or 'best'."
