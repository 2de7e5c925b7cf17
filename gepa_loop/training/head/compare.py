"""The divergence of two sets of logits and its gradient on a CPU, in passes that make no tensors of their size.

`kernels.compare` is the same for a GPU. Fresh tensors of this size cost more than what is computed in them: the system
hands out their pages one by one. The vocabulary comes first: of few tokens W x^T is a faster product than x W^T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Compared(NamedTuple):
    """Of each token, float32 or wider."""

    divergence_N: Tensor
    logprob_N: Tensor
    entropy_N: Tensor
    reverse_kl_N: Tensor
    teacher_logprob_N: Tensor


def compare(
    student_VN: Tensor,
    teacher_VN: Tensor,
    spare_2VN: Tensor,
    tokens_N: Tensor,
    forward: bool,
) -> Compared:
    """KL(student || teacher), or with `forward` KL(teacher || student), and what else is known of the tokens.

    Args:
        student_VN: Logits; the divergence's gradient with respect to them takes their place.
        teacher_VN: Logits; overwritten.
        spare_2VN: Scratch; overwritten.
        tokens_N: The sampled tokens.
        forward: Which of the two.
    """
    logit_N, teacher_logit_N = (side.gather(0, tokens_N[None])[0] for side in (student_VN, teacher_VN))
    p_VN, scratch_VN = spare_2VN
    # The teacher's first, whose exponentials the student's overwrite; a forward divergence makes them again.
    top_q, total_q = _exponentials(teacher_VN, p_VN)
    top_p, total_p = _exponentials(student_VN, p_VN)
    norm_p, norm_q = top_p + total_p.log(), top_q + total_q.log()
    # KL(p || q) = sum p (a - b) - (log Z_p - log Z_q) of the logits a and b: no log-softmax is made.
    entropy_N = norm_p - torch.mul(p_VN, student_VN, out=scratch_VN).sum(0) / total_p
    gap_VN, norms_N = student_VN.sub_(teacher_VN), norm_p - norm_q
    reverse_N = torch.mul(p_VN, gap_VN, out=scratch_VN).sum(0) / total_p - norms_N
    value_N = reverse_N
    if forward:
        q_VN = teacher_VN.sub_(top_q).exp_()
        value_N = norms_N - torch.mul(q_VN, gap_VN, out=scratch_VN).sum(0) / total_q
        torch.div(p_VN, total_p, out=student_VN).sub_(q_VN.div_(total_q))
    else:
        gap_VN.sub_(norms_N + value_N).mul_(p_VN).div_(total_p)
    return Compared(
        value_N,
        logit_N - norm_p,
        entropy_N,
        reverse_N,
        teacher_logit_N - norm_q,
    )


def _exponentials(logits_VN: Tensor, out_VN: Tensor) -> tuple[Tensor, Tensor]:
    """Write exp(logits - their highest) to `out_VN`; the highest, and the sum of what was written."""
    top_N = logits_VN.amax(0)
    return top_N, torch.sub(logits_VN, top_N, out=out_VN).exp_().sum(0)
