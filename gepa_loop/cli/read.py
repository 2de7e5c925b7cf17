"""The commands that show something: configurations, and the prompts of a search."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from gepa_loop.cli.options import (
    ID_HELP,
    ConfigOption,
    RoundOption,
    RunArgument,
    SetOption,
    say_next,
)
from gepa_loop.show.terminal import out


def config_show(
    config: ConfigOption = None,
    sets: SetOption = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a TOML file in which each key is explained.")
    ] = False,
) -> None:
    """Print the resolved configuration as JSON, or as a file to start from."""
    from gepa_loop.config.document import whole_document
    from gepa_loop.config.load import load_config

    found = load_config(config, sets or ())
    print(whole_document(found) if toml else found.model_dump_json(indent=2))


def config_explain(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]", help="As `distill.lr`, or a table, as `distill`; without it all keys."
        ),
    ] = None,
) -> None:
    """Say what a key of the configuration means: its values, its default, which commands read it."""
    from gepa_loop.config.reference import all_keys_explained, explained
    from gepa_loop.show.reference import key_list, key_page

    known = all_keys_explained()
    if key is None:
        out.print(key_list(known), soft_wrap=False)
        return
    for one in explained(key, known):
        out.print(key_page(one), soft_wrap=False)


def config_presets() -> None:
    """List the presets and the sweep's grids that come with the program."""
    from gepa_loop.config.grids import grids
    from gepa_loop.config.layers import presets

    for title, found in (("presets (--config)", presets()), ("grids (sweep --preset)", grids())):
        out.print(title, highlight=False, style="underline")
        for name, about in found.items():
            out.print(Text.assemble((name, "bold"), "  ", about), highlight=False)


def runs_list() -> None:
    """List the runs below ./runs, the last written first: what they are, how far, how large, what they found."""
    from gepa_loop.run.find import all_runs
    from gepa_loop.serving.finished import has_student
    from gepa_loop.show.runs import run_line, runs_table

    folders = all_runs()
    if not folders:
        out.print("there are no runs below ./runs", highlight=False)
        say_next("init", "--data", "FILE", "--prompt", "FILE")
        return
    out.print(runs_table([run_line(path) for path in folders]), soft_wrap=False)
    ready = next((path for path in folders if has_student(path)), None)
    if ready is not None:
        say_next("chat", ready.name, "--compare")


def runs_remove(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names below runs/.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs with all that they made; the ledger of looks at test keeps what it knows."""
    import shutil

    from gepa_loop.run.directory import locked
    from gepa_loop.run.files import disk_errors
    from gepa_loop.run.find import named_run

    folders = [named_run(name) for name in names]
    shown = ", ".join(folder.name for folder in folders)
    if not yes and not typer.confirm(f"Delete {shown}?"):
        raise typer.Exit(1)
    for folder in folders:
        with locked(folder / ".lock", folder, "End that process first."), disk_errors(folder):
            shutil.rmtree(folder)
    out.print(f"deleted {shown}", highlight=False)


def prompts_list(
    name: RunArgument,
    number: RoundOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every proposal, with why it was not accepted.")
    ] = False,
) -> None:
    """List the front of a search, best first."""
    from gepa_loop.show.browse import print_all, print_front
    from gepa_loop.show.searches import read_search

    (print_all if everything else print_front)(read_search(name, number), out)


def prompts_show(
    name: RunArgument,
    candidate: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
    number: RoundOption = None,
    text: Annotated[bool, typer.Option("--text", help="Print the text alone.")] = False,
) -> None:
    """Show one prompt: where it came from, its scores and costs, its text."""
    from gepa_loop.show.browse import print_candidate
    from gepa_loop.show.searches import pick, read_search

    search = read_search(name, number)
    chosen = pick(search, candidate)
    if text:
        typer.echo(chosen["text"].encode())
    else:
        print_candidate(search, chosen, out)


def prompts_diff(
    name: RunArgument,
    old: Annotated[str, typer.Argument(metavar="A", help=ID_HELP)],
    new: Annotated[str, typer.Argument(metavar="B", help=ID_HELP)],
    number: RoundOption = None,
) -> None:
    """Show what changed from one prompt to another."""
    from gepa_loop.show.browse import print_comparison
    from gepa_loop.show.searches import pick, read_search

    search = read_search(name, number)
    print_comparison(pick(search, old), pick(search, new), out)
