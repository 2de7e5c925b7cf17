"""What is written of each step: a row of metrics.jsonl and a few samples."""

from __future__ import annotations

import math
import resource
from typing import TYPE_CHECKING

import torch

from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.training.clock import Clock
from gepa_loop.training.objectives.base import LOG_RATIO_LIMIT, k3
from gepa_loop.training.records import SampleRow, StepMetrics

if TYPE_CHECKING:
    from gepa_loop.training.collect import Collected
    from gepa_loop.training.update import Updated


SAMPLES_KEPT = 2
"""Completions of each step that go into samples.jsonl."""


def metrics(
    step: int, collected: Collected, done: Updated, lr: float, clock: Clock, device: torch.device
) -> StepMetrics:
    """What a step says in metrics.jsonl."""
    batch, stats, found = collected.batch, done.stats, done.found
    counted_N = done.weight_N > 0
    own_N = batch.by_student_C[batch.owner_N]
    # Both at temperature 1, whatever the objective's ratios are made of.
    mismatch_N = (stats.logprob_N - batch.old_logprob_N).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)[own_N]
    tokens = len(batch.old_logprob_N)
    seconds = clock.seconds
    return {
        "step": step,
        "loss": _finite(done.loss),
        "reverse_kl": _finite(done.reverse_kl_N.mean()),
        "teacher_likelihood": _finite(stats.logprob_N[~own_N].mean().exp()),
        "reward_mean": _finite(batch.reward_C[collected.scored_C].mean()),
        "advantage_std": _finite(done.advantage_N.std(correction=0)),
        "trained_share": _finite(counted_N.float().mean()),
        "ratio_masked_share": _finite(found.masked_N[counted_N].float().mean()),
        "geo_ratio": _finite(found.geo_C[batch.by_student_C].mean()),
        "mismatch_abs": _finite(mismatch_N.abs().mean()),
        "mismatch_kl": _finite(k3(-mismatch_N, torch.zeros(len(mismatch_N))).mean()),
        "entropy": _finite(stats.entropy_N.mean()),
        "completion_tokens_mean": _finite(tokens / len(batch.lengths_C)),
        "truncated_share": _finite(batch.truncated_C.float().mean()),
        "grad_norm": _finite(done.grad_norm),
        "lr": _finite(lr),
        "seconds": seconds,
        "tokens_per_second": tokens / sum(seconds.values()),
        "micro_tokens": done.passes.tokens,
        "recomputed": done.passes.recompute,
        "peak_memory_gib": peak_memory_gib(device),
    }


def _finite(value: float | torch.Tensor) -> float | None:
    """A number as JSON has it; None for what is not finite: of no tokens, say, there is no mean."""
    number = float(value)
    return number if math.isfinite(number) else None


def samples(step: int, collected: Collected, done: Updated, rollouts: Rollouts) -> list[SampleRow]:
    """The step's rows of samples.jsonl: its first completions."""
    student_N, teacher_N = done.stats.policy_logprob_N, done.reference_logprob_N
    if teacher_N is None:
        student_N, teacher_N = done.stats.logprob_N, done.stats.teacher_logprob_N
    size = len(collected.drawn[0].completions)
    rows: list[SampleRow] = []
    end = 0
    for number, completion in enumerate(collected.completions[:SAMPLES_KEPT]):
        span = slice(end, end + len(completion.token_ids))
        end = span.stop
        drawn = collected.drawn[number // size]
        rows.append(
            {
                "step": step,
                "item": drawn.item.id,
                "by": "student" if drawn.by_student else "teacher",
                "reward": float(collected.batch.reward_C[number]) if collected.scored_C[number] else None,
                "completion": rollouts.renderer.tokenizer.decode(list(completion.token_ids)),
                "finish_reason": completion.finish_reason,
                "token_ids": list(completion.token_ids),
                "student_logprobs": [round(x, 4) for x in student_N[span].tolist()],
                "teacher_logprobs": [
                    None if math.isnan(x) else round(x, 4) for x in teacher_N[span].tolist()
                ],
            }
        )
    return rows


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: of the GPU that had to hold most, or of the process where the model is on none (`ru_maxrss` is in KiB)."""
    if device.type == "cuda":
        return max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
