"""Objectives as pure functions: advantages, importance ratios, weights, losses.

Axes: `_N` completion tokens, completion by completion; `_C` completions. Log-probabilities are in nats. Those of which
advantages, ratios and policy gradients are made, the student's and the teacher's, are of the distribution that was
sampled from: the logits divided by `sampling.temperature`, as verl, TRL and MiniLLM do; at another one the gradient is
that of something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gepa_loop.config.objectives import GRPO, SFT, FullKL, Objective, SequenceKL, TokenKL

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are cut here before they are exponentiated."""
SEQUENCE_RATIO_LIMIT = 10.0
"""A completion's product of ratios counts as at most this, as in prime-rl."""


@dataclass(frozen=True)
class Completions:
    """What was sampled in one step. Tokens of all completions follow each other on `_N`."""

    lengths_C: Tensor
    groups_C: Tensor
    """Which item each completion belongs to."""
    reward_C: Tensor
    """Task reward, float32."""
    truncated_C: Tensor
    """Cut at the horizon."""
    old_logprob_N: Tensor
    """Log-probability of each token before the step: as collected the sampler's, at temperature 1; where
    `objective.old` asks for the trainer's, `update` puts those here, at the temperature of sampling."""
    by_student_C: Tensor
    """Sampled by the student; the others by the teacher."""

    @property
    def owner_N(self) -> Tensor:
        """The completion of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths_C)), self.lengths_C)

    @property
    def place_N(self) -> Tensor:
        """The place of each token in its completion, from 0."""
        starts_C = self.lengths_C.cumsum(0) - self.lengths_C
        return torch.arange(int(self.lengths_C.sum())) - starts_C[self.owner_N]


def sums(value_N: Tensor, owner_N: Tensor, count: int) -> Tensor:
    """The sum over the values of each of `count` owners; [count]."""
    return value_N.new_zeros(count).index_add_(0, owner_N, value_N)


def group_mean(value_C: Tensor, groups_C: Tensor) -> Tensor:
    """The mean of each completion's group, [C]."""
    count = int(groups_C.max()) + 1
    return (sums(value_C, groups_C, count) / sums(torch.ones_like(value_C), groups_C, count))[groups_C]


def reward_advantage(reward_C: Tensor, groups_C: Tensor, std: bool) -> Tensor:
    """Reward minus its group's mean, over the group's standard deviation (n - 1) plus 1e-4 if `std`; [C]. (GRPO)"""
    centred_C = reward_C - group_mean(reward_C, groups_C)
    if not std:
        return centred_C
    sizes_C = torch.bincount(groups_C)[groups_C]
    variance_C = group_mean(centred_C**2, groups_C) * sizes_C / (sizes_C - 1).clamp(min=1)
    return centred_C / (variance_C.sqrt() + 1e-4)


def overlong_penalty(lengths_C: Tensor, horizon: int, buffer: int) -> Tensor:
    """DAPO's soft penalty: 0 up to horizon - buffer tokens, then linearly down to -1 at the horizon; [C]."""
    over_C = (lengths_C - (horizon - buffer)).clamp(min=0)
    return -over_C.float() / buffer if buffer else torch.zeros(len(lengths_C))


def discounted(value_N: Tensor, lengths: Sequence[int], discount: float) -> Tensor:
    """At each token the sum over those from it on in its completion, each weighted by discount^distance; [N]."""
    out_N = value_N.clone()
    end = 0
    for length in lengths:
        start, end = end, end + length
        for n in range(end - 2, start - 1, -1):
            out_N[n] += discount * out_N[n + 1]
    return out_N


