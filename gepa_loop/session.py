"""What every command begins with: the config, the checks, the run directory."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import typer
from rich.text import Text

from gepa_loop.command import EVALUATE, NOTHING, Command, Flags, Inputs
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.outside.redact import printable, told
from gepa_loop.show.caller import PERSON, Caller
from gepa_loop.show.loading import say_code, say_loading

if TYPE_CHECKING:
    from gepa_loop.config.tables import LoopConfig
    from gepa_loop.config.whole import Config
    from gepa_loop.lab import Lab
    from gepa_loop.run.directory import Run
    from gepa_loop.stages.observer import Observer
    from gepa_loop.start.plan import Plan
    from gepa_loop.task.prompts import Candidate


Keeps = Literal["nothing", "part", "all"]
"""What of a run is there and stays: nothing, as it is made afresh, what an earlier process came to, if there was one, or all of it."""


class Session(NamedTuple):
    """What a command works with once everything is checked and its run directory is open."""

    lab: Lab
    run: Run
    view: Observer


def shown(path: Path) -> str:
    """A path relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def open_session(
    command: Command, flags: Flags, inputs: Inputs = NOTHING, caller: Caller = PERSON
) -> Iterator[Session]:
    """Config, model, task, checks, run directory and view of a command.

    Raises:
        typer.Exit: It is a dry run, and everything is checked and printed.
    """
    from gepa_loop.config.load import load_config

    began = time.monotonic()
    settings = load_config(flags.config, flags.sets)
    say_loading(settings.model.name, caller.facts)
    from gepa_loop.lab import seed_prompt, seed_source, without_limits
    from gepa_loop.model.origin import check_origin
    from gepa_loop.run.identity import fingerprint
    from gepa_loop.stages.timing import Timed
    from gepa_loop.start.known import writers
    from gepa_loop.start.power import select_warning
    from gepa_loop.start.reach import check_reach
    from gepa_loop.task.made import code_marks
    from gepa_loop.task.sources import settle
    from gepa_loop.tracking.choose import check_tracker
    from gepa_loop.workers.opening import check_workers, opened_workers

    say_code(settings, inputs.task, caller)
    settings = settle(settings, inputs.task)
    if command.searches:
        settings = settings.for_aim(command.aim)
    prompts = inputs.prompts
    if prompts is None:
        prompts = {seed_source(settings.optimize): seed_prompt(settings.optimize)}
    marks = code_marks(settings, inputs.task)
    extra = {
        "command": command.name,
        "prompts": " ".join(p.id for p in prompts.values()),
        **inputs.more,
        **writers(command, settings.optimize, settings.distill, settings.task.splits),
        **marks,
    }
    label = Path(flags.config).stem if isinstance(flags.config, str) else "default"
    identity = [without_limits(settings.model_dump(mode="json")), extra]
    path = run_path(flags.run_name or f"{command.name}-{label}-{fingerprint(identity)[:6]}")
    if (command.searches or command.trains) and (file := check_tracker(settings.track)) is not None:
        caller.facts.print(f"track {settings.track.kind} runs {file}", highlight=False)
    finished = not flags.fresh and _finished(command, settings.loop, path)
    check_reach(settings, command.searches and not finished)
    # Once, for the command and its workers: midnight may come while they load.
    day = (None if flags.fresh else _begun(path)) or str(datetime.date.today())
    check_workers(settings, command.cells, inputs.task is not None)
    with opened_workers(settings, day, command.trains, finished or flags.dry_run) as workers:
        lab = _checked_lab(command, settings, prompts, inputs, day, caller)
        notes = [check_origin(one.origin, lab.base.origin, source) for source, one in inputs.adapters.items()]
        if command.rounds and not (finished or flags.dry_run):  # a plan says it among its lines
            notes.append(select_warning(settings))
        shared = [settings.cluster.told(lab.base.device.type == "cuda")]
        shares = settings.cluster.workers and not finished
        facts, warnings = _print_facts(lab, prompts, shared if shares else [], notes, caller)
        if command.writes_questions:
            _check_questions(lab, prompts, path, flags, caller)
        if flags.dry_run:
            from gepa_loop.start.plan import DryRun

            made = None
            if command.searches or command.trains:
                made = _print_plan(lab, command, next(iter(prompts.values())), flags.measure, caller)
            more = inputs.facts()
            for line in (f"would write {shown(path)}", *more):
                caller.results.print(line, highlight=False)
            caller.planned(DryRun(command.name, path, (*facts, *more), warnings, made))
            raise typer.Exit
        if command.searches and not finished:
            from gepa_loop.stages.search import check_search

            check_search(lab, seed_prompt(settings.optimize))
        keeps: Keeps = "nothing" if flags.fresh else "all" if finished else "part"
        with _opened(lab, replace(inputs, prompts=prompts), extra, path, keeps, caller) as opened:
            if finished:
                yield opened  # what reads it again is no part of what it took
                return
            with Timed(opened.view, opened.run.path, began, settings.cluster.gpus) as timed:
                lab = opened.lab if workers is None else workers.share(opened.lab, marks, timed.note)
                yield opened._replace(view=timed, lab=lab)


