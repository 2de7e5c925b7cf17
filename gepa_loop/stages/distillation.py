"""A distillation, as the commands run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.distill.records import MetricsRow
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.directory import Run
from gepa_loop.run.files import read_jsonl
from gepa_loop.scores.statistics import item_scores
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.score import scores
from gepa_loop.task.prompts import NO_PROMPT, Candidate

if TYPE_CHECKING:
    from gepa_loop.distill.stretch import Progress
    from gepa_loop.distill.trainer import Distilled


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
    from gepa_loop.distill.stretch import METRICS
    from gepa_loop.distill.trainer import distill

    progress = _begin(lab, folder, observer)
    done = distill(lab, candidate, folder, stack=below.stack, before=below.held_out, progress=progress)
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


def train_candidate(
    lab: Lab, candidate: Candidate, folder: Path, observer: Observer, below: Below, until: int
) -> Adapter:
    """The student of the first held-out check at or after `until` steps; it is kept in `folder`, and goes on from there."""
    from gepa_loop.distill.trainer import train

    progress = _begin(lab, folder, observer)
    return train(
        lab, candidate, folder, stack=below.stack, before=below.held_out, progress=progress, until=until
    ).adapter


def _begin(lab: Lab, folder: Path, observer: Observer) -> Progress:
    """Say where a distillation begins; what shows its steps."""
    from gepa_loop.distill.checkpoint import steps_saved

    settings = lab.config.distill
    if not reads_prompt(settings, lab.config.objective):
        observer.note(
            f"objective {lab.config.objective.type} trains on the task reward alone; the prompt is not read"
        )
    if begun := settings.steps if (folder / "result.json").exists() else steps_saved(folder / "checkpoints"):
        observer.note("finished earlier" if begun == settings.steps else f"continuing after step {begun}")
    observer.progress(begun, settings.steps)
    # What a student that continues was doing before has been said.
    warm, halved = None if begun else False, ""

    def progress(row: MetricsRow) -> None:
        nonlocal warm, halved
        warm = row["warm"] if warm is None else warm
        if row["halved"] != halved:
            halved = row["halved"]
            observer.note(f"{halved}: back at step {row['step'] - 1}, with half of distill.lr from here on")
        if row["warm"] != warm:
            warm = row["warm"]
            if warm:
                likely = f"the student gives a token of the teacher's replies {row['teacher_likelihood']:.2g}"
                observer.note(f"{likely}: beginning with the teacher's samples")
            else:
                observer.note(f"from step {row['step']} on as the objective says")
        observer.progress(
            row["step"], settings.steps, kl=row["reverse_kl"], held_out=row.get("held_out_score")
        )

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
    """The `distill` command: the held-out score without a prompt, then the distillation; `label` is shown."""
    label = label or candidate.id
    observer.stage("baseline", candidate=label)
    rows = scores(lab, "pareto", NO_PROMPT, None, run.path / "baseline" / "pareto.jsonl", observer)
    folder = run.path / "distill" / candidate.id
    observer.stage("distill", candidate=label or candidate.id)
    return distill_candidate(lab, candidate, folder, observer, Below(None, item_scores(rows)))
