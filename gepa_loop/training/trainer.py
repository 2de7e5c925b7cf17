"""Distillation: a prompt's effect moves into a LoRA adapter.

One step: the student answers items of `train` without the prompt (or, off-policy, the teacher with it); the teacher,
which is the same model with the prompt or another one, reads the tokens; the student moves as the objective says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.recipe import DistillConfig, averaging, warm_start
from gepa_loop.config.whole import Config
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import remove_lora, student_parameters, with_lora
from gepa_loop.model.origin import Origin
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.training.average import Average
from gepa_loop.training.checkpoint import (
    Checkpoint,
    at_one_step,
    load_checkpoint,
    save_checkpoint,
    thin_out,
)
from gepa_loop.training.checks import spoilt
from gepa_loop.training.distilled import Distilled, ended, finish, finished
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import plan_passes
from gepa_loop.training.records import MetricsRow
from gepa_loop.training.stretch import Reached, Training
from gepa_loop.training.student import Course, Progress, Student
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.turn import Reader, Trainee
from gepa_loop.training.warm import Recorded, recorded

if TYPE_CHECKING:
    from peft import PeftModel


def distill(
    lab: Lab,
    candidate: Candidate,
    folder: Path,
    *,
    stack: Adapter | None,
    before: Mapping[str, float],
    progress: Progress,
) -> Distilled:
    """Distill one prompt into a new adapter on top of base + stack.

    Args:
        lab: From `Lab.for_training`. Its base is unchanged afterwards; its sampler holds base + stack + student while
            this runs.
        candidate: The teacher's prompt.
        folder: Gets adapter/, metrics.jsonl, samples.jsonl, checkpoints/ and, at the end, result.json. A
            half-written folder is continued from its last checkpoint, with the same outcome.
        stack: Adapter of the earlier rounds, frozen; part of teacher and student.
        before: Held-out scores of base + stack without a prompt, item by item.
        progress: Called with each row of metrics.jsonl.

    Raises:
        Diverged: Losses or gradients that are not finite, `FAILURES` steps in a row; the last checkpoint is kept.
        ModelError: The sampler computes something else with this student than the trainer does.
    """
    if (folder / "result.json").exists():
        return finished(folder, stack)
    [reached] = train(lab, [Pupil(candidate, folder, progress)], stack=stack, before=before)
    return finish(lab, reached, folder, stack)


SHARED = 256
"""Rollouts of a step that students share, at most. A larger one fills the device without sharing, in more passes than one."""


@dataclass(frozen=True)
class Pupil:
    """A prompt whose student is trained."""

    candidate: Candidate
    folder: Path
    """As of `distill`."""
    progress: Progress
    """The same."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def train(
    lab: Lab,
    pupils: Sequence[Pupil],
    *,
    stack: Adapter | None,
    before: Mapping[str, float],
    until: int | None = None,
    saved: Callable[[], None] = lambda: None,
) -> list[Checkpoint]:
    """Train students, each from its last checkpoint, if it has one, to the first held-out check at or after `until` steps, or to its end.

    Up to `distill.together` of them share their steps: one forward and backward pass, and one decoding batch, have the rows of
    all, each with its own adapter. Where a student rests, how often, and beside whom changes nothing of what it becomes, but
    for the order of sums. Arguments and errors as of `distill`, which also chooses the check that is kept. `saved` is called, from
    another thread, whenever all that share their steps have been saved.
    """
    settings, most, reached = lab.config.distill, at_once(lab.config), list[Checkpoint]()
    for first in range(0, len(pupils), most):
        part = pupils[first : first + most]
        rested = [load_checkpoint(pupil.checkpoints) for pupil in part]
        waiting = [0 if one is None else one.step for one in rested if not _rests(one, settings, until)]
        if waiting and at_one_step([pupil.checkpoints for pupil in part], min(waiting)):
            rested = [load_checkpoint(pupil.checkpoints) for pupil in part]
        done = [one for one in rested if one is not None and _rests(one, settings, until)]
        # Together with those that rest already: then a process that goes on does the same sums as one that was not ended.
        reached += (
            done
            if len(done) == len(part)
            else _train(part, rested, lab, _Ground(stack, before, saved), until)
        )
    return reached


