"""A distillation, as the commands run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.config.tables import LoopConfig
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.directory import Run
from gepa_loop.run.files import read_jsonl
from gepa_loop.scores.statistics import ItemScores, item_scores
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.score import scores
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.training.records import MetricsRow

if TYPE_CHECKING:
    from gepa_loop.training.distilled import Distilled
    from gepa_loop.training.student import Progress


@dataclass(frozen=True)
class Below:
    """The model that students are trained on."""

    stack: Adapter | None
    """The earlier rounds' adapters, as one."""
    held_out: Mapping[str, float]
    """Its held-out scores without a prompt, item by item."""


def distill_candidate(
    lab: Lab, candidate: Candidate, folder: Path, observer: Observer, below: Below
) -> Distilled:
    """Distill one prompt; items and random numbers are those of the lab's round."""
    finish_candidates(lab, {folder: candidate}, observer, below)
    # Reading texts and asking the sampler takes a minute on a CPU, which a full bar of the training would not show.
    observer.stage("distilled", candidate=candidate.id)
    return end_candidate(lab, candidate, folder, observer, below)


def end_candidate(
    lab: Lab, candidate: Candidate, folder: Path, observer: Observer, below: Below
) -> Distilled:
    """Choose the check that is kept of a student that was trained to its end, and say what is known of it."""
    from gepa_loop.training.student import METRICS
    from gepa_loop.training.trainer import distill

    done = distill(lab, candidate, folder, stack=below.stack, before=below.held_out, progress=lambda _: None)
    observer.note(f"ended {done.ended}; kept step {done.kept.step}: {done.kept.reason}")
    for note in _idle(read_jsonl(folder / METRICS, MetricsRow)):
        observer.note(note)
    observer.note(
        f"on texts that have nothing to do with the task: {done.forgetting:.2g} nats a token from the model"
    )
    if done.control is not None:
        observer.note(str(done.control))
    observer.note(str(done.mismatch))
    return done


def train_candidates(
    lab: Lab,
    candidates: Mapping[Path, Candidate],
    observer: Observer,
    below: Below,
    until: int | None = None,
) -> list[Adapter]:
    """The students of the first held-out check at or after `until` steps, or of their last; they share their steps.

    Each is kept in its folder, and goes on from there.
    """
    from gepa_loop.training.trainer import Pupil, train
    from gepa_loop.workers.training import Course, apart, train_apart

    several = len(candidates) > 1
    _say_where(lab, list(candidates), observer)
    steps = _Steps(observer, lab.config.distill.steps, len(candidates))
    pupils = [
        Pupil(one, folder, _watched(folder, observer, steps, f"{one.id}: " if several else ""))
        for folder, one in candidates.items()
    ]
    if lab.crew is not None and apart(lab.crew.places, len(pupils), lab.config.distill.stale):
        reached = train_apart(lab, pupils, Course(below.stack, below.held_out, until, finish=until is None))
    else:
        reached = train(lab, pupils, stack=below.stack, before=below.held_out, until=until)
    steps.show()
    return [one.adapter for one in reached]


def finish_candidates(
    lab: Lab, candidates: Mapping[Path, Candidate], observer: Observer, below: Below
) -> None:
    """Train students to their last step; `end_candidate` ends each one's distillation."""
    waiting = {path: one for path, one in candidates.items() if not (path / "result.json").exists()}
    for _ in range(len(candidates) - len(waiting)):
        observer.note("finished earlier")
    if waiting:
        train_candidates(lab, waiting, observer, below)


class _Steps:
    """Shows a step once, however many students share it: the mean of their KL, and the best held-out score."""

    def __init__(self, observer: Observer, steps: int, students: int) -> None:
        self._observer, self.steps, self._students = observer, steps, students
        self._rows: list[MetricsRow] = []

    def add(self, row: MetricsRow) -> None:
        if self._rows and self._rows[0]["step"] != row["step"]:
            self.show()
        self._rows.append(row)
        if len(self._rows) == self._students:
            self.show()

    def show(self) -> None:
        """Show the step so far."""
        if not self._rows:
            return
        nats = [kl for row in self._rows if (kl := row["reverse_kl"]) is not None]
        scores = [score for row in self._rows if (score := row.get("held_out_score")) is not None]
        self._observer.progress(
            self._rows[0]["step"],
            self.steps,
            kl=sum(nats) / len(nats) if nats else None,
            held_out=max(scores, default=None),
        )
        self._rows.clear()


