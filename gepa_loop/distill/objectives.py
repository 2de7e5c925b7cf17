"""Divergences between student and teacher, in nats, over the whole vocabulary.

Axes: `_N` completion tokens of a micro-batch, `_V` vocabulary, `_H` hidden.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_TOKENS = 128
"""Tokens whose logits are in memory together; a few tens of MB for a vocabulary of 150,000."""


class TokenStats(NamedTuple):
    """What the objective knows of each completion token, all [N] and float32."""

    reverse_kl_N: Tensor
    """KL(student || teacher) >= 0; carries the gradient."""
    entropy_N: Tensor
    """Entropy of the student."""
    student_logprob_N: Tensor
    """Student's log-probability of the sampled token."""
    teacher_logprob_N: Tensor


def reverse_kl(student_logits_NV: Tensor, teacher_logits_NV: Tensor) -> Tensor:
    """KL(student || teacher) at each token: sum over the vocabulary of p (log p - log q).

    Exactly 0 where both logits are equal. Dense and differentiable; `full_kl` computes the same in chunks.

    Returns:
        Nats, [N], in the precision of the logits.
    """
    log_p_NV = student_logits_NV.log_softmax(-1)
    log_q_NV = teacher_logits_NV.log_softmax(-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def full_kl(student_NH: Tensor, teacher_NH: Tensor, head_VH: Tensor, tokens_N: Tensor) -> TokenStats:
    """Reverse KL from hidden states, without ever holding [N, V] logits of all tokens.

    The gradient with respect to the student's hidden states is made in the forward pass, chunk by chunk:
    d KL / d logits = p (log p - log q - KL). The head and the teacher get none.

    Args:
        student_NH: Last hidden states of the student at the positions that predict the tokens.
        teacher_NH: The teacher's, for the same tokens.
        head_VH: Weight of the output layer, which both share.
        tokens_N: The sampled tokens.
    """
    return TokenStats(*_FullKL.apply(student_NH, teacher_NH, head_VH, tokens_N))  # type: ignore[no-untyped-call]


class _FullKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_NH: Tensor, teacher_NH: Tensor, head_VH: Tensor, tokens_N: Tensor) -> Any:
        grad_NH = torch.empty_like(student_NH)
        stats = student_NH.new_empty(4, len(student_NH), dtype=torch.float32)
        for start in range(0, len(student_NH), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            log_p = (student_NH[rows] @ head_VH.T).float().log_softmax(-1)
            log_q = (teacher_NH[rows] @ head_VH.T).float().log_softmax(-1)
            picked = tokens_N[rows, None]
            stats[2, rows] = log_p.gather(-1, picked)[:, 0]
            stats[3, rows] = log_q.gather(-1, picked)[:, 0]
            p = log_p.exp()
            stats[1, rows] = -torch.linalg.vecdot(p, log_p)
            gap = log_p.sub_(log_q)
            stats[0, rows] = torch.linalg.vecdot(p, gap)
            grad_logits = gap.sub_(stats[0, rows, None]).mul_(p)
            grad_NH[rows] = grad_logits.to(head_VH.dtype) @ head_VH
        ctx.save_for_backward(grad_NH)
        kl_N, *rest = stats.unbind()
        ctx.mark_non_differentiable(*rest)
        return kl_N, *rest

    @staticmethod
    def backward(ctx: Any, grad_kl_N: Tensor, *_: Any) -> Any:
        (grad_NH,) = ctx.saved_tensors
        return (grad_NH * grad_kl_N[:, None]).to(grad_NH.dtype), None, None, None
