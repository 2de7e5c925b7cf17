"""What replies are compared with where a task has no answers: those that the prompted model gives greedily."""

from __future__ import annotations

from dataclasses import replace

from gepa_loop.config.tables import EvaluateConfig
from gepa_loop.errors import ConfigError
from gepa_loop.lab import Lab
from gepa_loop.run.directory import Run
from gepa_loop.scores.split import evaluate
from gepa_loop.stages.observer import Observer
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.scorers import muted

SPLITS = ("pareto", "test")
"""Those that judge a student."""


def check_references(lab: Lab) -> None:
    """Find out whether the prompted model is what the student should agree with, and all that it learns from.

    Raises:
        ConfigError: The task has no answers, and the teacher is another model, or training reads answers.
    """
    kind = lab.config.teacher.kind
    if lab.task.answers != "none":
        return
    # A field that is no answer may be there.
    if key := lab.config.objective.reads_score:
        raise ConfigError(
            f"{key}: task {lab.task.name} has no answers, and objective {lab.config.objective.type} trains on scores",
            "Take one that trains on the teacher alone, as the default does, or give the records answers.",
        )
    if kind != "base":
        raise ConfigError(
            f"teacher.kind = {kind!r}: task {lab.task.name} has no answers, so the student is judged by its agreement with the "
            "prompted model, which is the teacher for 'base' alone"
        )


def with_references(lab: Lab, candidate: Candidate, run: Run, observer: Observer) -> Lab:
    """The lab as it is, or, where its task has no answers, with the prompted model's greedy replies in their place.

    Their rows go to references/<split>.jsonl.

    Args:
        lab: Of the run.
        candidate: The prompt that is distilled.
        run: Its directory.
        observer: Sees each split's progress.
    """
    if lab.task.answers != "none":
        return lab
    config = lab.config.model_copy(update={"evaluate": EvaluateConfig(samples=1, temperature=0.0)})
    mute = replace(lab.rollouts, task=replace(lab.task, scorer=muted))
    replies: dict[str, str] = {}
    for split in SPLITS:
        observer.stage(f"the prompted model's replies: {split}")
        path = run.path / "references" / f"{split}.jsonl"
        rows = evaluate(config, mute, split, candidate.text, path, observer.progress)
        replies |= {row["item"]: row["completion"] for row in rows}
    return lab.with_task(lab.task.with_references(replies))
