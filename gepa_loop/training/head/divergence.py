"""Divergences of two distributions over the vocabulary and their gradients, as pure functions.

Axes: `_N` and `_T` positions; `_V` vocabulary; `_K` some outcomes of it. `p` is the student's distribution, `q` the
teacher's. Log-probabilities are in nats; at which temperature is the caller's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["reverse_kl", "forward_kl", "jsd"]


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


def clipped_with_gradient(
    log_p_NV: Tensor, log_q_NV: Tensor, kind: Kind, beta: float, clip: float
) -> tuple[Tensor, Tensor]:
    """`with_gradient` of the sum of min(d_v, clip), where d_v is the outcome v's part of the divergence.

    As in OPSD, which clips before it sums over the vocabulary: an outcome above the clip has no gradient of its own, the
    others of the same token keep theirs. d_v = p (log p - log q) for the reverse KL, q (log q - log p) for the forward
    KL, beta q (log q - log m) + (1 - beta) p (log p - log m) for the Jensen-Shannon divergence; it may be negative, and so
    may the clipped sum.
    """
    kind, p_NV, q_NV = _limit(kind, beta), log_p_NV.exp(), log_q_NV.exp()
    if kind == "reverse_kl":
        slope_NV = log_p_NV - log_q_NV
        part_NV, pull_NV = p_NV * slope_NV, p_NV * (slope_NV + 1)
    elif kind == "forward_kl":
        part_NV, pull_NV = q_NV * (log_q_NV - log_p_NV), -q_NV
    else:
        log_m_NV = _log_mixture(log_p_NV, log_q_NV, beta)
        pull_NV = (1 - beta) * p_NV * (log_p_NV - log_m_NV)
        part_NV = pull_NV + beta * q_NV * (log_q_NV - log_m_NV)
    # pull = p d part / d p; through the softmax the gradient is pull - p sum pull.
    pull_NV = pull_NV * (part_NV <= clip)
    return part_NV.clamp(max=clip).sum(-1), pull_NV - p_NV * pull_NV.sum(-1, keepdim=True)


def at_temperature(log_NV: Tensor, temperature: float) -> Tensor:
    """The log-probabilities that the same logits, divided by `temperature`, have."""
    return log_NV if temperature == 1 else (log_NV / temperature).log_softmax(-1)


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
