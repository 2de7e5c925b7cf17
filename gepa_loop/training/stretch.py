"""The steps from one checkpoint to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab
from gepa_loop.run.files import append_jsonl
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.together import begin_together, sample_together
from gepa_loop.scores.rollouts import Rollouts, item_means, mean_score
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.training.agreement import divergences, reply_groups
from gepa_loop.training.checkpoint import Checkpoint, optimizer_moments
from gepa_loop.training.checks import Check
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import Collected, asked, asks_once, collect, plan_step
from gepa_loop.training.metrics import metrics, samples
from gepa_loop.training.optimizer import learning_rate
from gepa_loop.training.passes import Passes
from gepa_loop.training.records import CheckMetrics, MetricsRow
from gepa_loop.training.student import JOURNALS, METRICS, SAMPLES, Course, Student
from gepa_loop.training.turn import Reader, Turn
from gepa_loop.training.update import update_together

Reached = tuple[Checkpoint, MetricsRow]
"""The state at a check, which is not saved yet, and the last step's row."""


Key = tuple[int, bool]


def _key(course: Course) -> Key:
    """A student, and what it is asked for: in a warm start other items than after it."""
    return id(course), course.warm


@dataclass(frozen=True)
class Asked:
    """What students were asked for."""

    whose: tuple[Key, ...]
    read: Callable[[], dict[Key, tuple[Rollouts, list[Completion] | Diverged]]]
    """Waits for who answered, and what."""


NOTHING = Asked((), dict)


