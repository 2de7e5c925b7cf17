"""A step of several students that share it, beside one student's step as often as there are students: case F.

Each student has a teacher's prompt of its own. The single student has a model and a sampler that have never seen several, and the
two sides take turns, step by step, as machines drift.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, Case
from benchmarks.ours import open_case
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.training import student_adapter, student_parameters, with_lora
from gepa_loop.sampling.together import sample_together
from gepa_loop.training.clock import Clock
from gepa_loop.training.collect import asked, collect, plan_step
from gepa_loop.training.metrics import peak_memory_gib
from gepa_loop.training.optimizer import make_optimizer
from gepa_loop.training.passes import plan_passes
from gepa_loop.training.teacher.choose import open_teacher
from gepa_loop.training.turn import Reader, Trainee, Turn
from gepa_loop.training.update import update_together

PHASES = ("generate", "teacher", "forward", "loss", "backward", "optimizer")


def stepping(lab: Lab, case: Case, context: str, students: int) -> Iterator[dict[str, float]]:
    """Seconds of one step of so many students after another, by phase; `step` is the whole."""
    config, base = lab.config, lab.base
    model = with_lora(base, config.lora, 0, None, students)
    trainees, trained = [], list[torch.nn.Parameter]()
    for number in range(students):
        own = student_parameters(model, number)
        # Teachers' prompts of one length that differ from their first token on.
        teacher = open_teacher(lab, model, chr(ord("a") + number) + context[1:])
        trainees.append(Trainee(make_optimizer(config.distill, own), teacher, number))
        trained += own
    reader, passes = (
        Reader(base, open_forward(base.model, trained)),
        plan_passes(config.distill, base, case.prompt + case.new),
    )
    for step in itertools.count():
        start, clock = time.perf_counter(), Clock(base.device)
        answering = [lab.rollouts.by(student_adapter(model, base.device, one.number)) for one in trainees]
        wanted = [asked(config, one, step) for one in answering]
        planned = plan_step(config, lab.rollouts, step)
        found = sample_together(lab.rollouts.sampler, wanted, planned.sampling)
        turns = []
        for one, rollouts, completions in zip(trainees, answering, found, strict=True):
            assert not isinstance(completions, Diverged)
            assert {len(c.token_ids) for c in completions} == {case.new}
            batch = collect(config, rollouts, one.teacher, None, step, None, completions)
            turns.append(Turn(config, one, batch, step))
        clock.lap("generate")
        passes = update_together(turns, reader, passes, clock)[0].passes
        yield {"step": time.perf_counter() - start, **clock.seconds}


def run(case: Case, students: int, steps: int, warmup: int, sets: list[str]) -> dict[str, Any]:
    """Medians of one student's steps, times as many as there are students, and of all students' steps, by turns."""
    (lab, context), (other, _) = open_case(case, sets), open_case(case, sets)
    one, every = stepping(other, case, context, 1), stepping(lab, case, context, students)
    rows = [(next(one), next(every)) for _ in range(warmup + steps)][warmup:]
    single, shared = (
        {name: statistics.median(row.get(name, 0.0) for row in side) for name in ("step", *PHASES)}
        for side in zip(*rows, strict=True)
    )
    ratios = [students * alone["step"] / all_["step"] for alone, all_ in rows]
    return {
        "case": case.name,
        "students": students,
        "engine": lab.engine,
        "alone": {name: students * value for name, value in single.items()},
        "together": shared,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "peak_gib": peak_memory_gib(lab.base.device),
    }


def table(found: dict[str, Any]) -> Table:
    out = Table(title=f"{found['case']}: {found['students']} students, {found['engine']}", box=SIMPLE_HEAD)
    for head in ("seconds a step", "whole", *PHASES):
        out.add_column(head, justify="left" if head == "seconds a step" else "right")
    for name, key in (("one after another", "alone"), ("together", "together")):
        out.add_row(name, *(f"{found[key][part]:.3f}" for part in ("step", *PHASES)))
    ratios = (found["alone"][part] / max(found["together"][part], 1e-9) for part in ("step", *PHASES))
    out.add_row("ratio", *(f"{ratio:.2f}" for ratio in ratios))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="tiny")
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--warmup", type=int, help="steps before the timed ones; by default until shapes are captured"
    )
    parser.add_argument("--batch", type=int, help="sampling.batch; without it the rollouts of all students")
    parser.add_argument("--override", default="{}")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    one = replace(CASES[given.case], **json.loads(given.override))
    batch = given.batch or one.rollouts * given.students
    warmup = one.warmup(given.warmup)
    outcome = run(one, given.students, given.steps, warmup, [f"sampling.batch={batch}", *given.set])
    Console(width=120).print(table(outcome))
    print(json.dumps(outcome))
