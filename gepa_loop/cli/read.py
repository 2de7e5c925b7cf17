"""The commands that show something: configurations, and the prompts of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli.answer import STANDARD_OUTPUT, give, head, reader
from gepa_loop.cli.options import (
    ID_HELP,
    ConfigOption,
    JsonOption,
    RoundOption,
    RunArgument,
    SetOption,
    say_next,
)
from gepa_loop.errors import ConfigError
from gepa_loop.show.terminal import out

if TYPE_CHECKING:
    from gepa_loop.cli.records import (
        ExplainedAnswer,
        KeyAnswer,
        PresetsAnswer,
        PromptAnswer,
        PromptDiffAnswer,
        RunLineAnswer,
        RunsAnswer,
        SearchAnswer,
    )
    from gepa_loop.config.reference import Key
    from gepa_loop.show.runs import RunLine


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


def runs_list(json_file: JsonOption = None) -> None:
    """List the runs below ./runs, the last written first: what they are, how far, how large, what they found."""
    from gepa_loop.run.find import all_runs
    from gepa_loop.serving.finished import has_student
    from gepa_loop.show.runs import run_line, runs_table

    folders, to = all_runs(), reader(json_file)
    lines = [run_line(path) for path in folders]
    answer: RunsAnswer = {**head("runs"), "runs": [_run(one) for one in lines]}
    give(json_file, answer)
    if not folders:
        to.print("there are no runs below ./runs", highlight=False)
        say_next("init", "--data", "FILE", "--prompt", "FILE", to=to)
        return
    to.print(runs_table(lines), soft_wrap=False)
    ready = next((path for path in folders if has_student(path)), None)
    if ready is not None:
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


def runs_cells(run: RunArgument) -> None:
    """Show which cells of a sweep are done, running and owed, with their learning curves so far."""
    from gepa_loop.run.find import known_runs, run_folder
    from gepa_loop.show.cells import cells_line, cells_table
    from gepa_loop.stages.cells import cells_of
    from gepa_loop.stages.grid import is_sweep

    folder = run_folder(run, is_sweep, "Sweeps")
    if not is_sweep(folder):
        raise ConfigError(f"{run}: no sweep", known_runs(is_sweep, "Sweeps"))
    cells = cells_of(folder)
    out.print(cells_table(cells), soft_wrap=False)
    out.print(cells_line(cells), highlight=False)


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
    (print_all if everything else print_front)(search, reader(json_file))


def prompts_show(
    name: RunArgument,
    candidate: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
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
        print_candidate(search, chosen, reader(json_file))


def prompts_diff(
    name: RunArgument,
    old: Annotated[str, typer.Argument(metavar="A", help=ID_HELP)],
    new: Annotated[str, typer.Argument(metavar="B", help=ID_HELP)],
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
    print_comparison(before, after, reader(json_file))
