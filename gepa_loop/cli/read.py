"""The commands that show something: configurations, and the prompts of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli import complete
from gepa_loop.cli.answer import STANDARD_OUTPUT, give, head, reader
from gepa_loop.cli.options import (
    ConfigOption,
    JsonOption,
    RoundOption,
    SearchedArgument,
    SetOption,
    id_argument,
    say_next,
)

if TYPE_CHECKING:
    from gepa_loop.cli.records.read import (
        ConfigAnswer,
        ExplainedAnswer,
        KeyAnswer,
        PresetsAnswer,
        PromptAnswer,
        PromptDiffAnswer,
        SearchAnswer,
    )
    from gepa_loop.config.reference import Key


def config_show(
    config: ConfigOption = None,
    sets: SetOption = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a TOML file in which each key is explained.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Print the resolved configuration as JSON, or as a file to start from."""
    from gepa_loop.config.document import whole_document
    from gepa_loop.config.load import load_config

    found = load_config(config, sets or ())
    answer: ConfigAnswer = {**head("config show"), "config": found.model_dump(mode="json")}
    give(json_file, answer)
    if json_file != STANDARD_OUTPUT:
        print(whole_document(found) if toml else found.model_dump_json(indent=2))


def config_explain(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]",
            help="As `distill.lr`, or a table, as `distill`; without it all keys.",
            autocompletion=complete.keys_and_tables,
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Say what a key of the configuration means: its values, its default, which commands read it."""
    from gepa_loop.config.reference import all_keys_explained, explained
    from gepa_loop.show.reference import key_list, key_page

    known, to = all_keys_explained(), reader(json_file)
    wanted = known if key is None else explained(key, known)
    answer: ExplainedAnswer = {**head("config explain"), "keys": [_key(one) for one in wanted]}
    give(json_file, answer)
    if key is None:
        to.print(key_list(known), soft_wrap=False)
        return
    for one in wanted:
        to.print(key_page(one), soft_wrap=False)


def _key(key: Key) -> KeyAnswer:
    from gepa_loop.config.reference import REQUIRED

    required = key.default is REQUIRED
    return {
        "name": key.name,
        "about": "\n".join(key.paragraphs),
        "kind": key.kind,
        "required": required,
        "default": None if required else key.default,
        "under": key.under,
        "readers": key.readers,
    }


def config_presets(json_file: JsonOption = None) -> None:
    """List the presets and the sweep's grids that come with the program."""
    from gepa_loop.config.grids import grids
    from gepa_loop.config.layers import presets

    answer: PresetsAnswer = {**head("config presets"), "presets": presets(), "grids": grids()}
    give(json_file, answer)
    to = reader(json_file)
    for title, found in (("presets (--config)", presets()), ("grids (sweep --preset)", grids())):
        to.print(title, highlight=False, style="underline")
        for name, about in found.items():
            to.print(Text.assemble((name, "bold"), "  ", about), highlight=False)


def prompts_list(
    name: SearchedArgument,
    number: RoundOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every proposal, with why it was not accepted.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """List the front of a search, best first."""
    from gepa_loop.show.browse import print_all, print_front
    from gepa_loop.show.searches import read_search

    search = read_search(name, number)
    answer: SearchAnswer = {
        **head("prompts list"),
        "search": search.name,
        "front": list(search.front),
        "candidates": list(search.tried),
        "result": search.result,
    }
    give(json_file, answer)
    to = reader(json_file)
    (print_all if everything else print_front)(search, to)
    say_next("prompts", "show", name, "best" if search.front else "seed", *_round(number), to=to)


def _round(number: int | None) -> tuple[str, ...]:
    return () if number is None else ("--round", str(number))


def prompts_show(
    name: SearchedArgument,
    candidate: Annotated[str, id_argument("ID")],
    number: RoundOption = None,
    text: Annotated[bool, typer.Option("--text", help="Print the text alone.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Show one prompt: where it came from, its scores and costs, its text."""
    from gepa_loop.show.browse import print_candidate
    from gepa_loop.show.searches import lineage, pick, read_search

    search = read_search(name, number)
    chosen = pick(search, candidate)
    answer: PromptAnswer = {
        **head("prompts show"),
        "search": search.name,
        "candidate": chosen,
        "lineage": [one["id"] for one in lineage(search, chosen)],
    }
    give(json_file, answer)
    if text:
        typer.echo(chosen["text"].encode(), err=json_file == STANDARD_OUTPUT)
    else:
        to = reader(json_file)
        print_candidate(search, chosen, to)
        if to.is_terminal and chosen["id"] != pick(search, "seed")["id"]:  # a pipe gets the text and no more
            say_next("prompts", "diff", name, "seed", chosen["id"], *_round(number), to=to)


def prompts_diff(
    name: SearchedArgument,
    old: Annotated[str, id_argument("A")],
    new: Annotated[str, id_argument("B")],
    number: RoundOption = None,
    json_file: JsonOption = None,
) -> None:
    """Show what changed from one prompt to another."""
    import difflib

    from gepa_loop.show.browse import print_comparison
    from gepa_loop.show.searches import pick, read_search

    search = read_search(name, number)
    before, after = pick(search, old), pick(search, new)
    names = before["id"], after["id"]
    lines = difflib.unified_diff(before["text"].split("\n"), after["text"].split("\n"), *names, lineterm="")
    answer: PromptDiffAnswer = {
        **head("prompts diff"),
        "search": search.name,
        "old": before,
        "new": after,
        "diff": list(lines),
    }
    give(json_file, answer)
    to = reader(json_file)
    print_comparison(before, after, to)
    if to.is_terminal:  # a pipe gets a diff that can be applied
        say_next("prompts", "show", name, after["id"], *_round(number), to=to)
