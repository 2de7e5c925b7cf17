"""The steps from one checkpoint to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.whole import Config
from gepa_loop.distill.agreement import divergences, reply_groups
from gepa_loop.distill.average import Average
from gepa_loop.distill.checkpoint import Checkpoint, optimizer_moments, restore_moments
from gepa_loop.distill.checks import Check
from gepa_loop.distill.clock import Clock
from gepa_loop.distill.collect import collect
from gepa_loop.distill.metrics import metrics, samples
from gepa_loop.distill.optimizer import learning_rate
from gepa_loop.distill.passes import Passes
from gepa_loop.distill.records import CheckMetrics, MetricsRow, SampleRow
from gepa_loop.distill.update import Carried, Trainee, update
from gepa_loop.distill.warm import Recorded, imitating
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.training import load_student, load_teacher, student_adapter, teacher_adapter
from gepa_loop.run.files import append_jsonl, read_jsonl, write_jsonl
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import Rollouts, item_means, mean_score
from gepa_loop.task.prompts import NO_PROMPT

if TYPE_CHECKING:
    from peft import PeftModel

    from gepa_loop.distill.teacher.base import Teacher


METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
JOURNALS = METRICS, SAMPLES
Progress = Callable[[MetricsRow], None]
FAILURES = 3
"""Steps in a row without a finite loss and gradient that end a stretch; one alone is left out and counted."""


@dataclass
class Training:
    """A student and what trains it. Its weights, moments and passes change in place."""

    lab: Lab
    model: PeftModel
    stack: Adapter | None
    trainee: Trainee
    record: Recorded | None
    """The teacher's samples, where they are made once."""
    average: Average
    passes: Passes
    folder: Path
    """Of the journals."""
    warm_start: float
    """Nats a token at which steps on the teacher's samples end."""

    @property
    def teacher(self) -> Teacher | None:
        """The teacher."""
        return self.trainee.teacher

    @property
    def student(self) -> Adapter:
        """The present weights with the stack below, on the model's device."""
        own = student_adapter(self.model, self.lab.base.device)
        return own if self.stack is None else stack_adapters([self.stack, own])

    def beginning(self, before: Mapping[str, float]) -> Checkpoint:
        """The state before the first step, with its held-out scores.

        Args:
            before: Of base + stack; not used where the task has no answers.
        """
        if self.lab.task.answers == "references":
            before = self._check(0)[0].scores
        warm = self.warm_start > 0
        return Checkpoint(
            0,
            student_adapter(self.model),
            optimizer_moments(self.trainee.optimizer),
            (Check(0, before, warm),),
            dict.fromkeys(JOURNALS, 0),
            self._following(),
            warm=warm,
        )

    def go_to(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's weights and moments back, and cut the journals to its steps."""
        load_student(self.model, checkpoint.adapter)
        self.average.restart()
        if checkpoint.weights is not None:
            load_student(self.model, checkpoint.weights)
        restore_moments(self.trainee.optimizer, checkpoint.moments)
        if checkpoint.teacher is not None:
            load_teacher(self.model, checkpoint.teacher)
        if self.teacher is not None:
            self.teacher.restored()
        for name, kind in ((METRICS, MetricsRow), (SAMPLES, SampleRow)):
            count, path = checkpoint.rows[name], self.folder / name
            write_jsonl(path, read_jsonl(path, kind, count, again=self.folder)[:count])

    def stretch(self, start: Checkpoint, progress: Progress) -> tuple[Checkpoint, MetricsRow]:
        """Train from a checkpoint, whose weights are in place, to the next held-out check.

        Args:
            start: The checkpoint.
            progress: Called with each step's row of metrics.jsonl but the last.

        Returns:
            The state then, which is not saved yet, and the last row.

        Raises:
            Diverged: Losses or gradients that are not finite, `FAILURES` steps in a row, or logits that the sampler cannot use.
        """
        rollouts, settings = self.lab.rollouts, self.lab.config.distill
        config = with_half_the_rate(self.lab.config) if start.halved else self.lab.config
        step, baseline, warm, failed = start.step, start.baseline, start.warm, start.failed
        written, checked, imitated = dict(start.rows), False, list[float]()
        check, adapter = start.checks[-1], start.adapter
        row: MetricsRow | None = None
        try:
            while not checked:
                if row is not None:
                    progress(row)
                clock = Clock(self.lab.base.device)
                # 1. The student answers, or the teacher does.
                now = imitating(config) if warm else config
                collected = collect(
                    now, rollouts.by(self.student), self.teacher, self.stack, step, self.record
                )
                measured = rollouts.sampler.sleep()
                clock.lap("generate")

                # 2. The teacher reads; the student moves.
                carried = Carried(self.passes, step * settings.updates, baseline)
                done = update(now, self.trainee, collected, carried, clock)
                self.passes = done.carried.passes
                self.average.add(step + 1)
                finite = math.isfinite(done.loss) and math.isfinite(done.grad_norm)
                failed = 0 if finite else failed + 1
                if failed == FAILURES:
                    raise Diverged(f"the loss or its gradient was not finite in {FAILURES} steps in a row")
                step, baseline = step + 1, done.carried.baseline
                rate = learning_rate(config.distill, carried.updates)
                row = {
                    **metrics(step, collected, done, rate, clock, self.lab.base.device),
                    **measured,
                    "warm": warm,
                    "skipped": not finite,
                    "halved": start.halved,
                }
                if warm and finite:
                    imitated.append(done.loss)
                # For half of the steps at most: a 135M model is still at .1 nats after 30 of them, a 0.5B one at .05 after 10 to 25.
                warm = warm and 2 * step < settings.steps and not (finite and done.loss <= self.warm_start)
                shown = samples(step, collected, done, rollouts)
                append_jsonl(self.folder / SAMPLES, shown)

                # 3. Held-out check, of the average.
                checked = step % settings.check_every == 0 or step == settings.steps
                if checked:
                    with self._averaged():
                        adapter = student_adapter(self.model)
                        check, found = self._check(step)
                    row = {**row, **found}
                    clock.lap("check")
                    row["seconds"] = clock.seconds
                append_jsonl(self.folder / METRICS, [row])
                written = {METRICS: written[METRICS] + 1, SAMPLES: written[SAMPLES] + len(shown)}
        except Diverged as error:
            raise Diverged(f"step {step + 1}: {error}", error.hint) from error
        reached = Checkpoint(
            step,
            adapter,
            optimizer_moments(self.trainee.optimizer),
            (*start.checks, replace(check, warm=warm, warm_losses=imitated)),
            written,
            self._following(),
            student_adapter(self.model) if self.average.share else None,
            baseline,
            warm,
            failed,
            start.halved,
        )
        assert row is not None
        return reached, row

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block the student's weights are their average over the steps."""
        try:
            with self.average.in_place():
                self._moved()
                yield
        finally:
            self._moved()

    def _moved(self) -> None:
        if self.teacher is not None:
            self.teacher.moved()

    def _following(self) -> Adapter | None:
        """The adapter of a teacher that follows the student."""
        return teacher_adapter(self.model) if self.teacher is not None and self.teacher.follows else None

    def _check(self, step: int) -> tuple[Check, CheckMetrics]:
        """What a check after `step` finds of the student, without a prompt.

        Returns:
            What judges it: its scores, or exp(-KL(student || teacher)) where answers are the prompted model's replies; and for
            the step's log the held-out score, that KL, pass@k and the score on the control.
        """
        config, rollouts = self.lab.config, self.lab.rollouts.by(self.student)
        sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
        items, count = rollouts.task.splits["pareto"], config.distill.pass_at
        samples = config.evaluate.samples
        completions = rollouts.completions(NO_PROMPT, items, samples, sampling, "evaluate")
        held_out = rollouts.scored(items, completions)
        judged, found = item_means(held_out), CheckMetrics(held_out_score=mean_score(held_out))
        kl: Mapping[str, float] = {}
        # What grpo reads, if anything, is the base without a prompt.
        reads = config.objective.reads_teacher
        if reads and self.teacher is not None and all(item.id in self.teacher.prompts for item in items):
            rollouts.sampler.sleep()
            questions = rollouts.renderer.all_tokens(NO_PROMPT, items)
            groups = reply_groups(self.teacher, items, questions, completions)
            nats, self.passes = divergences(
                self.lab.base, self.teacher, groups, self.passes, self.trainee.forward
            )
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


def with_half_the_rate(config: Config) -> Config:
    """The configuration after a stretch that was taken back."""
    distill = config.distill
    return config.model_copy(update={"distill": distill.model_copy(update={"lr": distill.lr / 2})})