def advantages(
    objective: Objective, batch: Completions, teacher_logprob_N: Tensor | None, baseline: float
) -> tuple[Tensor, float]:
    """The advantage of each token, as far as it does not depend on the training forward.

    Args:
        objective: Which, and its weights.
        batch: What was sampled.
        teacher_logprob_N: The teacher's log-probability of each token, at the temperature of `old_logprob_N`; only
            `token_kl` and `sequence_kl` need it.
        baseline: Running mean of earlier steps' advantages, for `token_kl` with `centre = "running"`.

    Returns:
        Advantages [N], float32, and the new running mean.
    """
    owner_N = batch.owner_N
    task_C = objective.adv_tau * reward_advantage(batch.reward_C, batch.groups_C, objective.reward_std)
    if isinstance(objective, SequenceKL):
        if not objective.use_full_reward_baseline:
            return task_C[owner_N], baseline
        assert teacher_logprob_N is not None
        kl_N = objective.teacher_tau * teacher_logprob_N - objective.student_tau * batch.old_logprob_N
        kl_C = sums(kl_N, owner_N, len(batch.lengths_C))
        return (task_C + reward_advantage(kl_C, batch.groups_C, objective.kl_std))[owner_N], baseline
    if isinstance(objective, TokenKL) and objective.student == "sampler":
        assert teacher_logprob_N is not None
        kl_N = objective.teacher_tau * teacher_logprob_N - objective.student_tau * batch.old_logprob_N
        if objective.discount > 0:
            own_N, kl_N = kl_N, discounted(kl_N, batch.lengths_C.tolist(), objective.discount)
            summed_N = batch.lengths_C[owner_N] - batch.place_N
            if objective.single_step:
                kl_N, summed_N = kl_N - own_N, summed_N - 1
            if objective.length_normalise:
                kl_N = kl_N / summed_N.clamp(min=1)
        if objective.centre == "whiten":
            kl_N = (kl_N - kl_N.mean()) / (kl_N.std(correction=0) + 1e-8)
        if objective.centre == "group":
            kl_N = kl_N - group_mean(kl_N, batch.groups_C[owner_N])
        if objective.centre == "running":
            mean, kl_N = float(kl_N.mean()), kl_N - baseline
            baseline = 0.9 * baseline + 0.1 * mean
        return task_C[owner_N] + kl_N, baseline
    return task_C[owner_N], baseline


def token_weights(objective: Objective, batch: Completions, trained_C: Tensor) -> Tensor:
    """How much each token counts: they sum to 1, over all completions of an optimiser step; [N] float32.

    Not counted are completions outside `trained_C`, cut ones under `truncated = "mask"`, and the first
    `skip_tokens` of each.
    """
    if objective.truncated == "mask":
        trained_C = trained_C & ~batch.truncated_C
    counted_N = (trained_C[batch.owner_N] & (batch.place_N >= objective.skip_tokens)).float()
    if objective.normalise == "token":
        return counted_N / counted_N.sum().clamp(min=1)
    sizes_C = sums(counted_N, batch.owner_N, len(batch.lengths_C))
    return counted_N / sizes_C.clamp(min=1)[batch.owner_N] / (sizes_C > 0).sum().clamp(min=1)


class Ratios(NamedTuple):
    """Importance ratios, the student's probability of a token over that from before the step; float32, no gradient."""

    log_ratio_N: Tensor
    """Cut at +-20; 0 for tokens that the teacher sampled."""
    ratio_N: Tensor
    """As the objective uses it: of the token or of the completion, capped."""
    geo_C: Tensor
    """Geometric mean of each completion."""
    masked_N: Tensor
    """Outside one of the objective's masks."""


def ratios(
    objective: Objective, logprob_N: Tensor, old_logprob_N: Tensor, owner_N: Tensor, by_student_N: Tensor
) -> Ratios:
    """Ratios of a micro-batch of whole completions; `owner_N` counts its completions from 0.

    Both log-probabilities are of one temperature.
    """
    log_N = (logprob_N.detach().float() - old_logprob_N).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    log_N = torch.where(by_student_N, log_N, 0.0)
    count = int(owner_N.max()) + 1
    sums_C = sums(log_N, owner_N, count)
    lengths_C = torch.bincount(owner_N, minlength=count)
    geo_C, ratio_N = (sums_C / lengths_C).exp(), log_N.exp()
    masked_N = torch.zeros_like(by_student_N)
    if objective.token_mask is not None:
        masked_N |= _outside(ratio_N, objective.token_mask)
    if objective.geo_mask is not None:
        masked_N |= _outside(geo_C, objective.geo_mask)[owner_N]
    if objective.sequence_mask is not None:
        odd_N = _outside(ratio_N, objective.sequence_mask).float()
        masked_N |= (sums(odd_N, owner_N, count) > 0)[owner_N]
    if isinstance(objective, SequenceKL) and objective.ratio == "sequence":
        ratio_N = sums_C.clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=SEQUENCE_RATIO_LIMIT)[owner_N]
    if objective.ratio_cap is not None:
        ratio_N = ratio_N.clamp(max=objective.ratio_cap)
    return Ratios(log_N, ratio_N, geo_C, masked_N)


