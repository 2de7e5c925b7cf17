"""A few training steps, timed, before a run: what `plan --measure` does."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from gepa_loop.cost.pace import Pace, pace_of
from gepa_loop.lab import Lab
from gepa_loop.run.files import read_jsonl
from gepa_loop.stages.observer import Observer
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.records import MetricsRow

STEPS = 3
"""That are timed, after those that warm up."""
WARM_UP = {"cuda": 12}
"""Steps before them, by device, else one: on a GPU each batch of a new shape is captured, and the first dozen have nearly all."""
HELD_OUT = 2
"""Items of `pareto` at their end, whose score nobody reads."""


def timed_steps(lab: Lab, prompt: Candidate, students: int, observer: Observer) -> Pace:
    """Train so many students of a prompt together for `STEPS` steps at full length, in a folder that is deleted afterwards.

    Raises:
        Diverged: No step has a finite loss.
        ModelError: There is too little memory for one.
    """
    from gepa_loop.training.student import METRICS
    from gepa_loop.training.trainer import Pupil, train

    config, warm_up = lab.config, WARM_UP.get(lab.base.device.type, 1)
    steps = warm_up + STEPS
    own = {
        "steps": steps,
        "check_every": steps,
        "horizon": (),
        # The teacher's samples are made once; what a step of its own takes is asked.
        "warm_start": 0.0,
        "control": None,
        "pass_at": 0,
    }
    longest = config.distill.longest(config.sampling.max_tokens)
    short = config.model_copy(
        update={
            "distill": config.distill.model_copy(update=own),
            "sampling": config.sampling.model_copy(update={"max_tokens": longest}),
            "evaluate": config.evaluate.model_copy(update={"samples": 1}),
        }
    )
    held_out = lab.task.splits["pareto"][:HELD_OUT]
    task = replace(lab.task, splits={**lab.task.splits, "pareto": held_out})
    trial = replace(lab.with_task(task), config=short, control=None)
    with tempfile.TemporaryDirectory(prefix="gepa-loop-") as place:
        folders = [Path(place) / str(n) for n in range(students)]
        several = f"{students} students" if students > 1 else prompt.id
        observer.stage("measuring training steps", candidate=several)
        observer.progress(0, steps)
        pupils = [
            Pupil(prompt, folder, lambda row: observer.progress(row["step"], steps)) for folder in folders
        ]
        train(trial, pupils, stack=None, before=dict.fromkeys((item.id for item in held_out), 0.0))
        rows = read_jsonl(folders[0] / METRICS, MetricsRow)
    pace = pace_of(rows, f"{STEPS} steps of `plan --measure`", warm_up)
    assert pace is not None, "a training of some steps has rows"
    return pace
