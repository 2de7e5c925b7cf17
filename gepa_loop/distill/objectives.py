"""Objectives as pure functions: divergences over the vocabulary, advantages, importance ratios, losses.

Axes: `_N` completion tokens, completion by completion; `_T` positions; `_V` vocabulary; `_C` completions. All
log-probabilities are in nats, of the distribution at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gepa_loop.recipe import GRPO, SFT, FullKL, Objective, SequenceKL, TokenKL

Kind = Literal["reverse_kl", "forward_kl", "jsd"]

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are cut here before they are exponentiated."""
SEQUENCE_RATIO_LIMIT = 10.0
"""A completion's product of ratios counts as at most this, as in prime-rl."""


def divergence(student_logits_TV: Tensor, teacher_logits_TV: Tensor, kind: Kind, beta: float = 0.5) -> Tensor:
    """A divergence between student and teacher at each position; dense and differentiable.

    With p the student's and q the teacher's probabilities, summed over the vocabulary:
    `reverse_kl` = p (log p - log q), `forward_kl` = q (log q - log p), and with the mixture
    m = beta q + (1 - beta) p, `jsd` = beta q (log q - log m) + (1 - beta) p (log p - log m)
    (GKD, arXiv 2306.13649, eq. 1). At beta 0 and 1, where that is 0, `jsd` is forward and reverse KL: the limits of
    jsd / beta and jsd / (1 - beta), as the released implementations have it.

    Returns:
        Nats, [T], in the precision of the logits. Exactly 0 where the logits are equal.

    Raises:
        ValueError: An unknown kind, or a beta outside [0, 1].
    """
    return from_logprobs(student_logits_TV.log_softmax(-1), teacher_logits_TV.log_softmax(-1), kind, beta)


def from_logprobs(log_p_NV: Tensor, log_q_NV: Tensor, kind: Kind, beta: float = 0.5) -> Tensor:
    """`divergence` of normalised log-probabilities over the same outcomes; [N]."""
    kind = _limit(kind, beta)
    if kind == "reverse_kl":
        return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
    if kind == "forward_kl":
        return (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1)
    log_m_NV = _log_mixture(log_p_NV, log_q_NV, beta)
    student_NV, teacher_NV = log_p_NV.exp() * (log_p_NV - log_m_NV), log_q_NV.exp() * (log_q_NV - log_m_NV)
    return (beta * teacher_NV + (1 - beta) * student_NV).sum(-1)


