"""The commands that tell whether a config and a task will do."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from gepa_loop.cli.answer import finding, give, head, reader
from gepa_loop.cli.options import ConfigOption, JsonOption, SetOption, say_next, warn
from gepa_loop.outside.redact import printable
from gepa_loop.session import shown
from gepa_loop.show.loading import say_loading

if TYPE_CHECKING:
    from gepa_loop.cli.records.begun import CheckedAnswer, DoctorAnswer, TaskAnswer, TriedAnswer, WorthAnswer
    from gepa_loop.start.rehearsal import Worth
    from gepa_loop.start.trial import Tried


def doctor(config: ConfigOption = None, sets: SetOption = None, json_file: JsonOption = None) -> None:
    """List all that is wrong with a config on this machine, before an item or a weight is made."""
    from gepa_loop.config.layers import DEFAULT_PRESET, LOCAL_FILE, find_source

    to, source = reader(json_file), find_source(config, DEFAULT_PRESET)
    alone = config is None and source == DEFAULT_PRESET
    why = f": the preset, as there is no {LOCAL_FILE} in this folder" if alone else ""
    to.print(f"config {source}{why}", highlight=False)
    found = []
    with _collecting_later():
        from gepa_loop.show.start import finding_row
        from gepa_loop.start.doctor import examine

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


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Without the collector, which takes a fifth of the time in which torch and transformers are imported: what they make stays."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


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

    to, loaded = reader(json_file), load_config(config, sets or ())
    say_loading(loaded.model.name, to)
    from gepa_loop.lab import open_lab, seed_prompt, seed_source
    from gepa_loop.show.making import making
    from gepa_loop.show.start import tried_lines
    from gepa_loop.start.trial import try_items
    from gepa_loop.task.prompts import read_prompt
    from gepa_loop.task.sources import settle

    settings = settle(loaded)
    candidate = seed_prompt(settings.optimize) if prompt is None else read_prompt(prompt)
    source = seed_source(settings.optimize) if prompt is None else str(prompt)
    with making(to, settings.task.name) as told:
        lab = open_lab(settings, making=told)
    lab.check_prompt(candidate, source)
    facts = [*lab.facts(), lab.prompt_facts(candidate, source)]
    for line in facts:
        to.print(line, highlight=False)
    warnings = [*lab.task.warnings(), *filter(None, [lab.overlap(candidate, source)])]
    warn(warnings, to)
    to.print("asking the model without and with the prompt", highlight=False)
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
    for advice in trial.advice:
        mark = "try:" if advice.sets else "note:"
        to.print(Text.assemble((mark, "cyan"), " ", printable(advice.sentence)), highlight=False)
    if trial.sets:
        keys = {setting.partition("=")[0] for setting in trial.sets}
        kept = [setting for setting in sets or () if setting.partition("=")[0] not in keys]
        suggested = [*kept, *trial.sets]
        to.print("with what is suggested, ", end="", highlight=False)
        say_next(
            "check", *(("--prompt", str(prompt)) if prompt else ()), config=config, sets=suggested, to=to
        )
    elif Path(source).is_file():
        file = str(prompt) if prompt is not None else shown(Path(source))
        say_next("distill", "--prompt", file, config=config, sets=sets, to=to)
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
