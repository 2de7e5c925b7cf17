"""What a command will take at most and what it is for, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gepa_loop.command import Command
from gepa_loop.config.recipe import reads_prompt
from gepa_loop.config.whole import Config
from gepa_loop.cost.calls import calls
from gepa_loop.cost.pace import Pace, keep_pace, known_pace
from gepa_loop.cost.reading import tokens_per_second
from gepa_loop.cost.records import WorthRecord
from gepa_loop.cost.worth import Took, worth
from gepa_loop.lab import Lab
from gepa_loop.model.device import device_name
from gepa_loop.search.plan import Plan as SearchPlan
from gepa_loop.search.plan import plan_search, seconds_a_rollout
from gepa_loop.stages.counts import (
    distill_stages,
    distillation,
    distillations,
    judged,
    loop_stages,
    students_a_round,
)
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.questions import open_writer
from gepa_loop.stages.race import rung_steps
from gepa_loop.stages.search import open_proposer
from gepa_loop.start.power import loop_power
from gepa_loop.start.room import elsewhere, memory_of_command
from gepa_loop.start.scheduled import COUNTS, STARTING, TRAINING, OnPaper, Schedule, on_a_worker
from gepa_loop.task.judge import Judge, dollars, messages_for
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import Reading
from gepa_loop.writing.writers import OwnModel


@dataclass(frozen=True)
class PlannedStage:
    """Most that a stage takes."""

    name: str
    rollouts: int
    tokens: int
    """To write."""
    seconds: float | None
    """None where training steps are part of it whose time is not known."""
    usd: float | None
    """Of models behind APIs; None where litellm knows no price."""


@dataclass(frozen=True)
class Plan:
    """Most that a command takes, and what for."""

    stages: tuple[PlannedStage, ...]
    lines: tuple[str, ...]
    """What is worth saying besides."""
    device: str
    pace: Pace | None
    """Of a training step; None where nothing trains, and where it is not known."""
    trains: bool
    memory: Mapping[str, float]
    """GiB by what takes them, at least; empty where nothing trains."""
    worth: WorthRecord | None
    """Of a student; None where none is made."""
    workers: int = 0
    """That share the work."""
    gpus: int = 1
    """That are paid for."""
    on_paper: tuple[OnPaper, ...] = ()
    """The same with other numbers of workers; none where there are no workers, or the time of a step is not known."""

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where one's are not known."""
        known = [one.seconds for one in self.stages if one.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def usd(self) -> float | None:
        """Of models behind APIs."""
        known = [one.usd for one in self.stages if one.usd is not None]
        return sum(known) if len(known) == len(self.stages) else None


@dataclass(frozen=True)
class DryRun:
    """What a command found out before it would have begun."""

    command: str
    path: Path
    """The directory of its run."""
    facts: tuple[str, ...]
    """What was resolved."""
    warnings: tuple[str, ...]
    """Reasons not to trust a score."""
    plan: Plan | None
    """None where nothing is searched or trained."""


def plan(lab: Lab, command: Command, prompt: Candidate, measure: bool, observer: Observer) -> Plan:
    """Measure what a command may take; a reflection model is asked whether it answers.

    Args:
        lab: Of the command.
        command: `cells` of which are configs of their own, and are not counted.
        prompt: Where a search starts, or what is distilled.
        measure: Train a few steps to time them; else the time of earlier runs is taken, if there is one.
        observer: Watches.
    """
    config, lines = lab.config, list[str]()
    found: SearchPlan | None = None
    trains = command.trains and not command.cells
    if command.searches or trains:
        observer.stage("measuring a sample of rollouts")
    if command.searches:
        proposer = open_proposer(lab, 0)
        proposer.check()
        found = plan_search(config, lab.rollouts, proposer, prompt, command.aim)
        lines += [f"reflection: {proposer.about}", *found.lines(config.optimize)]
    counts = _counts(lab, command, found)
    each = found.seconds_each if found else 0.0
    if counts and not found:
        each = seconds_a_rollout(config.optimize, config.sampling, lab.rollouts, prompt)
    pace = None
    if trains:
        lines.append(_training_line(config, command))
        pace = _pace(lab, command, prompt, observer) if measure else known_pace(lab)
    if command.rounds:
        lines.append(f"select: {loop_power(config)}")
    schedule = Schedule(config, command, counts, each, pace, lab.base.device.type == "cuda")
    stages = tuple(_stage(schedule, name) for name in counts)
    if found is not None:
        stages = tuple(_paid(config, one, found) for one in stages)
    if command.writes_questions and config.distill.questions:
        stages = (_questions(lab, prompt, each), *stages)
    if lab.task.judge is not None:
        line, usd = _judge(lab, lab.task.judge, judged(config, command, found.rollouts if found else 0))
        lines.append(line)
        stages = (*stages, PlannedStage("judge", 0, 0, 0.0, usd)) if stages else ()
    made = Plan(stages, tuple(lines), device_name(lab.base.device), pace, trains, {}, None)
    if config.cluster.workers and stages:
        made = _shared(made, schedule)
    if not trains:
        return made
    observer.stage("measuring how fast the prompt is read")
    told = (*made.lines, *elsewhere(lab.base, lab.teacher, lab.config.cluster.workers))
    memory = memory_of_command(lab, on_a_worker(config, command))
    return replace(made, lines=told, memory=memory, worth=_worth(lab, prompt, made))


def _shared(made: Plan, schedule: Schedule) -> Plan:
    """With the start of workers, and with what other numbers of them would take."""
    cluster = schedule.config.cluster
    # Of the stages that the schedule does not have.
    besides = sum(one.seconds or 0.0 for one in made.stages if one.name not in schedule.counts)
    papers = (schedule.on_paper(count, besides) for count in sorted({*COUNTS, cluster.workers}))
    return replace(
        made,
        stages=(PlannedStage(STARTING, 0, 0, schedule.starting, 0.0), *made.stages),
        workers=cluster.workers,
        gpus=cluster.gpus,
        on_paper=tuple(one for one in papers if one is not None),
    )


def _counts(lab: Lab, command: Command, found: SearchPlan | None) -> Mapping[str, int]:
    """Rollouts by stage."""
    if command.cells:
        return {}
    if command.rounds:
        assert found is not None
        return loop_stages(lab.config, found.rollouts)
    counts = {} if found is None else {"search": found.search_rollouts}
    if found is not None and found.front_rollouts:
        counts["front"] = found.front_rollouts
    return {**counts, **(distill_stages(lab.config, lab.task.answers == "none") if command.trains else {})}


def _stage(schedule: Schedule, name: str) -> PlannedStage:
    """A stage whose rollouts have full length."""
    config, rollouts = schedule.config, schedule.counts[name]
    tokens = rollouts * config.sampling.max_tokens
    if name == TRAINING:
        in_rounds = schedule.command.rounds
        students = distillations(config) if in_rounds else [(distillation(config), 1)]
        rounds = config.loop.rounds if in_rounds else 1
        tokens = rounds * sum(one.tokens * count for one, count in students)
    return PlannedStage(name, rollouts, tokens, schedule.seconds(name, config.cluster.workers), 0.0)


def _paid(config: Config, stage: PlannedStage, found: SearchPlan) -> PlannedStage:
    """A stage with what its proposals cost at most."""
    if stage.name != "search" or found.quote is None:
        return stage
    usd = None
    if found.quote.usd is not None:
        # Every round has a search of its own.
        rounds = stage.rollouts // found.search_rollouts
        usd = rounds * min(config.optimize.max_usd, found.calls[1] * found.quote.usd)
    return replace(stage, usd=usd)


def _pace(lab: Lab, command: Command, prompt: Candidate, observer: Observer) -> Pace:
    from gepa_loop.start.timed import timed_steps
    from gepa_loop.training.trainer import at_once

    students = min(at_once(lab.config), students_a_round(lab.config)) if command.rounds else 1
    pace = timed_steps(lab, prompt, students, observer)
    keep_pace(lab, pace)  # for the next plan, until a run knows better
    return pace


def _training_line(config: Config, command: Command) -> str:
    settings, student = config.distill, distillation(config)
    if not command.rounds:
        each = "the prompt"
    elif reads_prompt(settings, config.objective):
        each = f"each of up to {students_a_round(config)} prompts that help"
        if (steps := rung_steps(settings, config.race.rungs)) and config.race.on:
            each += (
                f", of which a race drops those that are behind after step {' and '.join(map(str, steps))}"
            )
    else:
        each = f"one student a round, as objective {config.objective.type} reads no prompt"
    first = ""
    if student.recorded:
        read = settings.steps * settings.rollouts - student.trained
        first = f", {student.recorded:,} samples of the teacher before them, which stand for {read:,} of these rollouts"
    again = " and groups drawn again" if student.trained > settings.steps * settings.rollouts else ""
    return (
        f"distill: {settings.steps} steps of {settings.rollouts} rollouts{again}{first}, up to {student.tokens:,} tokens to "
        f"write, and up to {student.checks:,} rollouts of checks, for {each}"
    )


def _worth(lab: Lab, prompt: Candidate, made: Plan) -> WorthRecord:
    """What a student of this prompt would be for."""
    rate = lab.config.cost.gpu_usd_hour
    seconds = None if made.seconds is None else made.gpus * made.seconds
    gpu = None if rate is None or seconds is None else seconds / 3600 * rate
    took = Took(seconds, None if gpu is None or made.usd is None else gpu + made.usd)
    now, after = calls(lab, prompt)
    reads = tokens_per_second(lab.base, lab.rollouts.renderer.tokens(prompt.text, lab.task.splits["test"][0]))
    return worth(now, after, lab.config.cost, reads, took)


def _questions(lab: Lab, prompt: Candidate, each: float) -> PlannedStage:
    """Writing the questions of `distill.questions`; how long an API takes is not known, and left out."""
    writer, longest = open_writer(lab, prompt), lab.config.sampling.max_tokens
    if isinstance(writer, OwnModel):
        rollouts, tokens = writer.calls * writer.rows, writer.sampling.max_tokens
        return PlannedStage("questions", rollouts, rollouts * tokens, rollouts * each * tokens / longest, 0.0)
    usd = writer.usd(0)
    most = None if usd is None else min(lab.config.optimize.max_usd, writer.calls * usd)
    return PlannedStage("questions", 0, 0, 0.0, most)


def _judge(lab: Lab, judge: Judge, most: int | None) -> tuple[str, float | None]:
    """What a judge costs at most for so many replies, in words and in US dollars; nobody is asked."""
    longest = max(lab.task.items, key=lambda item: sum(len(text) for _, text in item.messages))
    reply = "word " * lab.config.sampling.max_tokens
    remote, settings = judge.remote, judge.settings
    read = remote.estimate(messages_for(settings.rubric, Reading(longest, reply, reply)))
    usd = remote.usd(read, settings.max_tokens)
    how_many = "one call a reply" if most is None else f"up to {most:,} calls, fewer where replies are equal"
    whole = None if usd is None or most is None else most * usd
    if usd is None:
        cost = "litellm knows no price, so task.judge.max_usd is not kept"
    else:
        in_all = "" if whole is None else f" and {dollars(whole)} in all"
        cost = (
            f"up to {dollars(usd)} each{in_all}; the run stops at task.judge.max_usd = {settings.max_usd:g}"
        )
    line = f"judge {settings.model}: {how_many}, each up to {read:,} tokens read and {settings.max_tokens:,} written, {cost}"
    return line, None if whole is None else min(whole, settings.max_usd)
