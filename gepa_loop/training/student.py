"""A student in training: what belongs to it alone, and its way from one held-out check to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.whole import Config
from gepa_loop.errors import Diverged
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.training import load_student, load_teacher, student_adapter, teacher_adapter
from gepa_loop.run.files import read_jsonl, write_jsonl
from gepa_loop.training.average import Average
from gepa_loop.training.checkpoint import Checkpoint, optimizer_moments, restore_moments
from gepa_loop.training.checks import Check
from gepa_loop.training.records import MetricsRow, SampleRow
from gepa_loop.training.turn import Trainee
from gepa_loop.training.update import Updated
from gepa_loop.training.warm import Recorded, imitating

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from gepa_loop.training.teacher.base import Teacher


METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
JOURNALS = METRICS, SAMPLES
Progress = Callable[[MetricsRow], None]
FAILURES = 3
"""Steps in a row without a finite loss and gradient that end a stretch; one alone is left out and counted."""


@dataclass
class Student:
    """A student and what trains it. Its weights and moments change in place."""

    model: PeftModel
    stack: Adapter | None
    trainee: Trainee
    record: Recorded | None
    """The teacher's samples, where they are made once."""
    average: Average
    folder: Path
    """Of the journals."""
    warm_start: float
    """Nats a token at which steps on the teacher's samples end."""

    @property
    def teacher(self) -> Teacher | None:
        """The teacher."""
        return self.trainee.teacher

    def adapter(self, device: str | torch.device = "cpu") -> Adapter:
        """A copy of the present weights."""
        return student_adapter(self.model, device, self.trainee.number)

    def whole(self, device: torch.device) -> Adapter:
        """The same with the stack below."""
        own = self.adapter(device)
        return own if self.stack is None else stack_adapters([self.stack, own])

    def following(self) -> Adapter | None:
        """The adapter of a teacher that follows the student."""
        return teacher_adapter(self.model) if self.teacher is not None and self.teacher.follows else None

    def go_to(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's weights and moments back, and cut the journals to its steps."""
        load_student(self.model, checkpoint.adapter, self.trainee.number)
        self.average.restart()
        if checkpoint.weights is not None:
            load_student(self.model, checkpoint.weights, self.trainee.number)
        restore_moments(self.trainee.optimizer, checkpoint.moments)
        if checkpoint.teacher is not None:
            load_teacher(self.model, checkpoint.teacher)
        if self.teacher is not None:
            self.teacher.restored()
        for name, kind in ((METRICS, MetricsRow), (SAMPLES, SampleRow)):
            count, path = checkpoint.rows[name], self.folder / name
            write_jsonl(path, read_jsonl(path, kind, count, again=self.folder)[:count])

    @contextmanager
    def averaged(self) -> Iterator[None]:
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


@dataclass
class Course:
    """A student's way from a checkpoint, whose weights are in place, to its next held-out check."""

    student: Student
    start: Checkpoint
    config: Config
    progress: Progress
    """Called with each step's row of metrics.jsonl but the last."""
    baseline: float = 0.0
    warm: bool = False
    failed: int = 0
    imitated: list[float] = field(default_factory=list)
    row: MetricsRow | None = None
    """Of the last step."""
    shown: int = 0
    """Rows of samples.jsonl so far."""
    harm: Diverged | None = None
    """Why it ended before the check."""

    def __post_init__(self) -> None:
        self.baseline, self.warm, self.failed = self.start.baseline, self.start.warm, self.start.failed
        self.config = with_half_the_rate(self.config) if self.start.halved else self.config

    @property
    def now(self) -> Config:
        """The configuration of the next step."""
        return imitating(self.config) if self.warm else self.config

    def ended(self, step: int, why: Diverged) -> None:
        """Take note of why the next step after `step` was not to be had."""
        self.harm = Diverged(f"step {step + 1}: {why}", why.hint)

    def note(self, step: int, done: Updated) -> bool:
        """Take in what the step after `step` was like; whether its loss and gradient were finite."""
        finite = math.isfinite(done.loss) and math.isfinite(done.grad_norm)
        self.failed = 0 if finite else self.failed + 1
        if self.failed == FAILURES:
            self.ended(
                step, Diverged(f"the loss or its gradient was not finite in {FAILURES} steps in a row")
            )
        self.baseline = done.baseline
        self.student.average.add(step + 1)
        if self.warm and finite:
            self.imitated.append(done.loss)
        # For half of the steps at most: a 135M model is still at .1 nats after 30 of them, a 0.5B one at .05 after 10 to 25.
        self.warm = (
            self.warm
            and 2 * (step + 1) < self.config.distill.steps
            and not (finite and done.loss <= self.student.warm_start)
        )
        return finite

    def reached(self, step: int, adapter: Adapter, check: Check) -> Checkpoint:
        """The state at the check, which judged `adapter`."""
        before = self.start.rows
        rows = {
            METRICS: before[METRICS] + step - self.start.step,
            SAMPLES: before[SAMPLES] + self.shown,
        }
        return Checkpoint(
            step,
            adapter,
            optimizer_moments(self.student.trainee.optimizer),
            (*self.start.checks, replace(check, warm=self.warm, warm_losses=self.imitated)),
            rows,
            self.student.following(),
            self.student.adapter() if self.student.average.share else None,
            self.baseline,
            self.warm,
            self.failed,
            self.start.halved,
        )


def with_half_the_rate(config: Config) -> Config:
    """The configuration after a stretch that was taken back."""
    distill = config.distill
    return config.model_copy(update={"distill": distill.model_copy(update={"lr": distill.lr / 2})})
