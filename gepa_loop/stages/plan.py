"""What a command will take at most, before anything is spent: rollouts counted from the config, minutes from a sample."""

from __future__ import annotations

from dataclasses import dataclass

from gepa_loop.command import Command
from gepa_loop.config.data import SplitSizes
from gepa_loop.config.recipe import on_policy_share, reads_prompt, warm_start
from gepa_loop.config.tables import EvaluateConfig
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, seed_prompt
from gepa_loop.scores.card import ways
from gepa_loop.stages.race import course, rung_steps
from gepa_loop.stages.search import open_proposer
from gepa_loop.task.dealing import RACE
from gepa_loop.task.judge import JUDGEMENTS, REPLIES, dollars, messages_for
from gepa_loop.task.scorers import Reading


@dataclass(frozen=True)
class Distillation:
    """Most that one distillation takes."""

    trained: int
    """Rollouts of its steps, with groups that are drawn again."""
    checks: int
    """Rollouts of its held-out checks: what decides, pass@k, the control task."""
    recorded: int
    """The teacher's samples of a warm start, which are made once."""
    tokens: int
    """Longest that the trained and the recorded rollouts are together."""

    @property
    def rollouts(self) -> int:
        return self.trained + self.checks + self.recorded


def distillation(config: Config, steps: int | None = None) -> Distillation:
    """Count one distillation, or its first steps; the fixed prompts that check a sampler are left out."""
    settings, samples = config.distill, config.evaluate.samples
    steps = settings.steps if steps is None else steps
    draws = 1 + config.objective.redraws
    control = 0 if settings.control is None else settings.control.splits.pareto * samples
    check = config.task.splits.pareto * (samples + settings.pass_at) + control
    warm = warm_start(settings, config.objective, config.teacher) > 0
    # What the teacher gives of a step's groups is there already.
    share = on_policy_share(settings, config.objective, config.teacher) if warm else 1.0
    groups = settings.rollouts // settings.group
    recorded = warm * (config.task.splits.train + settings.questions) * settings.teacher_samples
    horizons = (settings.max_tokens(step, config.sampling.max_tokens) for step in range(steps))
    return Distillation(
        trained=int(steps * groups * share) * settings.group * draws,
        # The control is asked twice more at the end: of the model and of the student that is kept.
        checks=-(-steps // settings.check_every) * check + 2 * control * (steps == settings.steps),
        recorded=recorded,
        tokens=int(settings.rollouts * draws * share * sum(horizons))
        + recorded * settings.longest(config.sampling.max_tokens),
    )


def students_a_round(config: Config) -> int:
    """How many prompts of a round have students at most: those that the search hands on, and the seed prompt."""
    return config.loop.front + 1 if reads_prompt(config.distill, config.objective) else 1


def distillations(config: Config) -> list[tuple[Distillation, int]]:
    """Those of a round, and how many of each at most: what ends at a rung of the race, and what goes on to the end."""
    stretches = course(students_a_round(config), config.race, config.distill)
    later = [*(count for _, count in stretches[1:]), 0]
    return [
        (distillation(config, step), count - left)
        for (step, count), left in zip(stretches, later, strict=True)
    ]


def loop_rollouts(config: Config, search: int) -> int:
    """Rollouts of a whole loop, of whose searches each takes `search`."""
    splits, samples = config.task.splits, config.evaluate.samples
    *rungs, (_, finalists) = course(students_a_round(config), config.race, config.distill)
    prompts = 1 + students_a_round(config) if reads_prompt(config.distill, config.objective) else 0
    looks = prompts + sum(count for _, count in rungs)
    raced = looks * (splits.race or max(RACE, splits.pareto))
    # The model, and of those who are left prompt and student.
    decided = (1 + 2 * finalists) * splits.select
    trained = sum(one.rollouts * count for one, count in distillations(config))
    a_round = search + trained + (splits.pareto + raced + decided) * samples
    # The bare model, and of each round its prompt and its student.
    scored = (1 + 2 * config.loop.rounds) * splits.test
    return config.loop.rounds * a_round + scored * sum(one.samples for one in ways(config.evaluate).values())


def judged(config: Config, command: Command, search: int = 0) -> int | None:
    """Replies that a command has scored at most, of whose searches each takes `search`; None where nothing here tells.

    What is trained on is scored by a judge only where the objective reads scores; the teacher's samples may be, then, too.
    """
    splits, samples, student = config.task.splits, config.evaluate.samples, distillation(config)
    reads = config.objective.reads_score
    if command.cells or not (command.searches or command.trains):
        return None
    if command.rounds:
        unread = 0 if reads else sum((one.recorded + one.trained) * n for one, n in distillations(config))
        most = loop_rollouts(config, search) - config.loop.rounds * unread
    else:
        unread = 0 if reads else student.recorded + student.trained
        most = command.searches * search
        most += command.trains * (splits.pareto * samples + student.rollouts - unread)
        most += command.measures_retention * tested(config.evaluate, splits)
    return most + REPLIES * JUDGEMENTS


def tested(settings: EvaluateConfig, splits: SplitSizes) -> int:
    """Rollouts of `distill`'s last table."""
    return 4 * splits.test * sum(one.samples for one in ways(settings).values())


def judge_lines(lab: Lab, most: int | None) -> list[str]:
    """What a judge costs at most for so many replies; nobody is asked."""
    judge = lab.task.judge
    if judge is None:
        return []
    longest = max(lab.task.items, key=lambda item: sum(len(text) for _, text in item.messages))
    reply = "word " * lab.config.sampling.max_tokens
    remote, settings = judge.remote, judge.settings
    read = remote.estimate(messages_for(settings.rubric, Reading(longest, reply, reply)))
    usd = remote.usd(read, settings.max_tokens)
    calls = "one call a reply" if most is None else f"up to {most:,} calls, fewer where replies are equal"
    if usd is None:
        cost = "litellm knows no price, so task.judge.max_usd is not kept"
    else:
        whole = "" if most is None else f" and {dollars(most * usd)} in all"
        cost = f"up to {dollars(usd)} each{whole}; the run stops at task.judge.max_usd = {settings.max_usd:g}"
    return [
        f"judge {settings.model}: {calls}, each up to {read:,} tokens read and {settings.max_tokens:,} written, {cost}"
    ]


def plan(lab: Lab, command: Command) -> list[str]:
    """What a command will do at most, in lines for a person; a reflection model is asked whether it answers."""
    config, lines = lab.config, []
    settings, student = config.distill, distillation(config)
    searched = 0
    if command.searches:
        from gepa_loop.optimize.plan import plan_search

        proposer = open_proposer(lab, 0)
        proposer.check()
        found = plan_search(config, lab.rollouts, proposer, seed_prompt(config.optimize), command.aim)
        searched = found.rollouts
        lines += [f"reflection: {proposer.about}", *found.lines(config.optimize)]
    if command.trains and not command.cells:
        if not command.rounds:
            each = "the prompt"
        elif reads_prompt(settings, config.objective):
            each = f"each of up to {students_a_round(config)} prompts that help"
            if (steps := rung_steps(settings, config.race.rungs)) and config.race.on:
                rungs = " and ".join(map(str, steps))
                each += f", of which a race drops those that are behind after step {rungs}"
        else:
            each = f"one student a round, as objective {config.objective.type} reads no prompt"
        first = f", {student.recorded:,} samples of the teacher before them" if student.recorded else ""
        again = " and groups drawn again" if student.trained > settings.steps * settings.rollouts else ""
        lines.append(
            f"distill: {settings.steps} steps of {settings.rollouts} rollouts{again}{first}, up to {student.tokens:,} tokens to "
            f"write, and up to {student.checks:,} rollouts of checks, for {each}"
        )
    if command.makes_references and lab.task.answers == "none":
        splits = config.task.splits
        lines.append(
            f"references: {splits.pareto + splits.test:,} rollouts of the prompted model, as the task has no answers"
        )
    if command.measures_retention:
        lines.append(
            f"test: up to {tested(config.evaluate, config.task.splits):,} rollouts of the base and the student, with and without the prompt"
        )
    if command.rounds:
        rounds, total = config.loop.rounds, loop_rollouts(config, found.rollouts)
        # A horizon of their own makes rollouts of steps shorter or longer than those that were timed.
        longer = sum(
            (one.tokens / config.sampling.max_tokens - one.trained - one.recorded) * count
            for one, count in distillations(config)
        )
        seconds = (total + rounds * longer) * found.seconds_each
        what = "the round" if rounds == 1 else f"{rounds} such rounds"
        lines.append(
            f"in all: {what} with baselines, prompts, students, checks and test: up to {total:,} rollouts, "
            f"{seconds / 60:.1f} minutes of them; training comes on top"
        )
    return [*lines, *judge_lines(lab, judged(config, command, searched))]
