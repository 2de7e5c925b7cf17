"""How a distillation ends: which check is kept, and what is known of its student."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.config.recipe import DistillConfig
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.files import read_adapter, write_adapter
from gepa_loop.run.files import read_jsonl, read_record, write_record
from gepa_loop.run.marks import check_below
from gepa_loop.sampling.canary import Mismatch, check_sampler
from gepa_loop.training.checkpoint import Checkpoint, adapter_at
from gepa_loop.training.checks import Choice, choose, settled
from gepa_loop.training.forgetting import Control, control_scores, forgetting
from gepa_loop.training.records import DistilledRecord, MetricsRow
from gepa_loop.training.student import JOURNALS, METRICS
from gepa_loop.training.warm import TEACHER_SAMPLES


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


def finish(lab: Lab, checkpoint: Checkpoint, folder: Path, stack: Adapter | None) -> Distilled:
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
        "ended": ended(checkpoint, config.distill),
        "forgetting": forgetting(base, whole, stack),
        "control": None if control is None else control.as_dict(),
        "kl": _kl_at(kept.step, folder),
        "mismatch": {"nats": mismatch.nats, "effect": mismatch.effect},
        "stack": None if stack is None else stack.fingerprint,
    }
    write_record(folder / "result.json", result, "adapter", *JOURNALS, TEACHER_SAMPLES)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return _distilled(result, adapter)


def finished(folder: Path, stack: Adapter | None) -> Distilled:
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


def ended(checkpoint: Checkpoint, settings: DistillConfig) -> str:
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
