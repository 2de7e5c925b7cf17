"""Distillation: a prompt's effect moves into a LoRA adapter.

One step: the student answers items of `train` without the prompt (or, off-policy, the teacher with it); the teacher,
which is the same model with the prompt or another one, reads the tokens; the student moves as the objective says.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.config.recipe import DistillConfig, averaging, warm_start
from gepa_loop.distill.average import Average
from gepa_loop.distill.checkpoint import Checkpoint, adapter_at, load_checkpoint, save_checkpoint
from gepa_loop.distill.checks import Choice, choose, settled, spoilt
from gepa_loop.distill.forgetting import Control, control_scores, forgetting
from gepa_loop.distill.optimizer import make_optimizer
from gepa_loop.distill.passes import plan_passes
from gepa_loop.distill.records import DistilledRecord, MetricsRow
from gepa_loop.distill.stretch import JOURNALS, METRICS, Progress, Training
from gepa_loop.distill.teacher.choose import open_teacher
from gepa_loop.distill.update import Trainee
from gepa_loop.distill.warm import TEACHER_SAMPLES, recorded
from gepa_loop.errors import Diverged
from gepa_loop.lab import Lab
from gepa_loop.model.graphs import open_forward
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.files import read_adapter, write_adapter
from gepa_loop.model.lora.training import remove_lora, with_lora
from gepa_loop.run.files import read_jsonl, read_record, write_record
from gepa_loop.run.marks import check_below
from gepa_loop.sampling.canary import Mismatch, check_sampler
from gepa_loop.task.prompts import NO_PROMPT, Candidate

if TYPE_CHECKING:
    from peft import PeftModel


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
    ended: str
    """At or by which limit, in words."""
    forgetting: float
    """KL(model || student) on neutral texts, nats a token; see `forgetting`."""
    control: Control | None
    """On the control task, where there is one."""
    kl: float | None
    """KL(student || teacher) of the kept student's held-out replies, nats a token; None where it was not measured."""


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
        return _finished(folder, stack)
    reached = train(lab, candidate, folder, stack=stack, before=before, progress=progress)
    return _finish(lab, reached, folder, stack)


def train(
    lab: Lab,
    candidate: Candidate,
    folder: Path,
    *,
    stack: Adapter | None,
    before: Mapping[str, float],
    progress: Progress,
    until: int | None = None,
) -> Checkpoint:
    """Train a student from its last checkpoint, if it has one, to the first held-out check at or after `until` steps, or to its end.

    Where it rests, and how often, changes nothing of what it becomes. Arguments and errors as of `distill`, which also
    chooses the check that is kept.
    """
    base, settings, checkpoints = lab.base, lab.config.distill, folder / "checkpoints"
    if (rests := load_checkpoint(checkpoints)) is not None and _rests(rests, settings, until):
        return rests
    model = with_lora(base, lab.config.lora, lab.rollouts.derived("lora"), stack)
    try:
        training = _open(lab, model, candidate, stack, folder)
        checkpoint = rests
        if checkpoint is None:
            checkpoint = training.beginning(before)
            save_checkpoint(checkpoints, checkpoint, base.origin)
        training.go_to(checkpoint)
        while not _rests(checkpoint, settings, until):
            try:
                found, row = training.stretch(checkpoint, progress)
                harm = spoilt(found.checks)
            except Diverged as error:
                if checkpoint.halved:
                    raise Diverged(
                        f"distilling {candidate.id}, {error}; step {checkpoint.step} is kept in {checkpoints}",
                        "Lower distill.lr or distill.max_norm; a run with other values needs another --run-name.",
                    ) from error
                harm = str(error)
            if harm and not checkpoint.halved:
                checkpoint = checkpoint.at_half_the_rate(harm)
                save_checkpoint(checkpoints, checkpoint, base.origin)
                training.go_to(checkpoint)
                continue
            checkpoint = found
            save_checkpoint(checkpoints, checkpoint, base.origin)
            progress(row)
        return checkpoint
    finally:
        remove_lora(model)


def _rests(checkpoint: Checkpoint, settings: DistillConfig, until: int | None) -> bool:
    return bool(_ended(checkpoint, settings)) or (until is not None and checkpoint.step >= until)