def at_once(config: Config) -> int:
    """How many students share their steps at most: of a teacher that is the base itself, which all of them can read, as many as
    have `SHARED` rollouts between them."""
    if config.teacher.kind != "base":
        return 1
    return max(1, min(config.distill.together, SHARED // config.distill.rollouts))


@dataclass(frozen=True)
class _Ground:
    """What all students of a round stand on, and who is told that they are saved."""

    stack: Adapter | None
    before: Mapping[str, float]
    saved: Callable[[], None]


def _train(
    pupils: Sequence[Pupil],
    rested: Sequence[Checkpoint | None],
    lab: Lab,
    ground: _Ground,
    until: int | None,
) -> list[Checkpoint]:
    """`train` of students that share their steps."""
    base, config = lab.base, lab.config
    model = with_lora(base, config.lora, lab.rollouts.derived("lora"), ground.stack, len(pupils))
    try:
        training = _open(lab, model, pupils, ground.stack)
        now = list[Checkpoint]()
        for student, checkpoint in zip(training.students, rested, strict=True):
            now.append(checkpoint or training.beginning(student, ground.before))
            student.go_to(now[-1])
        new = [n for n, one in enumerate(rested) if one is None]
        # Here, as it reads all weights from the device.
        origin = base.origin
        with ThreadPoolExecutor(1) as disk:
            saved = disk.submit(_save, [pupils[n] for n in new], [now[n] for n in new], origin, ground.saved)
            try:
                while going := [n for n, one in enumerate(now) if not _rests(one, config.distill, until)]:
                    # A student whose stretch is taken back goes over it again while the others wait.
                    step = min(now[n].step for n in going)
                    going = [n for n in going if now[n].step == step]
                    courses = [
                        Course(training.students[n], now[n], config, pupils[n].progress) for n in going
                    ]
                    rows = list[MetricsRow | None]()
                    for n, found in zip(going, training.stretch(courses), strict=True):
                        now[n], row = _judged(pupils[n], now[n], found)
                        rows.append(row)
                    saved.result()
                    several = [pupils[n] for n in going], [now[n] for n in going]
                    saved = disk.submit(_save, *several, origin, ground.saved)
                    for n, row in zip(going, rows, strict=True):
                        if row is None:
                            training.students[n].go_to(now[n])
                        else:
                            pupils[n].progress(row)
            finally:
                # Whatever ended it: that something could not be written is to be known first.
                saved.result()
        return now
    finally:
        remove_lora(model)


def _save(
    pupils: Sequence[Pupil], checkpoints: Sequence[Checkpoint], origin: Origin, saved: Callable[[], None]
) -> None:
    """Write a checkpoint of each, side by side and beside the next steps: it is waiting for the disk, and sums of files."""

    def one(pupil: Pupil, checkpoint: Checkpoint) -> None:
        save_checkpoint(pupil.checkpoints, checkpoint, origin)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, pupils, checkpoints))
    for pupil, checkpoint in zip(pupils, checkpoints, strict=True):
        thin_out(pupil.checkpoints, checkpoint.step)
    saved()


def _judged(
    pupil: Pupil, start: Checkpoint, found: Reached | Diverged
) -> tuple[Checkpoint, MetricsRow | None]:
    """Where a student goes on after a stretch, and its last row; without one where the stretch is taken back."""
    if isinstance(found, Diverged) and start.halved:
        raise Diverged(
            f"distilling {pupil.candidate.id}, {found}; step {start.step} is kept in {pupil.checkpoints}",
            "Lower distill.lr or distill.max_norm; a run with other values needs another --run-name.",
        ) from found
    harm = str(found) if isinstance(found, Diverged) else spoilt(found[0].checks)
    if isinstance(found, Diverged) or (harm and not start.halved):
        return start.at_half_the_rate(harm), None
    return found


def _rests(checkpoint: Checkpoint | None, settings: DistillConfig, until: int | None) -> bool:
    if checkpoint is None:
        return False
    return bool(ended(checkpoint, settings)) or (until is not None and checkpoint.step >= until)


def _open(lab: Lab, model: PeftModel, pupils: Sequence[Pupil], stack: Adapter | None) -> Training:
    """What trains `model`, with its new adapters, each towards its prompt."""
    config, base, rollouts = lab.config, lab.base, lab.rollouts
    nats = warm_start(config.distill, config.objective, config.teacher)
    teachers = [open_teacher(lab, model, pupil.candidate.text) for pupil in pupils]
    records: list[Recorded | None] = [None] * len(pupils)
    if nats:
        for n, (pupil, teacher) in enumerate(zip(pupils, teachers, strict=True)):
            assert teacher is not None
            records[n] = recorded(config.distill, config.sampling, rollouts, teacher, stack, pupil.folder)
    rollouts.sampler.sleep()  # what it gives back counts as free
    share = averaging(config.distill, config.objective, config.teacher)
    students = []
    for n, (pupil, teacher, record) in enumerate(zip(pupils, teachers, records, strict=True)):
        optimizer = make_optimizer(config.distill, student_parameters(model, n))
        average = Average(optimizer, share)
        students.append(
            Student(model, stack, Trainee(optimizer, teacher, n), record, average, pupil.folder, nats)
        )
    trained = [p for n in range(len(pupils)) for p in student_parameters(model, n)]
    reader = Reader(base, open_forward(base.model, trained))
    return Training(lab, reader, tuple(students), plan_passes(config.distill, base, _longest_row(lab)))


def _longest_row(lab: Lab) -> int:
    """Positions of the longest question of `train` with the longest completion."""
    questions = lab.rollouts.renderer.all_tokens(NO_PROMPT, lab.task.splits["train"])
    return max(map(len, questions)) + lab.config.distill.longest(lab.config.sampling.max_tokens)
