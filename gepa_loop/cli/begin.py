"""The commands that a user begins with: a config from data, and whether it will do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli.answer import finding, give, head, reader
from gepa_loop.cli.options import ConfigOption, JsonOption, SetOption, say_next
from gepa_loop.errors import EnvironmentFault, ModelError
from gepa_loop.outside.redact import printable
from gepa_loop.show.terminal import Terminal, out

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gepa_loop.cli.records import CheckedAnswer, DoctorAnswer, TaskAnswer, TriedAnswer, WorthAnswer
    from gepa_loop.start.guess import Ask
    from gepa_loop.start.rehearsal import Worth
    from gepa_loop.start.trial import Tried


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


def doctor(config: ConfigOption = None, sets: SetOption = None, json_file: JsonOption = None) -> None:
    """List all that is wrong with a config on this machine, before an item or a weight is made."""
    from gepa_loop.config.layers import DEFAULT_PRESET, find_source
    from gepa_loop.show.start import finding_row
    from gepa_loop.start.doctor import examine

    to, source = reader(json_file), find_source(config, DEFAULT_PRESET)
    to.print(f"config {source}", highlight=False)
    found = []
    for one in examine(config, sets or (), Path.cwd()):
        to.print(finding_row(one), soft_wrap=False)
        found.append(one)
    faults = [one for one in found if one.state == "fault"]
    answer: DoctorAnswer = {
        **head("doctor"),
        "config": source,
        "findings": [finding(one) for one in found],
        "faults": len(faults),
    }
    give(json_file, answer)
    if not faults:
        to.print("no fault was found", highlight=False)
        say_next("check", config=config, sets=sets, to=to)
        return
    to.print("1 fault" if len(faults) == 1 else f"{len(faults)} faults", highlight=False)
    to.print("when they are mended, ", end="", highlight=False)
    say_next("doctor", config=config, sets=sets, to=to)
    raise typer.Exit(min(one.code for one in faults))


def check(
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="A prompt; without it that of the config.")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, metavar="N", help="Items to try.")] = 10,
    config: ConfigOption = None,
    sets: SetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Try a few items without and with the prompt: the replies, what is read from them, what to change."""
    from gepa_loop.config.load import load_config
    from gepa_loop.lab import open_lab, seed_prompt, seed_source
    from gepa_loop.show.making import making
    from gepa_loop.show.start import tried_lines
    from gepa_loop.start.trial import try_items
    from gepa_loop.task.prompts import read_prompt
    from gepa_loop.task.sources import settle

    settings = settle(load_config(config, sets or ()))
    candidate = seed_prompt(settings.optimize) if prompt is None else read_prompt(prompt)
    source = seed_source(settings.optimize) if prompt is None else str(prompt)
    to = reader(json_file)
    with making(to, settings.task.name) as told:
        lab = open_lab(settings, making=told)
    lab.check_prompt(candidate, source)
    facts = [*lab.facts(), lab.prompt_facts(candidate, source)]
    for line in facts:
        to.print(line, highlight=False)
    warnings = [*lab.task.warnings(), *filter(None, [lab.overlap(candidate, source)])]
    _warn(warnings, to)
    trial = try_items(lab, candidate.text, items)
    answer: CheckedAnswer = {
        **head("check"),
        "facts": facts,
        "warnings": warnings,
        "scored": trial.scored,
        "bare": trial.bare if trial.scored else None,
        "prompted": trial.prompted if trial.scored else None,
        "items": [_tried(one) for one in trial.tried],
        "suggestions": list(trial.suggestions),
    }
    give(json_file, answer)
    to.print(f"\n{len(trial.tried)} items of train, which decide nothing; greedy replies:", highlight=False)
    for one in trial.tried:
        to.print()
        for text in tried_lines(one, trial.scored):
            to.print(text, highlight=False)
    to.print()
    if trial.scored:
        to.print(
            f"mean score of these {len(trial.tried)}: {trial.bare:.2f} without a prompt, {trial.prompted:.2f} with it",
            highlight=False,
        )
    for sentence in trial.suggestions:
        to.print(Text.assemble(("try:", "cyan"), " ", printable(sentence)), highlight=False)
    if trial.suggestions:
        to.print("with what is suggested, ", end="", highlight=False)
        say_next("check", *(("--prompt", str(prompt)) if prompt else ()), config=config, sets=sets, to=to)
    elif Path(source).is_file():
        shown = str(prompt) if prompt is not None else _shown(Path(source))
        say_next("distill", "--prompt", shown, config=config, sets=sets, to=to)
    else:
        say_next("plan", config=config, sets=sets, to=to)


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
    json_file: JsonOption = None,
) -> None:
    """Look at a task without a model: its items, what a right, a wrong and an empty reply are worth, and whether they always are."""
    from gepa_loop.show.start import finding_row, item_lines, worth_lines
    from gepa_loop.start.rehearsal import mean_worths, named_config, rehearse

    settings = named_config(name, config, sets or ())
    seen, to = rehearse(settings.task, settings.seed), reader(json_file)
    for text in (*item_lines(seen.task.items), *worth_lines(seen.worths)):
        to.print(text, highlight=False)
    to.print()
    for one in seen.findings:
        to.print(finding_row(one), soft_wrap=False)
    answer: TaskAnswer = {
        **head("task check"),
        "task": seen.task.name,
        "items": len(seen.task.items),
        "distinct": seen.task.distinct,
        "answered": sum(bool(item.answer) for item in seen.task.items),
        "worths": [_worth(one) for one in seen.worths],
        "means": {str(what): mean for what, mean in mean_worths(seen.worths).items()},
        "findings": [finding(one) for one in seen.findings],
        "faults": seen.faults,
    }
    give(json_file, answer)
    words = () if name is None else (name,)
    if seen.faults:
        to.print("when that is mended, ", end="", highlight=False)
        say_next("task", "check", *words, config=config, sets=sets, to=to)
        raise typer.Exit(2)
    named = [] if name is None else [f"task.kind={settings.task.kind}", f"task.name={name}"]
    say_next("check", config=config, sets=[*named, *(sets or ())], to=to)


def _tried(one: Tried) -> TriedAnswer:
    return {
        "item": one.item.id,
        "question": one.item.question,
        "answer": one.item.answer,
        "bare": one.bare.as_dict(),
        "prompted": one.prompted.as_dict(),
    }


def _worth(one: Worth) -> WorthAnswer:
    return {
        "item": one.item,
        "what": one.what,
        "reply": one.reply,
        "score": one.score.value,
        "feedback": one.score.feedback,
    }


def _ask(yes: bool) -> Ask:
    """Who decides what fields mean: a person where there is one to ask."""
    from gepa_loop.show.start import AskPerson
    from gepa_loop.start.guess import propose

    return AskPerson(out) if not yes and sys.stdin.isatty() and out.is_terminal else propose


def _warn(sentences: Iterable[str], to: Terminal = out) -> None:
    for sentence in dict.fromkeys(sentences):
        to.print(Text.assemble(("warning:", "yellow"), " ", printable(sentence)), highlight=False)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