def _say_where(lab: Lab, folders: Sequence[Path], observer: Observer) -> None:
    """Say where distillations begin, once for all that begin at the same step."""
    settings = lab.config.distill
    if not reads_prompt(settings, lab.config.objective):
        observer.note(
            f"objective {lab.config.objective.type} trains on the task reward alone; the prompt is not read"
        )
    begun = [_begun(folder) for folder in folders]
    for step in sorted({step for step in begun if step}):
        who = "" if begun.count(step) == len(begun) else f"{begun.count(step)} of {len(begun)} students: "
        observer.note(f"{who}continuing after step {step}")
    observer.progress(min(begun), settings.steps)


def _begun(folder: Path) -> int:
    """Steps that a distillation has behind it."""
    from gepa_loop.training.checkpoint import steps_saved

    return steps_saved(folder / "checkpoints")


def _watched(folder: Path, observer: Observer, steps: _Steps, who: str) -> Progress:
    """What says where a student's training turns; `who` is said before, where there are several."""
    # What a student that continues was doing before has been said.
    warm, halved = None if _begun(folder) else False, ""

    def progress(row: MetricsRow) -> None:
        nonlocal warm, halved
        warm = row["warm"] if warm is None else warm
        if row["halved"] != halved:
            halved = row["halved"]
            observer.note(
                f"{who}{halved}: back at step {row['step'] - 1}, with half of distill.lr from here on"
            )
        if row["warm"] != warm:
            warm = row["warm"]
            if warm:
                likely = f"the student gives a token of the teacher's replies {row['teacher_likelihood']:.2g}"
                observer.note(f"{who}{likely}: beginning with the teacher's samples")
            else:
                observer.note(f"{who}from step {row['step']} on as the objective says")
        steps.add(row)

    return progress


def _idle(steps: Sequence[MetricsRow]) -> Iterator[str]:
    """How many steps of a whole distillation moved nothing, and why.

    They are counted in metrics.jsonl, which has those of earlier processes as well, and none that was taken back.
    """
    still = sum(step["grad_norm"] == 0 for step in steps)
    if still:
        yield f"{still} of {len(steps)} steps had no gradient: no trained token had an advantage or a divergence"
    skipped = sum(step["skipped"] for step in steps)
    if skipped:
        yield f"{skipped} of {len(steps)} steps were left out: their loss or gradient was not finite"


def distill_alone(
    lab: Lab, candidate: Candidate, run: Run, observer: Observer, label: str | None = None
) -> Distilled:
    """The held-out score without a prompt, then the distillation; `label` is shown."""
    label = label or candidate.id
    observer.stage("untrained", candidate=label)  # a sweep has a baseline of its own: a cell
    return distill_from(lab, candidate, bare_scores(lab, run, observer), run, observer, label)


def bare_scores(lab: Lab, run: Run, observer: Observer) -> ItemScores:
    """What the model has on `pareto` without a prompt."""
    return item_scores(
        scores(lab, "pareto", NO_PROMPT, None, run.path / "baseline" / "pareto.jsonl", observer)
    )


def distill_from(
    lab: Lab, candidate: Candidate, bare: ItemScores, run: Run, observer: Observer, label: str
) -> Distilled:
    """The distillation of a prompt over a model that has `bare` on `pareto`."""
    observer.stage("distill", candidate=label)
    folder = run.path / "distill" / candidate.id
    return distill_candidate(lab, candidate, folder, observer, Below(None, bare))


def forgets(limits: LoopConfig, student: Distilled) -> str | None:
    """Why a student is no contender; None where it is one."""
    nats, limit = student.forgetting, limits.max_forgetting
    if limit is not None and nats > limit:
        return f"its student is {nats:.3f} nats a token from the model on neutral text, over loop.max_forgetting = {limit:g}"
    control, most = student.control, limits.max_control_loss
    if control is not None and most is not None and control.loss > most:
        return f"{control}, a loss of more than loop.max_control_loss = {most:g}"
    return None