def _outside(value: Tensor, bounds: tuple[float, float]) -> Tensor:
    return (value < bounds[0]) | (value > bounds[1])


def loss(
    objective: Objective,
    logprob_N: Tensor,
    divergence_N: Tensor,
    found: Ratios,
    advantage_N: Tensor,
    weight_N: Tensor,
    reference_logprob_N: Tensor | None,
) -> Tensor:
    """The loss of a micro-batch: a sum over its tokens, since the weights of all micro-batches sum to 1.

    Args:
        objective: Which, and its weights.
        logprob_N: The student's log-probability of each token, under the distribution that was sampled from (for `sft` at
            temperature 1); carries a gradient.
        divergence_N: Divergence from the teacher at each token; carries a gradient. `full_kl`, `sft` and `token_kl` with
            `single_step` read it.
        found: The tokens' importance ratios.
        advantage_N: From `advantages`.
        weight_N: From `token_weights`.
        reference_logprob_N: The teacher's log-probability of each token, or the base's for `grpo`; of the same temperature.
    """
    weight_N = weight_N * ~found.masked_N
    if isinstance(objective, SFT):
        return (weight_N * (divergence_N if objective.loss == "forward_kl" else -logprob_N)).sum()
    if isinstance(objective, FullKL):
        kl_N = objective.teacher_tau * divergence_N
        if objective.ratio_cap is not None:
            kl_N = found.ratio_N * kl_N
        task_N = found.ratio_N * advantage_N * logprob_N if objective.adv_tau else 0.0
        return (weight_N * (kl_N - task_N)).sum()
    if isinstance(objective, GRPO):
        return (
            weight_N * _clipped_surrogate(objective, logprob_N, found, advantage_N, reference_logprob_N)
        ).sum()
    present_N = logprob_N.detach()
    if isinstance(objective, TokenKL) and objective.student == "trainer":
        assert reference_logprob_N is not None
        advantage_N = (
            advantage_N + objective.teacher_tau * reference_logprob_N - objective.student_tau * present_N
        )
    if isinstance(objective, SequenceKL):
        if not objective.use_full_reward_baseline:
            assert reference_logprob_N is not None
            kl_N = objective.teacher_tau * reference_logprob_N - objective.student_tau * present_N
            advantage_N = advantage_N + kl_N
        advantage_N = advantage_N - objective.kl_tau * found.log_ratio_N
    policy = -(weight_N * found.ratio_N * advantage_N * logprob_N).sum()
    if isinstance(objective, TokenKL) and objective.single_step:
        return policy + objective.teacher_tau * (weight_N * divergence_N).sum()
    return policy


def _clipped_surrogate(
    objective: GRPO, logprob_N: Tensor, found: Ratios, advantage_N: Tensor, base_logprob_N: Tensor | None
) -> Tensor:
    """-min(r A, clip(r) A) + kl_tau (exp(b - s) - (b - s) - 1), with r = student / student before the step; [N]."""
    # The value of the ratio comes from `found`, its gradient from the log-probability.
    ratio_N = found.ratio_N * (logprob_N - logprob_N.detach()).exp()
    low, high = objective.clip
    surrogate_N = torch.minimum(ratio_N * advantage_N, ratio_N.clamp(1 - low, 1 + high) * advantage_N)
    if not objective.kl_tau:
        return -surrogate_N
    assert base_logprob_N is not None
    return objective.kl_tau * k3(logprob_N, base_logprob_N) - surrogate_N


def k3(logprob_N: Tensor, other_logprob_N: Tensor) -> Tensor:
    """exp(o - s) - (o - s) - 1 >= 0: its mean over the student's own tokens estimates KL(student || other); [N].

    The gap counts as at most 20 nats; a token beyond has no gradient.
    """
    gap_N = (other_logprob_N - logprob_N).clamp(max=LOG_RATIO_LIMIT)
    return torch.expm1(gap_N) - gap_N