def _check_questions(
    lab: Lab, prompts: Mapping[str, Candidate], path: Path, flags: Flags, caller: Caller
) -> None:
    """Find out whether the questions that are asked for can be written, unless they are there."""
    from gepa_loop.stages.questions import FOLDER, check_writer

    if lab.config.distill.questions and (flags.fresh or not (path / FOLDER / "result.json").exists()):
        caller.facts.print(check_writer(lab, next(iter(prompts.values()))), highlight=False)


def _print_plan(lab: Lab, command: Command, prompt: Candidate, measure: bool, caller: Caller) -> Plan:
    from gepa_loop.show.costs import plan_lines, plan_table, workers_table
    from gepa_loop.show.live import View
    from gepa_loop.start.plan import plan

    if lab.task.judge is not None:
        lab.task.judge.remote.provider()  # a missing key is found for nothing
    with View(caller.facts) as view:
        made = plan(lab, command, prompt, measure, view)
    if made.stages:
        caller.results.print(plan_table(made, lab.config.cost.gpu_usd_hour), soft_wrap=False)
    if made.on_paper:
        caller.results.print(workers_table(made, lab.config.cost.gpu_usd_hour), soft_wrap=False)
    for line in plan_lines(made):
        caller.results.print(line, highlight=False)
    return made


def _finished(command: Command, settings: LoopConfig, path: Path) -> bool:
    """Whether nothing is left to be searched, trained or scored; of a sweep, which may get more cells, its cells tell."""
    if command.rounds:
        from gepa_loop.rounds import is_whole

        return is_whole(path, settings.rounds)
    whole = path / "optimize" / "result.json" if command.searches else path / "result.json"
    return whole.exists() and not command.cells


