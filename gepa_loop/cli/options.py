"""Options that several commands take."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text

from gepa_loop.cli import complete
from gepa_loop.cli.answer import check_target
from gepa_loop.outside.redact import printable
from gepa_loop.show.terminal import Terminal, out

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE_OR_PRESET",
        help="A TOML file or a preset. Default: ./gepa-loop.toml, else demo.",
        autocompletion=complete.sources,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Set one value; any number of times. `config explain` lists the keys.",
        autocompletion=complete.settings,
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--run-name",
        help="Folder below runs/. Default: made from the command and the config.",
        autocompletion=complete.run_names,
    ),
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
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        metavar="N",
        help="Share the work among N workers, each with a GPU of its own; the same as --set cluster.workers=N.",
    ),
]
TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help="Follow the run with trackio, wandb, mlflow, tensorboard, or package.module:function of yours; the same as --set track.kind=...",
        autocompletion=complete.trackers,
    ),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what would run, and stop.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete an earlier run of this name, or continue it.")
]


def _run_argument(offered: Callable[[], list[str]]) -> Any:
    """A finished or running run; a shell offers the names of those that the command takes."""
    return typer.Argument(
        metavar="RUN",
        help="A run's name below runs/, the path of its folder, or `last`.",
        autocompletion=offered,
    )


StudentArgument = Annotated[str, _run_argument(complete.students)]
SearchedArgument = Annotated[str, _run_argument(complete.searched)]
SweepArgument = Annotated[str, _run_argument(complete.sweeps)]
ReportedArgument = Annotated[str, _run_argument(complete.reported)]
RoundOption = Annotated[
    int | None,
    typer.Option(
        "--round",
        min=0,
        help="A loop's round. Default: the last with a search.",
        autocompletion=complete.rounds,
    ),
]
JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=check_target,
        help="Write the result as one JSON object. `-` is standard output; what a person reads is on standard error then.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only warnings, errors and the result at the end.")
]


def id_argument(metavar: str) -> Any:
    """A candidate of the run that is named before it."""
    return typer.Argument(
        metavar=metavar,
        help="A candidate's name or the beginning of its id, or 'seed', or 'best'.",
        autocompletion=complete.candidates,
    )


def say_next(
    *words: str, config: str | None = None, sets: Sequence[str] | None = None, to: Terminal = out
) -> None:
    """The command that a user types next, with those flags of this one that it reads."""
    flags = ["--config", config] if config else []
    if sets:
        from gepa_loop.config.reference import read_by

        flags += [word for one in read_by(words[0], sets) for word in ("--set", one)]
    to.print(f"next: gepa-loop {shlex.join([*words, *flags])}", highlight=False)


def with_setting(sets: Sequence[str] | None, key: str, value: float | str | None) -> list[str]:
    """Settings with a flag's value after them, where it is given."""
    return [*(sets or []), *([] if value is None else [f"{key}={value}"])]


def warn(sentences: Iterable[str], to: Terminal = out) -> None:
    """Say each of them once."""
    for sentence in dict.fromkeys(sentences):
        to.print(Text.assemble(("warning:", "yellow"), " ", printable(sentence)), highlight=False)
