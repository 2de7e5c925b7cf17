"""On-policy context distillation: the prompt's effect moves into a LoRA adapter.

One step: the student answers items of `train` without the prompt; the teacher, which is the same model
without the new adapter, reads the student's own tokens after the prompt; the student moves against
KL(student || teacher), averaged over all completion tokens of the step.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gepa_loop.config import Config
from gepa_loop.distill.batch import Group, completion_tokens, micro_batches, pack
from gepa_loop.distill.checkpoint import (
    Check,
    Checkpoint,
    load_checkpoint,
    optimizer_moments,
    restore_moments,
    save_checkpoint,
)
from gepa_loop.distill.objectives import TokenStats, full_kl
from gepa_loop.distill.teacher import Prefix, common_length, hidden_states, read_prefix
from gepa_loop.errors import Diverged
from gepa_loop.lora import (
    Adapter,
    as_teacher,
    load_student,
    read_adapter,
    remove_lora,
    stack_adapters,
    student_adapter,
    with_lora,
    write_adapter,
)
from gepa_loop.models import Base
from gepa_loop.prompts import NO_PROMPT, Candidate
from gepa_loop.rollouts import Rollouts, mean_score
from gepa_loop.runs import append_jsonl, derive_seed, read_json, read_jsonl, write_json, write_jsonl
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.task import Item

SAMPLES_KEPT = 2
"""Completions of each step that go into samples.jsonl."""


@dataclass(frozen=True)
class Distilled:
    """A finished distillation."""

    adapter: Adapter
    """The student at the best check."""
    best: Check
    last: Check
    before: float
    """Held-out score before the first step."""


def distill(
    config: Config,
    base: Base,
    rollouts: Rollouts,
    candidate: Candidate,
    folder: Path,
    *,
    stack: Adapter | None,
    before: float,
    progress: Callable[[dict[str, Any]], None],
) -> Distilled:
    """Distil one prompt into a new adapter on top of base + stack.

    Args:
        config: The run's configuration.
        base: The base model; unchanged afterwards.
        rollouts: Its sampler holds base + stack + student while this runs.
        candidate: The teacher's prompt.
        folder: Gets adapter/, metrics.jsonl, samples.jsonl, checkpoints/ and, at the end, result.json. A
            half-written folder is continued from its last checkpoint, with the same outcome.
        stack: Adapter of the earlier rounds, frozen; part of teacher and student.
        before: Held-out score of base + stack without a prompt.
        progress: Called with each row of metrics.jsonl.

    Raises:
        Diverged: A loss or gradient that is not finite; the last checkpoint is kept.
    """
    if (folder / "result.json").exists():
        return _finished(folder)
    settings = config.distill
    items = rollouts.task.splits["train"]
    teacher_prompts = {item.id: rollouts.renderer.tokens(candidate.text, item) for item in items}
    shared = common_length(candidate.text, list(teacher_prompts.values()))

    model = with_lora(base, config.lora, derive_seed(config.seed, "lora"), stack)
    try:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        with as_teacher(model):
            prefix = read_prefix(base.model, teacher_prompts[items[0].id][:shared])

        checks: tuple[Check, ...] = (Check(0, before),)
        start = 0
        checkpoint = load_checkpoint(folder / "checkpoints")
        if checkpoint is not None:
            start, checks = checkpoint.step, checkpoint.checks
            load_student(model, checkpoint.adapter)
            restore_moments(optimizer, checkpoint.moments)
        else:
            checkpoint = Checkpoint(0, student_adapter(model), {}, checks)
            save_checkpoint(folder / "checkpoints", checkpoint, base.name)
        for name in ("metrics.jsonl", "samples.jsonl"):
            rows = [row for row in read_jsonl(folder / name) if row["step"] <= start]
            write_jsonl(folder / name, rows)

        for step in range(start, settings.steps):
            clock = _Clock()
            # 1. The student answers.
            _show_student(rollouts, model, stack)
            batch = _items_of_step(items, step, settings.rollouts // settings.group, config.seed)
            sampling = Sampling(config.sampling.temperature, config.sampling.max_tokens)
            completions = rollouts.completions(NO_PROMPT, batch, settings.group, sampling, f"train/{step}")
            groups = [
                Group(
                    tuple(rollouts.renderer.tokens(NO_PROMPT, item)),
                    tuple(teacher_prompts[item.id][shared:]),
                    tuple(c.token_ids for c in completions[n * settings.group : (n + 1) * settings.group]),
                )
                for n, item in enumerate(batch)
            ]
            clock.lap("generate")

            # 2. The teacher reads; the student moves.
            stats, grad_norm = _update(base, model, optimizer, groups, prefix, config, clock)
            row = _metrics(step + 1, completions, stats, grad_norm, config, clock)
            if row["reverse_kl"] is None or row["grad_norm"] is None:
                raise Diverged("the loss or its gradient is not finite")
            append_jsonl(
                folder / "samples.jsonl",
                _samples(step + 1, batch, completions, stats, rollouts, settings.group),
            )

            # 3. Held-out check.
            done = step + 1
            if done % settings.check_every == 0 or done == settings.steps:
                _show_student(rollouts, model, stack)
                checks = (*checks, Check(done, _held_out_score(config, rollouts)))
                row["held_out_score"] = checks[-1].score
                row["seconds"]["check"] = clock.lap("check")
            append_jsonl(folder / "metrics.jsonl", [row])
            if "held_out_score" in row:
                checkpoint = Checkpoint(done, student_adapter(model), optimizer_moments(optimizer), checks)
                save_checkpoint(folder / "checkpoints", checkpoint, base.name)
            progress(row)
    except Diverged as error:
        raise Diverged(
            f"distilling {candidate.id}, step {step + 1}: {error}; "
            f"step {checks[-1].step} is kept in {folder / 'checkpoints'}",
            "Lower distill.lr or distill.max_norm; a run with other values needs another --run-name.",
        ) from error
    finally:
        remove_lora(model)

    best = load_checkpoint(folder / "checkpoints", checkpoint.best.step)
    assert best is not None
    write_adapter(folder / "adapter", best.adapter, base.name)
    write_json(
        folder / "result.json",
        {
            "id": candidate.id,
            "before": before,
            "best": asdict(checkpoint.best),
            "last": asdict(checkpoint.checks[-1]),
            "adapter": "adapter",
            "adapter_fingerprint": best.adapter.fingerprint,
        },
    )
    shutil.rmtree(folder / "checkpoints")
    return _finished(folder)


def _finished(folder: Path) -> Distilled:
    result = read_json(folder / "result.json")
    return Distilled(
        read_adapter(folder / "adapter"), Check(**result["best"]), Check(**result["last"]), result["before"]
    )


def _items_of_step(items: Sequence[Item], step: int, count: int, seed: int) -> list[Item]:
    """The items of one step: shuffled anew each epoch, each read once an epoch."""
    picked = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(items))
        order = list(range(len(items)))
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
        picked.append(items[order[index]])
    return picked


def _show_student(rollouts: Rollouts, model: Any, stack: Adapter | None) -> None:
    """Give the sampler the student's present weights."""
    student = student_adapter(model)
    rollouts.sampler.set_student(student if stack is None else stack_adapters([stack, student]))


