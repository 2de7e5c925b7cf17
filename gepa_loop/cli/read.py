"""The commands that show something: configurations, and the prompts of a search."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from gepa_loop.cli.options import ID_HELP, ConfigOption, RoundOption, RunArgument, SetOption
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
