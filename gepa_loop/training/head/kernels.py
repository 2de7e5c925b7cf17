"""The divergence of two rows of logits and its gradient in two passes over them, where PyTorch takes twenty."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gepa_loop.training.head.compare import Compared


@triton.jit
def _compare(student, teacher, tokens, out, size, count, FORWARD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mine, theirs = student + row * size, teacher + row * size
    # Sums relative to the highest logit so far, which fade when a higher one comes; finite, since -inf - -inf is none.
    top_p = tl.full([BLOCK], -1e30, tl.float32)
    top_q = tl.full([BLOCK], -1e30, tl.float32)
    sum_p = tl.zeros([BLOCK], tl.float32)
    sum_q = tl.zeros([BLOCK], tl.float32)
    gap_p = tl.zeros([BLOCK], tl.float32)
    gap_q = tl.zeros([BLOCK], tl.float32)
    level = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + at < size
        a = tl.load(mine + start + at, inside, -1e30).to(tl.float32)
        b = tl.load(theirs + start + at, inside, -1e30).to(tl.float32)
        higher_p, higher_q = tl.maximum(top_p, a), tl.maximum(top_q, b)
        fade_p, fade_q = tl.exp(top_p - higher_p), tl.exp(top_q - higher_q)
        p, q = tl.where(inside, tl.exp(a - higher_p), 0.0), tl.where(inside, tl.exp(b - higher_q), 0.0)
        gap, a = tl.where(inside, a - b, 0.0), tl.where(inside, a, 0.0)
        sum_p, sum_q = sum_p * fade_p + p, sum_q * fade_q + q
        gap_p, gap_q = gap_p * fade_p + p * gap, gap_q * fade_q + q * gap
        level = level * fade_p + p * a
        top_p, top_q = higher_p, higher_q
    highest_p, highest_q = tl.max(top_p), tl.max(top_q)
    weight_p, weight_q = tl.exp(top_p - highest_p), tl.exp(top_q - highest_q)
    total_p, total_q = tl.sum(sum_p * weight_p), tl.sum(sum_q * weight_q)
    norm_p, norm_q = highest_p + tl.log(total_p), highest_q + tl.log(total_q)
    reverse = tl.sum(gap_p * weight_p) / total_p - (norm_p - norm_q)
    value = (norm_p - norm_q) - tl.sum(gap_q * weight_q) / total_q if FORWARD else reverse
    token = tl.load(tokens + row)
    tl.store(out + row, value)
    tl.store(out + count + row, tl.load(mine + token).to(tl.float32) - norm_p)
    tl.store(out + 2 * count + row, norm_p - tl.sum(level * weight_p) / total_p)
    tl.store(out + 3 * count + row, reverse)
    tl.store(out + 4 * count + row, tl.load(theirs + token).to(tl.float32) - norm_q)
    for start in range(0, size, BLOCK):
        inside = start + at < size
        a = tl.load(mine + start + at, inside, 0.0).to(tl.float32) - norm_p
        b = tl.load(theirs + start + at, inside, 0.0).to(tl.float32) - norm_q
        slope = tl.exp(a) - tl.exp(b) if FORWARD else tl.exp(a) * (a - b - value)
        tl.store(mine + start + at, slope.to(student.dtype.element_ty), inside)


def compare(student_NV: Tensor, teacher_NV: Tensor, tokens_N: Tensor, forward: bool) -> Compared:
    """KL(student || teacher), or with `forward` KL(teacher || student), and what else is known of the tokens.

    Args:
        student_NV: Logits; the divergence's gradient with respect to them takes their place.
        teacher_NV: Logits.
        tokens_N: The sampled tokens.
        forward: Which of the two.
    """
    count, size = student_NV.shape
    out = torch.empty(5, count, dtype=torch.float32, device=student_NV.device)
    _compare[count,](
        student_NV, teacher_NV, tokens_N, out, size, count, FORWARD=forward, BLOCK=1024, num_warps=8
    )
    return Compared(*out)