def _held_out_score(config: Config, rollouts: Rollouts) -> float:
    sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
    items = rollouts.task.splits["pareto"]
    return mean_score(rollouts.rows(NO_PROMPT, items, config.evaluate.samples, sampling, "evaluate"))


def _update(
    base: Base,
    model: Any,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    prefix: Prefix,
    config: Config,
    clock: _Clock,
) -> tuple[TokenStats, float]:
    """One optimiser step on all groups, in place; in micro-batches that sum to the gradient of the whole.

    Returns:
        The statistics of every completion token, in the order of the groups, and the gradient's norm before
        clipping. When that norm is not finite the weights stay as they were.
    """
    head_VH = base.model.get_output_embeddings().weight
    total = sum(group.tokens for group in groups)
    optimizer.zero_grad(set_to_none=True)
    parts = []
    for part in micro_batches(groups, config.distill.micro_tokens):
        completions = [group.completions for group in part]
        with torch.no_grad(), as_teacher(model):
            packed = pack([g.teacher_prompt for g in part], completions, prefix.length, base.device)
            teacher_NH = hidden_states(base.model, packed, prefix)
        clock.lap("teacher")
        packed = pack([g.student_prompt for g in part], completions, 0, base.device)
        student_NH = hidden_states(base.model, packed, Prefix())
        clock.lap("forward")
        stats = full_kl(student_NH, teacher_NH, head_VH, completion_tokens(part, base.device))
        clock.lap("loss")
        (stats.reverse_kl_N.sum() / total).backward()  # type: ignore[no-untyped-call]
        clock.lap("backward")
        parts.append(TokenStats(*(value.detach() for value in stats)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.distill.max_norm))
    if math.isfinite(norm):
        optimizer.step()
    clock.lap("optimizer")
    return TokenStats(*(torch.cat(values) for values in zip(*parts, strict=True))), norm


def _metrics(
    step: int,
    completions: Sequence[Completion],
    stats: TokenStats,
    grad_norm: float,
    config: Config,
    clock: _Clock,
) -> dict[str, Any]:
    """One row of metrics.jsonl; a value that is not finite becomes null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    tokens = sum(len(c.token_ids) for c in completions)
    kl = float(stats.reverse_kl_N.mean())
    return {
        "step": step,
        "loss": finite(kl),
        "reverse_kl": finite(kl),
        "entropy": finite(float(stats.entropy_N.mean())),
        "completion_tokens_mean": tokens / len(completions),
        "truncated_share": sum(c.finish_reason == "length" for c in completions) / len(completions),
        "grad_norm": finite(grad_norm),
        "lr": config.distill.lr,
        "seconds": clock.seconds,
        "tokens_per_second": tokens / sum(clock.seconds.values()),
    }


def _samples(
    step: int,
    items: Sequence[Item],
    completions: Sequence[Completion],
    stats: TokenStats,
    rollouts: Rollouts,
    group: int,
) -> list[dict[str, Any]]:
    """The step's first completions with the log-probabilities of their tokens."""
    rows, end = [], 0
    for number, completion in enumerate(completions[:SAMPLES_KEPT]):
        span = slice(end, end + len(completion.token_ids))
        end = span.stop
        rows.append(
            {
                "step": step,
                "item": items[number // group].id,
                "completion": rollouts.renderer.tokenizer.decode(list(completion.token_ids)),
                "finish_reason": completion.finish_reason,
                "token_ids": list(completion.token_ids),
                "student_logprobs": [round(x, 4) for x in stats.student_logprob_N[span].tolist()],
                "teacher_logprobs": [round(x, 4) for x in stats.teacher_logprob_N[span].tolist()],
            }
        )
    return rows


class _Clock:
    """Seconds by phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> float:
        """Book the time since the last lap under `phase`; returns the phase's total."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
        return self.seconds[phase]
