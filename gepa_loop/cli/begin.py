"""The commands that a user begins with: a config from data, and whether it will do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli.options import ConfigOption, SetOption, say_next
from gepa_loop.errors import EnvironmentFault, ModelError
from gepa_loop.outside.redact import printable
from gepa_loop.show.terminal import out

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gepa_loop.start.guess import Ask


def init(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Your data: CSV, JSONL, JSON, Parquet, a folder, or the id of a dataset on the Hugging Face hub.",
        ),
    ],
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="Your prompt, a text file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="A hub id or a folder. Default: what fits this machine."
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            "--question", metavar="FIELD", help="The field that is the question, or a text with {fields}."
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="FIELD", help="The field that is the expected answer.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="FIELD", help="Records with the same value of it stay in one split."),
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")] = Path(
        "gepa-loop.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
) -> None:
    """Look at your data and your prompt, and write a gepa-loop.toml that fits them."""
    from gepa_loop.config.tables import ModelConfig
    from gepa_loop.model.outline import outline
    from gepa_loop.show.start import said_table, survey_table
    from gepa_loop.start.guess import fixed
    from gepa_loop.start.machine import choose_model, find_machine
    from gepa_loop.start.proposal import propose_config
    from gepa_loop.start.survey import survey
    from gepa_loop.start.write import check_target, place, write_config
    from gepa_loop.task.items import load_task
    from gepa_loop.task.prompts import read_prompt
    from gepa_loop.task.sources import settle

    target = to.expanduser().resolve()
    check_target(target, force)
    text = None if prompt is None else read_prompt(prompt).text
    found = survey(data)
    out.print(
        f"{data}: {len(found.records):,} records, {len(found.fields)} fields ({found.kind})", highlight=False
    )
    out.print(survey_table(found), soft_wrap=False)
    machine = find_machine(next(place for place in target.parents if place.exists()))
    chosen = choose_model(machine, model)
    doubts: list[str] = []
    try:
        tokenizer = outline(ModelConfig(name=chosen[0])).tokenizer
    except (ModelError, EnvironmentFault) as error:
        tokenizer = None
        doubts.append(f"lengths are estimated, as the model is not in reach yet: {error}")
    proposal = propose_config(
        found.at(place(data, target.parent)),
        None if prompt is None or text is None else (place(str(prompt), target.parent), text),
        chosen,
        tokenizer,
        machine,
        fixed(question, answer, group, _ask(yes)),
    )
    out.print(said_table(proposal.said), soft_wrap=False)
    config = settle(write_config(proposal, target))
    task = load_task(config.task, config.seed, config.loop.rounds)
    _warn([*doubts, *proposal.doubts, *task.warnings()])
    sizes = ", ".join(f"{split} {len(items):,}" for split, items in task.splits.items() if items)
    out.print(f"wrote {_shown(target)}: it loads, with {sizes}", highlight=False)
    default = target == Path.cwd().resolve() / "gepa-loop.toml"
    say_next("check", *(() if prompt else ("--prompt", "FILE")), config=None if default else _shown(target))


def doctor(config: ConfigOption = None, sets: SetOption = None) -> None:
    """List all that is wrong with a config on this machine, before an item or a weight is made."""
    from gepa_loop.config.layers import DEFAULT_PRESET, find_source
    from gepa_loop.show.start import finding_row
    from gepa_loop.start.doctor import examine

    out.print(f"config {find_source(config, DEFAULT_PRESET)}", highlight=False)
    faults = []
    for one in examine(config, sets or (), Path.cwd()):
        out.print(finding_row(one), soft_wrap=False)
        faults += [one] if one.state == "fault" else []
    if not faults:
        out.print("no fault was found", highlight=False)
        say_next("check", config=config, sets=sets)
        return
    out.print("1 fault" if len(faults) == 1 else f"{len(faults)} faults", highlight=False)
    out.print("when they are mended, ", end="", highlight=False)
    say_next("doctor", config=config, sets=sets)
    raise typer.Exit(min(one.code for one in faults))


def check(
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="A prompt; without it that of the config.")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, metavar="N", help="Items to try.")] = 10,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Try a few items without and with the prompt: the replies, what is read from them, what to change."""
    from gepa_loop.config.load import load_config
    from gepa_loop.lab import open_lab, seed_prompt, seed_source
    from gepa_loop.show.start import tried_lines
    from gepa_loop.start.trial import try_items
    from gepa_loop.task.prompts import read_prompt
    from gepa_loop.task.sources import settle

    settings = settle(load_config(config, sets or ()))
    candidate = seed_prompt(settings.optimize) if prompt is None else read_prompt(prompt)
    source = seed_source(settings.optimize) if prompt is None else str(prompt)
    lab = open_lab(settings)
    lab.check_prompt(candidate, source)
    for line in (*lab.facts(), lab.prompt_facts(candidate, source)):
        out.print(line, highlight=False)
    _warn([*lab.task.warnings(), *filter(None, [lab.overlap(candidate, source)])])
    trial = try_items(lab, candidate.text, items)
    out.print(f"\n{len(trial.tried)} items of train, which decide nothing; greedy replies:", highlight=False)
    for one in trial.tried:
        out.print()
        for text in tried_lines(one, trial.scored):
            out.print(text, highlight=False)
    out.print()
    if trial.scored:
        out.print(
            f"mean score of these {len(trial.tried)}: {trial.bare:.2f} without a prompt, {trial.prompted:.2f} with it",
            highlight=False,
        )
    for sentence in trial.suggestions:
        out.print(Text.assemble(("try:", "cyan"), " ", printable(sentence)), highlight=False)
    if trial.suggestions:
        out.print("with what is suggested, ", end="", highlight=False)
        say_next("check", *(("--prompt", str(prompt)) if prompt else ()), config=config, sets=sets)
    elif Path(source).is_file():
        shown = str(prompt) if prompt is not None else _shown(Path(source))
        say_next("distill", "--prompt", shown, config=config, sets=sets)
    else:
        say_next("plan", config=config, sets=sets)


def task_check(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="file.py:Name, package.module:Name, or a JSONL, JSON, CSV or Parquet file; without it the config's task.",
        ),
    ] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
) -> None:
    """Look at a task without a model: its items, what a right, a wrong and an empty reply are worth, and whether they always are."""
    from gepa_loop.show.start import finding_row, item_lines, worth_lines
    from gepa_loop.start.rehearsal import named_config, rehearse

    settings = named_config(name, config, sets or ())
    seen = rehearse(settings.task, settings.seed)
    for text in (*item_lines(seen.task.items), *worth_lines(seen.worths)):
        out.print(text, highlight=False)
    out.print()
    for one in seen.findings:
        out.print(finding_row(one), soft_wrap=False)
    words = () if name is None else (name,)
    if seen.faults:
        out.print("when that is mended, ", end="", highlight=False)
        say_next("task", "check", *words, config=config, sets=sets)
        raise typer.Exit(2)
    named = [] if name is None else [f"task.kind={settings.task.kind}", f"task.name={name}"]
    say_next("check", config=config, sets=[*named, *(sets or ())])


def _ask(yes: bool) -> Ask:
    """Who decides what fields mean: a person where there is one to ask."""
    from gepa_loop.show.start import AskPerson
    from gepa_loop.start.guess import propose

    return AskPerson(out) if not yes and sys.stdin.isatty() and out.is_terminal else propose


def _warn(sentences: Iterable[str]) -> None:
    for sentence in dict.fromkeys(sentences):
        out.print(Text.assemble(("warning:", "yellow"), " ", printable(sentence)), highlight=False)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