@contextmanager
def _opened(
    lab: Lab,
    given: Inputs,
    extra: Mapping[str, str],
    path: Path,
    keeps: Keeps,
    caller: Caller,
) -> Iterator[Session]:
    """The run directory with its lock and the prompts it was given, the judge's spread, the view; at the end what a judge took."""
    from gepa_loop.config.track import TrackConfig
    from gepa_loop.run.directory import open_part, open_run
    from gepa_loop.run.files import write_json, write_text
    from gepa_loop.show.live import View
    from gepa_loop.stages.spread import FILE as JUDGED
    from gepa_loop.stages.spread import check_judge, measure_spread
    from gepa_loop.task.judge import RECORD, Record, dollars
    from gepa_loop.tracking.follow import followed

    if keeps == "nothing" or not (path / JUDGED).exists():
        check_judge(lab)
    identity = lab.identity(**extra)
    opening = open_run(path, identity, fresh=keeps == "nothing")
    if given.part is not None:
        lab = given.part.lab(lab)
        own = lab.identity(command=extra["command"], prompts=extra["prompts"])
        opening = open_part(path / given.part.name, own, identity)
    with caller.guard(), opening as run:
        path = run.path
        write_json(run.path / "config.json", lab.config.model_dump(mode="json"))
        caller.facts.print(f"run {shown(path)}", highlight=False)
        for prompt in (given.prompts or {}).values():
            write_text(run.path / "prompts" / f"{prompt.id}.txt", f"{prompt.text}\n")
        if keeps != "all":  # to be shown again is nothing that happens in a run
            how = {"command": extra["command"], "task": given.task_from, "typed": told(caller.typed())}
            run.event("start", **how, **lab.data_facts())
        lab = lab.in_run(run.path)
        if (spread := measure_spread(lab, run)) is not None:
            caller.facts.print(str(spread), highlight=False)
        # What only evaluates is no run to follow.
        track = lab.config.track if extra["command"] != EVALUATE.name else TrackConfig()
        values = lab.config.model_dump(mode="json")
        with View(caller.facts) as view, followed(track, values, path, view) as observer:
            yield Session(lab, run, observer)
    if lab.task.judge is not None:
        # From the file: the cells of a sweep have records of their own.
        record = Record(run.path / RECORD)
        caller.facts.print(
            f"judge: {record.calls:,} calls in this run, {dollars(record.usd)}", highlight=False
        )


def run_path(name: str) -> Path:
    """The folder of the run of a name, below the working directory; ConfigError where it can be none."""
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--run-name {name}: not a plain folder name", "It becomes a folder below runs/.")
    return Path.cwd() / "runs" / name


def _begun(path: Path) -> str | None:
    """The day on which the run in a folder began; None where there is none."""
    from gepa_loop.run.identity import read_manifest

    day = read_manifest(path)["identity"].get("model.date") if (path / "manifest.json").exists() else None
    return day if isinstance(day, str) else None


def _checked_lab(
    command: Command,
    settings: Config,
    prompts: Mapping[str, Candidate],
    inputs: Inputs,
    day: str,
    caller: Caller,
) -> Lab:
    from gepa_loop.lab import open_lab
    from gepa_loop.model.outline import outline
    from gepa_loop.show.making import making
    from gepa_loop.stages.questions import refuse_questions
    from gepa_loop.stages.references import check_references
    from gepa_loop.start.context import check_context

    if command.trains and not (command.writes_questions or command.cells):
        refuse_questions(settings.distill, command.name)
    model = outline(settings.model)
    for source, candidate in prompts.items():
        check_context(model, candidate.text, settings.sampling.max_tokens, source)
    with making(caller.facts, settings.task.name) as told:
        lab = open_lab(settings, day, inputs.task, told)
    if lab.task.answers == "none":
        if not command.makes_references:
            raise TaskError(
                f"task {lab.task.name} has no answers: `{command.name}` has nothing to score replies by",
                "`distill` does without: it compares with the prompted model's own replies.",
            )
        check_references(lab)
    for source, candidate in prompts.items():
        lab.check_prompt(candidate, source)
    if not prompts:
        lab.check_bare()
    if command.trains:
        from gepa_loop.training.teacher.choose import check_teacher

        lab = lab.for_training()
        if inputs.check is None:
            check_teacher(lab, next(iter(prompts.values())).text)
        else:
            inputs.check(lab)
    return lab


def _print_facts(
    lab: Lab,
    prompts: Mapping[str, Candidate],
    shared: Sequence[str],
    notes: Sequence[str | None],
    caller: Caller,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Print what was resolved and what to be wary of, and return both."""
    told = (lab.prompt_facts(prompt, source) for source, prompt in prompts.items())
    overlaps = (lab.overlap(candidate, source) for source, candidate in prompts.items())
    facts = (*lab.facts(), *shared, *told)
    warnings = (*lab.task.warnings(), *filter(None, overlaps), *filter(None, notes))
    for line in facts:
        caller.facts.print(line, highlight=False)
    for line in warnings:
        caller.warnings.print(Text.assemble(("warning:", "yellow"), " ", printable(line)), highlight=False)
    return facts, warnings
