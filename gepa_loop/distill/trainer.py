"""Distillation: a prompt's effect moves into a LoRA adapter.

One step: the student answers items of `train` without the prompt (or, off-policy, the teacher with it); the teacher,
which is the same model with the prompt or another one, reads the tokens; the student moves as the objective says.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gepa_loop.config import Config
from gepa_loop.distill.checkpoint import (
    Checkpoint,
    adapter_at,
    load_checkpoint,
    optimizer_moments,
    restore_moments,
    save_checkpoint,
)
from gepa_loop.distill.checks import Check, Choice, choose, stale
from gepa_loop.distill.collect import collect
from gepa_loop.distill.forward import open_forward
from gepa_loop.distill.memory import plan_passes
from gepa_loop.distill.metrics import Clock, metrics, samples
from gepa_loop.distill.teacher import open_reader
from gepa_loop.distill.update import learning_rate, make_optimizer, update
from gepa_loop.distill.warm import TEACHER_SAMPLES, imitating, recorded
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab
from gepa_loop.lora import Adapter, read_adapter, stack_adapters, write_adapter
from gepa_loop.lora_training import (
    load_student,
    load_teacher,
    remove_lora,
    student_adapter,
    teacher_adapter,
    with_lora,
)
from gepa_loop.marks import check_below
from gepa_loop.models import Base
from gepa_loop.prompts import NO_PROMPT, Candidate
from gepa_loop.rollouts import Rollouts, item_means, mean_score
from gepa_loop.runs import append_jsonl, read_jsonl, read_record, write_jsonl, write_record
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.canary import Mismatch, check_sampler

if TYPE_CHECKING:
    from peft import PeftModel

    from gepa_loop.distill.teacher import Reader

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
JOURNALS = METRICS, SAMPLES
FAILURES = 3
"""Steps in a row without a finite loss and gradient that end a distillation; one alone is left out and counted."""


@dataclass(frozen=True)
class Distilled:
    """A finished distillation."""

    adapter: Adapter
    """The student of the check that was chosen."""
    kept: Choice
    last_step: int
    last: float
    """Held-out score at the last step."""
    before: float
    """Held-out score before the first step."""
    mismatch: Mismatch
    """Between the sampler with this student and the trainer."""


def distill(
    lab: Lab,
    candidate: Candidate,
    folder: Path,
    *,
    stack: Adapter | None,
    before: Mapping[str, float],
    progress: Callable[[dict[str, Any]], None],
) -> Distilled:
    """Distil one prompt into a new adapter on top of base + stack.

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
        return _finished(folder, stack)
    config, base, rollouts, settings = lab.config, lab.base, lab.rollouts, lab.config.distill
    control = None if lab.control is None else replace(rollouts, task=lab.control)
    model = with_lora(base, config.lora, rollouts.derived("lora"), stack)
    checks: tuple[Check, ...] = (Check(0, before),)
    step = 0
    try:
        reader = open_reader(lab, model, candidate.text)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(config, trained)
        forward = open_forward(base.model, trained)
        rollouts.sampler.rest()  # what it gives back counts as free
        passes = plan_passes(config, base, _longest_row(lab))
        checkpoint = load_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            checkpoint = Checkpoint(
                0,
                student_adapter(model),
                optimizer_moments(optimizer),
                checks,
                dict.fromkeys(JOURNALS, 0),
                _following(reader, model),
                warm=settings.warm_start > 0,
            )
            save_checkpoint(folder / "checkpoints", checkpoint, base.origin)
        else:
            _restore(checkpoint, model, optimizer)
        step, checks, baseline = checkpoint.step, checkpoint.checks, checkpoint.baseline
        warm, failed = checkpoint.warm, checkpoint.failed
        record = None
        if settings.warm_start:
            assert reader is not None
            record = recorded(config, rollouts, reader, stack, folder)
        written = dict(checkpoint.rows)
        for name in JOURNALS:
            count = checkpoint.rows[name]
            write_jsonl(folder / name, read_jsonl(folder / name, count, again=folder)[:count])

        while step < settings.steps and not stale(checks, settings.patience):
            clock = Clock(base.device)
            # 1. The student answers, or the teacher does.
            student = _whole(model, stack, base)
            now = imitating(config) if warm else config
            collected = collect(now, rollouts, reader, student, stack, step, record)
            measured = rollouts.sampler.rest()
            clock.lap("generate")

            # 2. The teacher reads; the student moves.
            first = step * settings.updates
            done = update(now, base, forward, optimizer, reader, collected, baseline, first, passes, clock)
            passes = done.passes
            finite = math.isfinite(done.loss) and math.isfinite(done.grad_norm)
            failed = 0 if finite else failed + 1
            if failed == FAILURES:
                raise Diverged(f"the loss or its gradient was not finite in {FAILURES} steps in a row")
            step, baseline = step + 1, done.baseline
            row = metrics(step, collected, done, learning_rate(config, first), clock, base.device) | measured
            row |= {"warm": warm, "skipped": not finite}
            warm = warm and not (finite and done.loss <= settings.warm_start)
            shown = samples(step, collected, done, rollouts)
            append_jsonl(folder / SAMPLES, shown)

            # 3. Held-out check.
            checked = step % settings.check_every == 0 or step == settings.steps
            if checked:
                rollouts.sampler.set_student(_whole(model, stack, base))
                scores, shown_scores = _scores(config, rollouts, control)
                checks, row = (*checks, Check(step, scores)), row | shown_scores
                clock.lap("check")
                row["seconds"] = clock.seconds
            append_jsonl(folder / METRICS, [row])
            written = {METRICS: written[METRICS] + 1, SAMPLES: written[SAMPLES] + len(shown)}
            if checked:
                checkpoint = Checkpoint(
                    step,
                    student_adapter(model),
                    optimizer_moments(optimizer),
                    checks,
                    written,
                    _following(reader, model),
                    baseline,
                    warm,
                    failed,
                )
                save_checkpoint(folder / "checkpoints", checkpoint, base.origin)
            progress(row)
    except Diverged as error:
        raise Diverged(
            f"distilling {candidate.id}, step {step + 1}: {error}; "
            f"step {checks[-1].step} is kept in {folder / 'checkpoints'}",
            "Lower distill.lr or distill.max_norm; a run with other values needs another --run-name.",
        ) from error
    finally:
        remove_lora(model)

    kept, last = choose(checkpoint.checks), checkpoint.checks[-1]
    adapter = adapter_at(folder / "checkpoints", kept.step)
    # Before the record: a sampler that fails is asked again by the next run, and never scores this student.
    whole = adapter if stack is None else stack_adapters([stack, adapter])
    mismatch = check_sampler(
        base, rollouts.sampler, whole, stack, config.sampling.canary, lab.engine.partition(",")[0]
    )
    write_adapter(folder / "adapter", adapter, base.origin)
    write_record(
        folder / "result.json",
        {
            "before": checkpoint.checks[0].score,
            "last": {"step": last.step, "score": last.score},
            "choice": asdict(kept),
            "mismatch": asdict(mismatch),
            "stack": None if stack is None else stack.fingerprint,
        },
        "adapter",
        *JOURNALS,
        TEACHER_SAMPLES,
    )
    return _finished(folder, stack)