@dataclass
class Training:
    """Students of one model, each with its own teacher. Their weights and the passes change in place."""

    lab: Lab
    reader: Reader
    students: tuple[Student, ...]
    passes: Passes

    def beginning(self, student: Student, before: Mapping[str, float]) -> Checkpoint:
        """A student's state before the first step, with its held-out scores.

        Args:
            student: New.
            before: Of base + stack; not used where the task has no answers.
        """
        if self.lab.task.answers == "references":
            [found] = self._checks([student], 0)
            if isinstance(found, Diverged):
                raise found
            before = found[0].scores
        warm = student.warm_start > 0
        return Checkpoint(
            0,
            student.adapter(),
            optimizer_moments(student.trainee.optimizer),
            (Check(0, before, warm),),
            dict.fromkeys(JOURNALS, 0),
            student.following(),
            warm=warm,
        )

    def stretch(self, courses: Sequence[Course]) -> list[Reached | Diverged]:
        """Train students, all from the same step on, to the next held-out check.

        Returns:
            What each reached, or why it did not: losses or gradients that are not finite, `FAILURES` steps in a row, or logits
            that the sampler cannot use.
        """
        rollouts, settings, device = self.lab.rollouts, self.lab.config.distill, self.lab.base.device
        step, checked, going = courses[0].start.step, False, list(courses)
        reached: dict[int, Reached] = {}
        ahead = NOTHING
        while going and not checked:
            for course in going:
                if course.row is not None:
                    course.progress(course.row)
            clock = Clock(device, len(going))
            # 1. The students answer, or their teachers do. What the next step reads is asked for behind it, so that nobody who samples
            # beside this process is ever idle, and is sampled beside this step's update, by the students before it.
            this = self._with_others(ahead, going, step)
            overlaps = settings.stale and not self._checked(step + 1)
            behind = all(asks_once(course.now, course.student.record) for course in going)
            ahead = self._ask(going, step + 1, elsewhere=True) if overlaps and behind else NOTHING
            collected = self._collect(going, step, this)
            del this  # it holds the adapters that answered
            going = [course for course in going if course.harm is None]
            measured = rollouts.sampler.sleep()
            if len(going) > 1:
                measured = {}  # of whoever answered last
            clock.lap("generate")
            if not going:
                break

            if overlaps and not behind:
                ahead = self._ask(going, step + 1, elsewhere=True)

            # 2. The teachers read; the students move.
            now = [course.now for course in going]
            taken = step * settings.updates
            turns = [
                Turn(config, course.student.trainee, batch, taken, course.baseline)
                for config, course, batch in zip(now, going, collected, strict=True)
            ]
            done = update_together(turns, self.reader, self.passes, clock)
            self.passes = done[0].passes
            checked = self._checked(step + 1)
            for course, batch, one in zip(going, collected, done, strict=True):
                warm, finite = course.warm, course.note(step, one)
                if course.harm is not None:
                    continue
                rate = learning_rate(course.config.distill, taken)
                course.row = {
                    **metrics(step + 1, batch, one, rate, clock, device),
                    **measured,
                    "warm": warm,
                    "skipped": not finite,
                    "halved": course.start.halved,
                }
                shown = samples(step + 1, batch, one, rollouts)
                append_jsonl(course.student.folder / SAMPLES, shown)
                course.shown += len(shown)
                if not checked:
                    append_jsonl(course.student.folder / METRICS, [course.row])
            step, going = step + 1, [course for course in going if course.harm is None]

            # 3. Held-out checks, of the averages.
            if checked and going:
                with ExitStack() as averages:
                    for course in going:
                        averages.enter_context(course.student.averaged())
                    adapters = [course.student.adapter() for course in going]
                    checks = self._checks([course.student for course in going], step)
                clock.lap("check")
                for course, adapter, found in zip(going, adapters, checks, strict=True):
                    if isinstance(found, Diverged):
                        course.ended(step, found)
                        continue
                    check, more = found
                    assert course.row is not None
                    course.row = {**course.row, **more, "seconds": clock.seconds}
                    append_jsonl(course.student.folder / METRICS, [course.row])
                    reached[id(course)] = course.reached(step, adapter, check), course.row
        return [course.harm or reached[id(course)] for course in courses]

    def _checked(self, step: int) -> bool:
        """Whether a held-out check comes after so many steps."""
        settings = self.lab.config.distill
        return step % settings.check_every == 0 or step == settings.steps

    def _ask(self, courses: Sequence[Course], step: int, *, elsewhere: bool = False) -> Asked:
        """Ask students, as they are now, for their rollouts of a step; `elsewhere` as of `Request`."""
        rollouts, device = self.lab.rollouts, self.lab.base.device
        own = [rollouts.by(course.student.whole(device)) for course in courses]
        wanted = [
            replace(asked(course.now, rows, step), elsewhere=elsewhere)
            for course, rows in zip(courses, own, strict=True)
        ]
        horizon = plan_step(courses[0].now, rollouts, step).sampling
        begun = begin_together(rollouts.sampler, wanted, horizon)
        keys = tuple(_key(course) for course in courses)
        return Asked(keys, lambda: dict(zip(keys, zip(own, begun(), strict=True), strict=True)))

    def _with_others(self, ahead: Asked, courses: Sequence[Course], step: int) -> Asked:
        """What was asked before the last update, and now of who was not asked then, or has ended its warm start since."""
        missing = [course for course in courses if _key(course) not in ahead.whose]
        if not missing:
            return ahead
        more = self._ask(missing, step)
        return Asked((*ahead.whose, *more.whose), lambda: {**ahead.read(), **more.read()})

    def _collect(self, courses: Sequence[Course], step: int, asked_for: Asked) -> list[Collected]:
        """The rollouts of each student; who cannot answer takes note of why and has none.

        Args:
            courses: Of the students.
            step: Counted from 0.
            asked_for: What all of them were asked.
        """
        stack, there = self.students[0].stack, asked_for.read()
        found = []
        for course in courses:
            rows, answered = there[_key(course)]
            try:
                if isinstance(answered, Diverged):
                    raise answered
                student = course.student
                found.append(
                    collect(course.now, rows, student.teacher, stack, step, student.record, answered)
                )
            except Diverged as error:
                course.ended(step, error)
        return found

    def _checks(self, students: Sequence[Student], step: int) -> list[tuple[Check, CheckMetrics] | Diverged]:
        """What a check after `step` finds of students, without a prompt.

        Returns:
            Of each what judges it: its scores, or exp(-KL(student || teacher)) where answers are the prompted model's replies;
            and for the step's log the held-out score, that KL, pass@k and the score on the control. Or that its logits are not
            finite.
        """
        config, device, items = self.lab.config, self.lab.base.device, self.lab.task.splits["pareto"]
        sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
        own = [self.lab.rollouts.by(student.whole(device)) for student in students]
        questions = self.lab.rollouts.renderer.all_tokens(NO_PROMPT, items)
        samples = config.evaluate.samples
        wanted = [rows.wanted(questions, items, samples, "evaluate") for rows in own]
        found = list[tuple[Check, CheckMetrics] | Diverged]()
        for student, rows, completions in zip(
            students, own, sample_together(self.lab.rollouts.sampler, wanted, sampling), strict=True
        ):
            try:
                if isinstance(completions, Diverged):
                    raise completions
                found.append(self._check(student, rows, completions, step))
            except Diverged as error:
                found.append(error)
        return found

    def _check(
        self, student: Student, rollouts: Rollouts, completions: Sequence[Completion], step: int
    ) -> tuple[Check, CheckMetrics]:
        """What is found of a student's held-out completions."""
        config, count = self.lab.config, self.lab.config.distill.pass_at
        sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
        items, samples = rollouts.task.splits["pareto"], config.evaluate.samples
        held_out = rollouts.scored(items, completions)
        judged, found = item_means(held_out), CheckMetrics(held_out_score=mean_score(held_out))
        kl: Mapping[str, float] = {}
        # What grpo reads, if anything, is the base without a prompt.
        teacher = student.teacher if config.objective.reads_teacher else None
        if teacher is not None and all(item.id in teacher.prompts for item in items):
            rollouts.sampler.sleep()
            questions = rollouts.renderer.all_tokens(NO_PROMPT, items)
            groups = reply_groups(teacher, items, questions, completions, student.trainee.number)
            nats, self.passes = divergences(self.lab.base, teacher, groups, self.passes, self.reader.forward)
            kl = dict(zip((item.id for item in items), nats, strict=True))
            found["held_out_kl"] = sum(nats) / len(nats)
            if rollouts.task.answers == "references":
                judged = {item: math.exp(-own) for item, own in kl.items()}
        if count:
            warm = replace(sampling, temperature=config.sampling.temperature)
            rows = rollouts.rows(NO_PROMPT, items, count, warm, "pass")
            found["pass_at_k"] = len({row.item for row in rows if row.score == 1}) / len(items)
        if self.lab.control is not None:
            control: Rollouts = replace(rollouts, task=self.lab.control)
            others = self.lab.control.splits["pareto"]
            found["control_score"] = mean_score(
                control.rows(NO_PROMPT, others, samples, sampling, "evaluate")
            )
        aims = not config.objective.adv_tau and not config.teacher.moves
        return Check(step, judged, kl=kl if aims else {}), found