def _finish(lab: Lab, checkpoint: Checkpoint, folder: Path, stack: Adapter | None) -> Distilled:
    """Choose the check that is kept, look at its student, and write what the distillation ends with."""
    config, base, checkpoints = lab.config, lab.base, folder / "checkpoints"
    kept, last = choose(checkpoint.checks), checkpoint.checks[-1]
    # Read, and found to be whole: any check may be the one that is kept, and memory holds the last one's student alone.
    adapter = adapter_at(checkpoints, kept.step)
    # Before the record: a sampler that fails is asked again by the next run, and never scores this student.
    whole = adapter if stack is None else stack_adapters([stack, adapter])
    mismatch = check_sampler(
        base, lab.rollouts.sampler, whole, stack, config.sampling.canary, lab.engine.partition(",")[0]
    )
    control = control_scores(lab, whole, stack)
    write_adapter(folder / "adapter", adapter, base.origin)
    result: DistilledRecord = {
        "before": checkpoint.checks[0].score,
        "last": {"step": last.step, "score": last.score},
        "choice": kept.as_dict(),
        "ended": _ended(checkpoint, config.distill),
        "forgetting": forgetting(base, whole, stack),
        "control": None if control is None else control.as_dict(),
        "kl": _kl_at(kept.step, folder),
        "mismatch": {"nats": mismatch.nats, "effect": mismatch.effect},
        "stack": None if stack is None else stack.fingerprint,
    }
    write_record(folder / "result.json", result, "adapter", *JOURNALS, TEACHER_SAMPLES)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return _distilled(result, adapter)


def _finished(folder: Path, stack: Adapter | None) -> Distilled:
    """What an earlier process ended with."""
    result = read_record(folder / "result.json", DistilledRecord)
    check_below(folder / "result.json", result["stack"], None if stack is None else stack.fingerprint)
    # Those that a process left which was killed just before.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return _distilled(result, read_adapter(folder / "adapter"))


def _distilled(result: DistilledRecord, adapter: Adapter) -> Distilled:
    return Distilled(
        adapter,
        Choice(**result["choice"]),
        result["last"]["step"],
        result["last"]["score"],
        result["before"],
        Mismatch(**result["mismatch"]),
        result["ended"],
        result["forgetting"],
        None if result["control"] is None else Control(**result["control"]),
        result["kl"],
    )


def _open(lab: Lab, model: PeftModel, candidate: Candidate, stack: Adapter | None, folder: Path) -> Training:
    """What trains `model`, with its new adapter, towards the prompt."""
    config, base, rollouts = lab.config, lab.base, lab.rollouts
    teacher = open_teacher(lab, model, candidate.text)
    trained = [p for p in model.parameters() if p.requires_grad]
    record, nats = None, warm_start(config.distill, config.objective, config.teacher)
    if nats:
        assert teacher is not None
        record = recorded(config.distill, config.sampling, rollouts, teacher, stack, folder)
    rollouts.sampler.sleep()  # what it gives back counts as free
    optimizer = make_optimizer(config.distill, trained)
    return Training(
        lab,
        model,
        stack,
        Trainee(base, open_forward(base.model, trained), optimizer, teacher),
        record,
        Average(optimizer, averaging(config.distill, config.objective, config.teacher)),
        plan_passes(config.distill, base, _longest_row(lab)),
        folder,
        nats,
    )


def _ended(checkpoint: Checkpoint, settings: DistillConfig) -> str:
    """Which limit ends the distillation here; empty where it goes on."""
    if checkpoint.step >= settings.steps:
        return f"at distill.steps = {settings.steps}"
    if settled(checkpoint.checks, settings.patience):
        return f"as the held-out score did not rise over the last {settings.patience} checks"
    return ""


def _kl_at(step: int, folder: Path) -> float | None:
    """What the check of a step found; None for the untrained student of step 0."""
    # The step may be an earlier process's, and a checkpoint holds the KL of those checks alone that are judged by it.
    rows = read_jsonl(folder / METRICS, MetricsRow)
    return next((row.get("held_out_kl") for row in rows if row["step"] == step), None)


def _longest_row(lab: Lab) -> int:
    """Positions of the longest question of `train` with the longest completion."""
    questions = lab.rollouts.renderer.all_tokens(NO_PROMPT, lab.task.splits["train"])
    return max(map(len, questions)) + lab.config.distill.longest(lab.config.sampling.max_tokens)
