"""Options that several commands take."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from gepa_loop.cli.answer import check_target
from gepa_loop.outside.redact import printable
from gepa_loop.show.terminal import Terminal, out


def _run_names(incomplete: str) -> list[str]:
    """For a shell that completes a run's name."""
    from gepa_loop.run.find import LAST, all_runs

    return [name for name in (LAST, *(path.name for path in all_runs())) if name.startswith(incomplete)]


def _sources(incomplete: str) -> list[str]:
    """So, of `--config`: presets, and TOML files of the working directory."""
    from pathlib import Path

    from gepa_loop.config.layers import presets

    files = [path.name for path in Path().glob("*.toml")]
    return [name for name in (*files, *presets()) if name.startswith(incomplete)]


def _keys(incomplete: str) -> list[str]:
    """So, of `--set`."""
    from gepa_loop.config.explain import all_keys

    return [f"{key}=" for key in all_keys() if key.startswith(incomplete)]


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE_OR_PRESET",
        help="A TOML file or a preset. Default: ./gepa-loop.toml, else demo.",
        autocompletion=_sources,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Set one value; any number of times. `config explain` lists the keys.",
        autocompletion=_keys,
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
TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help="Follow the run with trackio, wandb, mlflow, tensorboard, or package.module:function of yours; the same as --set track.kind=...",
    ),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print what would run, and stop.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete an earlier run of this name, or continue it.")
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name below runs/, the path of its folder, or `last`.",
        autocompletion=_run_names,
    ),
]
RoundOption = Annotated[
    int | None, typer.Option("--round", min=0, help="A loop's round. Default: the last with a search.")
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
ID_HELP = "A candidate's name or the beginning of its id, or 'seed', or 'best'."


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
