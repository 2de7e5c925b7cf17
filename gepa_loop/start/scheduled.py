"""The calls and steps of a command, as its schedule has them, and what they take with any number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gepa_loop.command import Command
from gepa_loop.config.recipe import reads_prompt
from gepa_loop.config.whole import Config
from gepa_loop.cost.pace import Pace
from gepa_loop.cost.schedule import START_SECONDS, Asked, Machines, Sharing, Turn, batches
from gepa_loop.scores.card import ways
from gepa_loop.stages.counts import distillation, students_a_round
from gepa_loop.stages.race import course
from gepa_loop.stages.retention import SUBJECTS
from gepa_loop.task.dealing import RACE
from gepa_loop.training.trainer import at_once
from gepa_loop.workers.training import apart, shared_out

TRAINING, CHECKS = "training", "checks"
STARTING = "start of workers"
COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Workers that a table shows."""


@dataclass(frozen=True)
class OnPaper:
    """A command with so many workers."""

    workers: int
    gpus: int
    """That are paid for."""
    seconds: float
    limit: str
    """What keeps it furthest from its share of one device's time, in words."""


@dataclass(frozen=True)
class Schedule:
    """A command's schedule."""

    config: Config
    command: Command
    counts: Mapping[str, int]
    """Most rollouts by stage, as of `stages.counts`."""
    each: float
    """Seconds of one rollout of full length in a batch, on one device."""
    pace: Pace | None
    """Of a training step there."""
    on_gpu: bool

    def seconds(self, name: str, workers: int) -> float | None:
        """Of a stage; None where training steps are part of it whose time is not known."""
        machines = Machines(max(1, workers), self.on_gpu)
        if name == TRAINING:
            return self._training(machines)
        if name == CHECKS:
            return self._checks(machines)
        return sum(one.times * machines.asked(one.calls, self.each) for one in self.asked(name))

    @property
    def starting(self) -> float:
        """Seconds that workers are waited for, when the command has loaded."""
        return START_SECONDS["cuda" if self.on_gpu else "cpu"]

    def on_paper(self, workers: int, besides: float) -> OnPaper | None:
        """The whole command; None where the time of its steps is not known.

        Args:
            workers: How many.
            besides: Seconds of what is not shared among them.
        """
        lost, whole = {STARTING: self.starting}, self.starting + besides
        for name in self.counts:
            alone, shared = self.seconds(name, 0), self.seconds(name, workers)
            if alone is None or shared is None:
                return None
            kind = TRAINING if name == CHECKS else name
            lost[kind] = lost.get(kind, 0.0) + shared - alone / workers
            whole += shared
        most = max(lost, key=lambda kind: lost[kind])
        cluster = self.config.cluster.model_copy(update={"workers": workers})
        return OnPaper(workers, cluster.gpus, whole, self._limit(most, workers))

    def _limit(self, name: str, workers: int) -> str:
        if name == TRAINING:
            students = self._stretches()[0][2]
            if not apart(workers, students, self.config.distill.stale):
                return "training: the command itself makes the steps"
            return f"training: {max(map(len, shared_out(range(students), workers)))} of {students} students on a worker"
        if name in self.counts:
            return f"{name}: calls of up to {max(max(one.calls) for one in self.asked(name))} rows"
        return name

    def asked(self, name: str) -> list[Asked]:
        """The calls of a stage that trains nothing, in the order in which they are asked for."""
        found = self._of_rounds(name) if self.command.rounds else self._alone(name)
        return [one for one in found if one.rows > 0]

    def _of_rounds(self, name: str) -> list[Asked]:
        splits, rounds, samples = (
            self.config.task.splits,
            self.config.loop.rounds,
            self.config.evaluate.samples,
        )
        looked = self._calls(splits.race or max(RACE, splits.pareto), samples)
        select, pareto = self._calls(splits.select, samples), self._calls(splits.pareto, samples)
        *rungs, (_, finalists) = course(students_a_round(self.config), self.config.race, self.config.distill)
        prompts = (
            1 + students_a_round(self.config)
            if reads_prompt(self.config.distill, self.config.objective)
            else 0
        )
        if name == "baseline":
            return [Asked(select + pareto, rounds)]
        if name == "search":
            return [
                replace(one, times=rounds * one.times) for one in self._search(self.counts[name] // rounds)
            ]
        if name == "prompts":
            return [Asked(looked * prompts, rounds)]
        if name == "students":
            ran = [Asked(looked * count, rounds) for _, count in rungs]
            return [*ran, Asked(select * (2 * finalists), rounds)]
        if name == "test":
            return [Asked(self._tested() * (1 + 2 * rounds))]
        return self._rest(name)

    def _alone(self, name: str) -> list[Asked]:
        splits, samples = self.config.task.splits, self.config.evaluate.samples
        if name == "search":
            return self._search(self.counts[name])
        if name == "front":
            return [Asked(self._calls(splits.select, samples) * self.config.optimize.max_front)]
        if name == "references":
            return [Asked(self._calls(items, 1)) for items in (splits.pareto, splits.test)]
        if name == "baseline":
            times = self.counts[name] // (splits.pareto * samples)
            return [Asked(self._calls(splits.pareto, samples), times)]
        if name == "test":
            return [Asked(self._tested() * len(SUBJECTS))]
        return self._rest(name)

    def _search(self, rollouts: int) -> list[Asked]:
        """One that accepts no proposal: parents and children answer a minibatch each, one call after the other."""
        settings = self.config.optimize
        first = self._calls(self.config.task.splits.pareto, settings.samples)
        minibatch = self._calls(settings.minibatch * settings.proposals, settings.samples)
        left = max(0, rollouts - sum(first))
        return [Asked(first), Asked(minibatch, left / sum(minibatch))]

    def _rest(self, name: str) -> list[Asked]:
        """Calls one after the other."""
        return [Asked((rows,)) for rows in self._calls(self.counts[name], 1)]

    def _tested(self) -> tuple[int, ...]:
        """Of one subject on `test`."""
        splits = self.config.task.splits
        return tuple(
            rows
            for way in ways(self.config.evaluate).values()
            for rows in self._calls(splits.test, way.samples)
        )

    def _calls(self, items: int, samples: int) -> tuple[int, ...]:
        """As `scores.split.Scoring` asks."""
        return batches(items * samples, max(1, self.config.sampling.batch // samples) * samples)

    def _training(self, machines: Machines) -> float | None:
        if self.pace is None:
            return None
        settings, longest = self.config.distill, self.config.sampling.max_tokens
        rounds, sharing = self._rounds, self._sharing()
        turn = Turn(settings.rollouts, self.pace.sampling, self.pace.seconds - self.pace.sampling)
        steps = sum(
            (until - since) * sharing.seconds(students, turn, machines)
            for since, until, students in self._stretches()
        )
        recorded = distillation(self.config).recorded
        longer = settings.longest(longest) / longest
        samples = Turn(recorded, recorded * self.each * longer)
        first = sharing.seconds(self._stretches()[0][2], samples, machines)
        return rounds * (steps + first + self.pace.first)

    def _checks(self, machines: Machines) -> float:
        sharing, every, seconds = self._sharing(), self.config.distill.check_every, 0.0
        for since, until, students in self._stretches():
            checks = -(-until // every) - -(-since // every)
            before = distillation(self.config, since).checks if since else 0
            rows = (distillation(self.config, until).checks - before) / max(1, checks)
            check = Turn(int(rows), rows * self.each)
            seconds += checks * sharing.seconds(students, check, machines)
        return self._rounds * seconds

    @property
    def _rounds(self) -> int:
        return self.config.loop.rounds if self.command.rounds else 1

    def _stretches(self) -> list[tuple[int, int, int]]:
        """(step, next step, students that train up to there) of a round."""
        if not self.command.rounds:
            return [(0, self.config.distill.steps, 1)]
        found = course(students_a_round(self.config), self.config.race, self.config.distill)
        since = [0, *(step for step, _ in found)]
        return [(before, step, students) for before, (step, students) in zip(since, found, strict=False)]

    def _sharing(self) -> Sharing:
        most = at_once(self.config)
        measured = min(most, students_a_round(self.config)) if self.command.rounds else 1
        return Sharing(measured, most, self.config.distill.stale)


def on_a_worker(config: Config, command: Command) -> int:
    """Most students that one process trains: the command where it trains them itself."""
    students, workers = students_a_round(config) if command.rounds else 1, config.cluster.workers
    if not workers or not apart(workers, students, config.distill.stale):
        return students
    return max(map(len, shared_out(range(students), workers)))
