"""The command line: parse, load the config, call one function, map errors to exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gepa_loop import __version__
from gepa_loop.errors import GepaLoopError, Interrupted, NoGain

if TYPE_CHECKING:
    from gepa_loop.config import Config
    from gepa_loop.lab import Lab
    from gepa_loop.runs import Run

app = typer.Typer(
    name="gepa-loop",
    help="Find the prompt whose distilled student is best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
config_app = typer.Typer(no_args_is_help=True, help="Show presets and resolved configurations.")
app.add_typer(config_app, name="config")

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE_OR_PRESET", help="A TOML file or a preset. Default: ./gepa-loop.toml, else demo."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Set one value; any number of times. `config show` lists the keys."),
]
NameOption = Annotated[
    str | None, typer.Option("--run-name", help="Folder below runs/. Default: made from the command and the config.")
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would run, and stop.")]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Delete an earlier run of this name, or continue it.")
]


def main() -> None:
    """Entry point of the `gepa-loop` script."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; the only place that catches what a user can cause."""
    import click

    try:
        code = app(argv, standalone_mode=False)
    except click.exceptions.Abort:
        err.print("interrupted")
        return Interrupted.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except KeyboardInterrupt:
        command = " ".join(["gepa-loop", *argv])
        err.print(f"\n[bold]interrupted[/]; what was finished is saved. Continue with:\n  {command}", highlight=False)
        return Interrupted.exit_code
    except GepaLoopError as error:
        err.print("[bold red]error[/]: ", end="")
        err.print(str(error), markup=False, highlight=False)
        if error.hint:
            err.print(error.hint, markup=False, highlight=False, style="dim")
        return error.exit_code
    return code if isinstance(code, int) else 0


def _version(value: bool) -> None:
    if value:
        out.print(f"gepa-loop {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def optimize(
    config: ConfigOption = None,
    sets: SetOption = None,
    run_name: NameOption = None,
    dry_run: DryOption = False,
    fresh: FreshOption = False,
) -> None:
    """Evolve teacher prompts with GEPA and write the Pareto front."""
    from gepa_loop.config import load_config

    settings = load_config(config, sets or ())
    with _open("optimize", settings, config, run_name, dry_run, fresh) as opened:
        if opened is None:
            return
        import os

        from gepa_loop.loop import search

        lab, run, view = opened
        front = search(lab, run.path / "optimize", view, None, bool(os.environ.get("ANTHROPIC_API_KEY")), 0)
    for place, candidate in enumerate(front.candidates):
        out.print(f"{place + 1}. {candidate.id}  {run.path / 'optimize' / 'prompts' / candidate.id}.txt", highlight=False)
