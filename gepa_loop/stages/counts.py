"""How many rollouts a command takes at most, counted from its config."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gepa_loop.command import Command
from gepa_loop.config.data import SplitSizes
from gepa_loop.config.recipe import on_policy_share, reads_prompt, warm_start
from gepa_loop.config.tables import EvaluateConfig
from gepa_loop.config.whole import Config
from gepa_loop.scores.card import ways
from gepa_loop.stages.items import READ
from gepa_loop.stages.race import course
from gepa_loop.task.dealing import RACE
from gepa_loop.task.judge import JUDGEMENTS, REPLIES


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


def finalists(config: Config) -> int:
    """How many students of a round are tested on `select` at most."""
    return course(students_a_round(config), config.race, config.distill)[-1][1]


def distillations(config: Config) -> list[tuple[Distillation, int]]:
    """Those of a round, and how many of each at most: what ends at a rung of the race, and what goes on to the end."""
    return [(distillation(config, step), count) for step, count in _ends(config)]


def _ends(config: Config) -> list[tuple[int, int]]:
    """Steps after which students of a round end, and how many there at most."""
    stretches = course(students_a_round(config), config.race, config.distill)
    later = [*(count for _, count in stretches[1:]), 0]
    return [(step, count - left) for (step, count), left in zip(stretches, later, strict=True)]


def loop_stages(config: Config, search: int) -> dict[str, int]:
    """Rollouts of a whole loop by stage, of whose searches each takes `search`; of those of `training` `Distillation.tokens` has the length."""
    splits, samples, rounds = config.task.splits, config.evaluate.samples, config.loop.rounds
    *rungs, (_, finalists) = course(students_a_round(config), config.race, config.distill)
    prompts = 1 + students_a_round(config) if reads_prompt(config.distill, config.objective) else 0
    looked = splits.race or max(RACE, splits.pareto)
    students = distillations(config)
    return {
        # On `pareto` before the first step, and the model on `select`.
        "baseline": rounds * (splits.pareto + splits.select) * samples,
        "search": rounds * search,
        "prompts": rounds * prompts * looked * samples,
        "training": rounds * sum((one.trained + one.recorded) * count for one, count in students),
        "checks": rounds * sum(one.checks * count for one, count in students),
        # At the rungs, and of those who are left prompt and student.
        "students": rounds
        * samples
        * (looked * sum(count for _, count in rungs) + 2 * finalists * splits.select),
        # The bare model, and of each round its prompt and its student.
        "test": (1 + 2 * rounds) * splits.test * sum(one.samples for one in ways(config.evaluate).values()),
        "items": min(READ, splits.test),
    }


def loop_rollouts(config: Config, search: int) -> int:
    """Rollouts of a whole loop, of whose searches each takes `search`."""
    return sum(loop_stages(config, search).values())


def has_headroom(config: Config) -> bool:
    """Whether it can be known of a task with answers: the model itself reads the prompt for its student."""
    return config.teacher.kind in ("base", "live", "ema") and reads_prompt(config.distill, config.objective)


def distill_stages(config: Config, references: bool) -> dict[str, int]:
    """The same of `distill`; with `references` the prompted model's replies stand for answers."""
    splits, student = config.task.splits, distillation(config)
    return {
        **({"references": splits.pareto + splits.test} if references else {}),
        "baseline": (1 + (not references and has_headroom(config))) * splits.pareto * config.evaluate.samples,
        "training": student.trained + student.recorded,
        "checks": student.checks,
        "test": tested(config.evaluate, splits),
        "items": min(READ, splits.test),
    }


def sweep_stages(configs: Collection[Config]) -> dict[str, int]:
    """The same of a sweep with these cells and seeds; what several of them begin with is scored once."""
    selected = [config.task.splits.select * config.evaluate.samples for config in configs]
    begun = {
        str([config.seed, config.model, config.sampling.max_tokens, config.evaluate]): count
        for config, count in zip(configs, selected, strict=True)
    }
    students = [distillation(config) for config in configs]
    return {
        "base and prompt": 2 * sum(begun.values()),
        "untrained": sum(config.task.splits.pareto * config.evaluate.samples for config in configs),
        "training": sum(one.trained + one.recorded for one in students),
        "checks": sum(one.checks for one in students),
        "students": sum(selected),
    }


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
        # What is read token by token is not scored again.
        read = loop_stages(config, search)["items"]
        most = loop_rollouts(config, search) - read - config.loop.rounds * unread
    else:
        unread = 0 if reads else student.recorded + student.trained
        most = command.searches * search
        most += command.trains * (splits.pareto * samples + student.rollouts - unread)
        if command.measures_retention:
            most += tested(config.evaluate, splits) + has_headroom(config) * splits.pareto * samples
    return most + REPLIES * JUDGEMENTS


def tested(settings: EvaluateConfig, splits: SplitSizes) -> int:
    """Rollouts of `distill`'s last table."""
    return 4 * splits.test * sum(one.samples for one in ways(settings).values())