def _finished(folder: Path, stack: Adapter | None) -> Distilled:
    result = read_record(folder / "result.json")
    check_below(folder / "result.json", result["stack"], None if stack is None else stack.fingerprint)
    # Also those that a process left which was killed just before.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return Distilled(
        read_adapter(folder / "adapter"),
        Choice(**result["choice"]),
        result["last"]["step"],
        result["last"]["score"],
        result["before"],
        Mismatch(**result["mismatch"]),
    )


def _longest_row(lab: Lab) -> int:
    """Positions of the longest question of `train` with the longest completion."""
    questions = lab.rollouts.renderer.all_tokens(NO_PROMPT, lab.task.splits["train"])
    return max(map(len, questions)) + lab.config.distill.longest(lab.config.sampling.max_tokens)


def _whole(model: PeftModel, stack: Adapter | None, base: Base) -> Adapter:
    """The student's present weights with the stack below."""
    if stack is None:
        return student_adapter(model, base.device)
    return stack_adapters([stack, student_adapter(model)])


def _following(reader: Reader | None, model: PeftModel) -> Adapter | None:
    """The adapter of a teacher that follows the student."""
    return teacher_adapter(model) if reader is not None and reader.follows else None


def _restore(checkpoint: Checkpoint, model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and moments back, in place."""
    load_student(model, checkpoint.adapter)
    restore_moments(optimizer, checkpoint.moments)
    if checkpoint.teacher is not None:
        load_teacher(model, checkpoint.teacher)


def _scores(
    config: Config, rollouts: Rollouts, control: Rollouts | None
) -> tuple[dict[str, float], dict[str, float]]:
    """What a check finds of the sampler's student, without a prompt.

    Returns:
        Each item's score; and for the step's log the held-out score, pass@k and the score on the control.
    """
    sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
    items, count = rollouts.task.splits["pareto"], config.distill.pass_at
    held_out = rollouts.rows(NO_PROMPT, items, config.evaluate.samples, sampling, "evaluate")
    found = {"held_out_score": mean_score(held_out)}
    if count:
        warm = replace(sampling, temperature=config.sampling.temperature)
        rows = rollouts.rows(NO_PROMPT, items, count, warm, "pass")
        found["pass_at_k"] = len({row.item for row in rows if row.score == 1}) / len(items)
    if control is not None:
        others = control.task.splits["pareto"]
        found["control_score"] = mean_score(
            control.rows(NO_PROMPT, others, config.evaluate.samples, sampling, "evaluate")
        )
    return item_means(held_out), found
