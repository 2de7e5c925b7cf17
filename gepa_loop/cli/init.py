"""The command that a user begins with: a config from data and a prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli.answer import give, head, reader
from gepa_loop.cli.options import JsonOption, SetOption, say_next, warn
from gepa_loop.errors import EnvironmentFault, ModelError
from gepa_loop.session import shown

if TYPE_CHECKING:
    from gepa_loop.cli.records.begun import InitAnswer
    from gepa_loop.show.terminal import Terminal
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
    sets: SetOption = None,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")] = Path(
        "gepa-loop.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take what is proposed.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Look at your data and your prompt, and write a gepa-loop.toml that fits them."""
    from gepa_loop.config.tables import ModelConfig
    from gepa_loop.model.outline import outline
    from gepa_loop.show.start import said_table, survey_table
    from gepa_loop.start.guess import fixed
    from gepa_loop.start.lengths import too_long
    from gepa_loop.start.machine import choose_model, find_machine
    from gepa_loop.start.proposal import propose_config
    from gepa_loop.start.survey import survey
    from gepa_loop.start.write import (
        check_target,
        place,
        read_config,
        read_options,
        with_sets,
        write_config,
    )
    from gepa_loop.task.held import held_questions
    from gepa_loop.task.items import load_task
    from gepa_loop.task.prompts import read_prompt
    from gepa_loop.task.sources import settle

    person = reader(json_file)
    target = to.expanduser().resolve()
    check_target(target, force)
    text = None if prompt is None else read_prompt(prompt).text
    found = survey(data, read_options(sets or ()))
    person.print(
        f"{data}: {len(found.records):,} records, {len(found.fields)} fields ({found.kind})", highlight=False
    )
    person.print(survey_table(found), soft_wrap=False)
    machine = find_machine(next(place for place in target.parents if place.exists()))
    chosen = choose_model(machine, model)
    doubts: list[str] = []
    try:
        known = outline(ModelConfig(name=chosen[0]))
        tokenizer = known.tokenizer
        if text is not None:
            doubts += too_long(text, tokenizer, known.context, chosen[0])
    except (ModelError, EnvironmentFault) as error:
        tokenizer = None
        doubts.append(f"lengths are estimated, as the model is not in reach yet: {error}")
    proposal = propose_config(
        found.at(place(data, target.parent)),
        None if prompt is None or text is None else (place(str(prompt), target.parent), text),
        chosen,
        tokenizer,
        machine,
        fixed(question, answer, group, _ask(yes, person)),
    )
    written = with_sets(proposal, sets or ())
    person.print(said_table(written.said), soft_wrap=False)
    # A file that does not load would be in the way of the next `init`.
    config = settle(read_config(proposal, sets or (), target.parent))
    task = load_task(config.task, config.seed, config.loop.rounds)
    write_config(written, target)
    held = None if text is None else held_questions(text, str(prompt), task.splits)
    warnings = [*doubts, *proposal.doubts, *task.warnings(), *filter(None, [held])]
    warn(warnings, person)
    counts = {split: len(items) for split, items in task.splits.items() if items}
    sizes = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    person.print(f"wrote {shown(target)}: it loads, with {sizes}", highlight=False)
    default = target == Path.cwd().resolve() / "gepa-loop.toml"
    result: InitAnswer = {
        **head("init"),
        "path": str(target),
        "records": len(found.records),
        "fields": [
            {
                "name": field.name,
                "kind": field.kind,
                "filled": field.filled,
                "distinct": field.distinct,
                "words": field.words,
                "example": field.example,
            }
            for field in found.fields
        ],
        "said": dict(written.said),
        "warnings": warnings,
        "splits": counts,
    }
    give(json_file, result)
    say_next(
        "check",
        *(() if prompt else ("--prompt", "FILE")),
        config=None if default else shown(target),
        to=person,
    )


def _ask(yes: bool, person: Terminal) -> Ask:
    """Who decides what fields mean: a person where there is one to ask."""
    from gepa_loop.show.start import AskPerson
    from gepa_loop.start.guess import propose

    return AskPerson(person) if not yes and sys.stdin.isatty() and person.is_terminal else propose
