"""What is written of each step: a row of metrics.jsonl and a few samples. Names, signs and units are in runs/README.md."""

from __future__ import annotations

import math
import resource
from typing import TYPE_CHECKING, Any

import torch

from gepa_loop.distill.clock import Clock
from gepa_loop.distill.objectives.base import LOG_RATIO_LIMIT, k3
from gepa_loop.scores.rollouts import Rollouts

if TYPE_CHECKING:
    from gepa_loop.distill.collect import Collected
    from gepa_loop.distill.update import Updated


SAMPLES_KEPT = 2
"""Completions of each step that go into samples.jsonl."""


def metrics(
    step: int, collected: Collected, done: Updated, lr: float, clock: Clock, device: torch.device
) -> dict[str, Any]:
    """One row of metrics.jsonl; a value that is not finite, or that the objective has none of, is null."""
    batch, stats, found = collected.batch, done.stats, done.found
    counted_N = done.weight_N > 0
    own_N = batch.by_student_C[batch.owner_N]
    # Both at temperature 1, whatever the objective's ratios are made of.
    mismatch_N = (stats.logprob_N - batch.old_logprob_N).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)[own_N]
    tokens = len(batch.old_logprob_N)
    row = {
        "loss": done.loss,
        "reverse_kl": float(_reverse_kl(done).mean()),
        "teacher_likelihood": float(stats.logprob_N[~own_N].mean().exp()),
        "reward_mean": float(batch.reward_C[collected.scored_C].mean()),
        "advantage_std": float(done.advantage_N.std(correction=0)),
        "trained_share": float(counted_N.float().mean()),
        "ratio_masked_share": float(found.masked_N[counted_N].float().mean()),
        "geo_ratio": float(found.geo_C[batch.by_student_C].mean()),
        "mismatch_abs": float(mismatch_N.abs().mean()),
        "mismatch_kl": float(k3(-mismatch_N, torch.zeros(len(mismatch_N))).mean()),
        "entropy": float(stats.entropy_N.mean()),
        "completion_tokens_mean": tokens / len(batch.lengths_C),
        "truncated_share": float(batch.truncated_C.float().mean()),
        "grad_norm": done.grad_norm,
        "lr": lr,
    }
    seconds = clock.seconds
    return {
        "step": step,
        **{name: value if math.isfinite(value) else None for name, value in row.items()},
        "seconds": seconds,
        "tokens_per_second": tokens / sum(seconds.values()),
        "micro_tokens": done.carried.passes.tokens,
        "recomputed": done.carried.passes.recompute,
        "peak_memory_gib": peak_memory_gib(device),
    }


def samples(step: int, collected: Collected, done: Updated, rollouts: Rollouts) -> list[dict[str, Any]]:
    """The step's first completions with the log-probabilities of their tokens; no teacher's where none read.

    At the temperature of sampling where the objective compares the sampled tokens' log-probabilities, else at 1.
    """
    student_N, teacher_N = done.stats.policy_logprob_N, done.reference_logprob_N
    if teacher_N is None:
        student_N, teacher_N = done.stats.logprob_N, done.stats.teacher_logprob_N
    size = len(collected.drawn[0].completions)
    rows, end = [], 0
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


def _reverse_kl(done: Updated) -> torch.Tensor:
    """KL(student || teacher) of each token; estimated from the sampled tokens where the distribution is not read."""
    if done.reference_logprob_N is None or not done.stats.reverse_kl_N.isnan().any():
        return done.stats.reverse_kl_N
    return k3(done.stats.policy_logprob_N, done.reference_logprob_N)


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far: of the model's GPU, or of the process where it has none (`ru_maxrss` is in KiB)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device) / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