def with_gradient(
    log_p_NV: Tensor, log_q_NV: Tensor, kind: Kind, beta: float = 0.5, p_NV: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`from_logprobs` and its gradient with respect to the student's logits, without autograd.

    Each divergence D has d D / d logits = p (f - sum p f), with f = d D / d p: log p - log q for the reverse KL, -q / p
    for the forward KL, (1 - beta) (log p - log m) for the Jensen-Shannon divergence; terms without V left out.

    `p_NV` is exp(log p) where it is known already.

    Returns:
        Divergence [N] and gradient [N, V].
    """
    kind, p_NV = _limit(kind, beta), log_p_NV.exp() if p_NV is None else p_NV
    if kind == "forward_kl":
        q_NV = log_q_NV.exp()
        return torch.linalg.vecdot(q_NV, log_q_NV - log_p_NV), p_NV - q_NV
    if kind == "reverse_kl":
        slope_NV = log_p_NV - log_q_NV
        value_N = mean_N = torch.linalg.vecdot(p_NV, slope_NV)
    else:
        log_m_NV = _log_mixture(log_p_NV, log_q_NV, beta)
        slope_NV = (1 - beta) * (log_p_NV - log_m_NV)
        mean_N = torch.linalg.vecdot(p_NV, slope_NV)
        value_N = mean_N + beta * torch.linalg.vecdot(log_q_NV.exp(), log_q_NV - log_m_NV)
    return value_N, slope_NV.sub_(mean_N[:, None]).mul_(p_NV)


def _limit(kind: Kind, beta: float) -> Kind:
    if kind not in ("reverse_kl", "forward_kl", "jsd"):
        raise ValueError(f"kind = {kind!r}: there are reverse_kl, forward_kl and jsd")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta = {beta} is not between 0 and 1")
    if kind == "jsd" and beta in (0, 1):
        return "reverse_kl" if beta == 1 else "forward_kl"
    return kind


def _log_mixture(log_p_NV: Tensor, log_q_NV: Tensor, beta: float) -> Tensor:
    """log(beta q + (1 - beta) p), from the larger of the two: neither overflows, and p = q gives p exactly."""
    gap_NV = log_q_NV - log_p_NV
    from_p_NV = log_p_NV + torch.log1p(beta * torch.expm1(gap_NV.clamp(max=0)))
    from_q_NV = log_q_NV + torch.log1p((1 - beta) * torch.expm1((-gap_NV).clamp(max=0)))
    return torch.where(gap_NV > 0, from_q_NV, from_p_NV)


def with_tail(logprobs_NK: Tensor) -> Tensor:
    """Log-probabilities of K outcomes and, as one more, of all others; [N, K + 1].

    Without the tail a top-k reverse KL falls when the student moves its mass out of the K (verl#5041).
    """
    kept_N1 = logprobs_NK.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([logprobs_NK, torch.log(-torch.expm1(kept_N1))], -1)


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
    sampler_logprob_N: Tensor
    """Log-probability of each token when it was sampled."""
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
        teacher_logprob_N: The teacher's log-probability of each token; only `token_kl` and `sequence_kl` need it.
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
        kl_N = objective.teacher_tau * teacher_logprob_N - objective.student_tau * batch.sampler_logprob_N
        kl_C = sums(kl_N, owner_N, len(batch.lengths_C))
        return (task_C + reward_advantage(kl_C, batch.groups_C, objective.kl_std))[owner_N], baseline
    if isinstance(objective, TokenKL) and objective.student == "sampler":
        assert teacher_logprob_N is not None
        kl_N = objective.teacher_tau * teacher_logprob_N - objective.student_tau * batch.sampler_logprob_N
        if objective.discount > 0:
            kl_N = discounted(kl_N, batch.lengths_C.tolist(), objective.discount)
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
    """Importance ratios student / sampler, float32, without gradient."""

    log_ratio_N: Tensor
    """Cut at +-20; 0 for tokens that the teacher sampled."""
    ratio_N: Tensor
    """As the objective uses it: of the token or of the completion, capped."""
    geo_C: Tensor
    """Geometric mean of each completion."""
    masked_N: Tensor
    """Outside one of the objective's masks."""


def ratios(
    objective: Objective, logprob_N: Tensor, sampler_logprob_N: Tensor, owner_N: Tensor, by_student_N: Tensor
) -> Ratios:
    """Ratios of a micro-batch of whole completions; `owner_N` counts its completions from 0."""
    log_N = (logprob_N.detach().float() - sampler_logprob_N).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
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
        logprob_N: The student's log-probability of each token; carries a gradient.
        divergence_N: Divergence from the teacher at each token; carries a gradient. `full_kl` and `sft` read it.
        found: The tokens' importance ratios.
        advantage_N: From `advantages`.
        weight_N: From `token_weights`.
        reference_logprob_N: The teacher's log-probability of each token, or the base's for `grpo`.
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
    return -(weight_N * found.ratio_N * advantage_N * logprob_N).sum()


def _clipped_surrogate(
    objective: GRPO, logprob_N: Tensor, found: Ratios, advantage_N: Tensor, base_logprob_N: Tensor | None
) -> Tensor:
    """-min(r A, clip(r) A) + kl_tau (exp(b - s) - (b - s) - 1), with r = student / sampler; [N]."""
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
