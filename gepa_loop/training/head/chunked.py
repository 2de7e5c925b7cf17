"""From hidden states to statistics of tokens, without ever holding the logits of all tokens.

The gradients with respect to the student's hidden states are made in the forward pass, chunk by chunk, so that a
chunk's logits are computed once and then forgotten. The output layers and the teacher get none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gepa_loop.training.head.compare import Compared, compare
from gepa_loop.training.head.divergence import (
    Kind,
    at_temperature,
    clipped_with_gradient,
    from_logprobs,
    with_gradient,
    with_tail,
)

CHUNK_LOGITS = {"cpu": 2**23, "cuda": 2**26}
"""Logits of one side that are in memory together: 32 MB in float32 on a CPU, whose caches hold little more, and 128 MB in bfloat16 on a GPU,
where a small chunk is a launch and little work."""


@dataclass(frozen=True)
class Divergence:
    """Which divergence of student and teacher carries a gradient."""

    kind: Kind = "reverse_kl"
    beta: float = 0.5
    clip: float | None = None
    """Highest part of one outcome, in nats, before the sum over outcomes; above it that outcome has no gradient."""
    top_k: int | None = None
    """Only the student's K likeliest tokens, and the rest as one outcome; None is the whole vocabulary."""
    temperature: float = 1.0
    """Both sides' logits are divided by it."""

    @property
    def plain(self) -> bool:
        """`compare` knows it."""
        return self.kind != "jsd" and self == Divergence(self.kind, self.beta)


@dataclass(frozen=True)
class Wanted:
    """What of `TokenStats` carries a gradient, and at which temperature the policy is."""

    divergence: Divergence | None = None
    """Needs a teacher."""
    policy: bool = False
    """`policy_logprob_N` gets a gradient."""
    temperature: float = 1.0
    """Of `policy_logprob_N`."""


class Dense(NamedTuple):
    """A model's last hidden states and its output layer."""

    hidden_NH: Tensor
    head_VH: Tensor


class TopK(NamedTuple):
    """The teacher's K likeliest tokens at each position, at temperature 1; all others are one more outcome."""

    ids_NK: Tensor
    logprobs_NK: Tensor
    token_N: Tensor
    """Log-probability of the sampled token."""


class TokenStats(NamedTuple):
    """What is known of each completion token, all [N] and float32; at temperature 1 where nothing else is said."""

    divergence_N: Tensor
    """The divergence that was asked for, at its temperature; carries a gradient. 0 when none was."""
    policy_logprob_N: Tensor
    """Student's log-probability of the token at the temperature that was asked for; may carry a gradient."""
    logprob_N: Tensor
    """Student's log-probability of the token."""
    entropy_N: Tensor
    """Entropy of the student."""
    reverse_kl_N: Tensor
    """KL(student || teacher) over the whole vocabulary, or over the teacher's K and the rest; NaN without one."""
    teacher_logprob_N: Tensor
    """NaN without a teacher."""


def token_stats(
    student_NH: Tensor,
    head_VH: Tensor,
    tokens_N: Tensor,
    teacher: Dense | TopK | None = None,
    wanted: Wanted = Wanted(),
) -> TokenStats:
    """Statistics of completion tokens from the hidden states that predict them.

    Args:
        student_NH: Last hidden states of the student.
        head_VH: Weight of its output layer.
        tokens_N: The sampled tokens.
        teacher: What the teacher made of the same tokens. Rows that only one of two output layers has are no tokens, and
            count for nothing: sizes of a family fill their vocabulary up to different lengths.
        wanted: What gets a gradient.
    """
    if isinstance(teacher, Dense):
        rows = min(len(head_VH), len(teacher.head_VH))
        head_VH, teacher = head_VH[:rows], Dense(teacher.hidden_NH, teacher.head_VH[:rows])
    return TokenStats(
        *_TokenStats.apply(student_NH, head_VH, tokens_N, teacher, wanted)  # type: ignore[no-untyped-call]
    )


@torch.no_grad()
def token_logprobs(hidden_NH: Tensor, head_VH: Tensor, tokens_N: Tensor, temperature: float) -> Tensor:
    """Log-probability of each token at a temperature, [N] float32."""
    parts = [
        at_temperature(_log_softmax(hidden_NH[rows], head_VH), temperature).gather(-1, tokens_N[rows, None])[
            :, 0
        ]
        for rows in _chunks(hidden_NH, head_VH)
    ]
    return torch.cat(parts).float()


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_NH: Tensor,
        head_VH: Tensor,
        tokens_N: Tensor,
        teacher: Dense | TopK | None,
        wanted: Wanted,
    ) -> Any:
        asked, policy, temperature = wanted.divergence, wanted.policy, wanted.temperature
        divergence_NH = torch.empty_like(student_NH) if asked else None
        logprob_NH = torch.empty_like(student_NH) if policy else None
        stats = student_NH.new_zeros(6, len(student_NH), dtype=_wide(student_NH))
        stats[4:] = torch.nan  # until a teacher tells
        # One pass over the logits instead of twenty, where nothing but a plain divergence is asked.
        fast = asked if asked is not None and asked.plain and not policy and temperature == 1 else None
        scratch = None
        for rows in _chunks(student_NH, head_VH):
            if fast is not None and isinstance(teacher, Dense) and divergence_NH is not None:
                if scratch is None and student_NH.device.type == "cpu":
                    scratch = stats.new_empty(4 * len(student_NH[rows]) * len(head_VH))
                student, read = (
                    Dense(side.hidden_NH[rows], side.head_VH)
                    for side in (Dense(student_NH, head_VH), teacher)
                )
                stats[:, rows], divergence_NH[rows] = _compared(fast, student, read, tokens_N[rows], scratch)
                continue
            log_p = _log_softmax(student_NH[rows], head_VH)
            picked = tokens_N[rows, None]
            stats[2, rows] = log_p.gather(-1, picked)[:, 0]
            p = log_p.exp()
            stats[3, rows] = -torch.linalg.vecdot(p, log_p)
            if teacher is not None:
                if isinstance(teacher, TopK):
                    pair = _Outcomes.of(log_p, teacher.ids_NK[rows], teacher.logprobs_NK[rows])
                    stats[5, rows] = teacher.token_N[rows].to(stats.dtype)
                else:
                    log_q = _log_softmax(teacher.hidden_NH[rows], teacher.head_VH)
                    stats[5, rows] = log_q.gather(-1, picked)[:, 0]
                    pair = _Outcomes(log_p, log_q)
                if asked is not None and divergence_NH is not None:
                    stats[0, rows], slope = _asked(asked, log_p, p, pair)
                    divergence_NH[rows] = slope.to(head_VH.dtype) @ head_VH
                # What is trained may be what is shown: it is not computed twice.
                known = asked == Divergence("reverse_kl")
                stats[4, rows] = stats[0, rows] if known else from_logprobs(*pair[:2], "reverse_kl")
            own = at_temperature(log_p, temperature)
            stats[1, rows] = own.gather(-1, picked)[:, 0]
            if logprob_NH is not None:
                # d log p[token] / d logits = (onehot(token) - p) / temperature
                own_p = p if temperature == 1 else own.exp()
                slope_NH = head_VH[tokens_N[rows]] - own_p.to(head_VH.dtype) @ head_VH
                logprob_NH[rows] = slope_NH / temperature
        ctx.save_for_backward(divergence_NH, logprob_NH)
        # Slopes [N, H] instead of logits [N, V] wait for the backward pass: 576 numbers a token, and not 49,152.
        divergence_N, policy_N, *rest = stats.unbind()
        fixed = [*rest, *([] if asked else [divergence_N]), *([] if policy else [policy_N])]
        ctx.mark_non_differentiable(*fixed)
        return divergence_N, policy_N, *rest

    @staticmethod
    def backward(ctx: Any, grad_divergence_N: Tensor, grad_logprob_N: Tensor, *_: Any) -> Any:
        gradients = zip((grad_divergence_N, grad_logprob_N), ctx.saved_tensors, strict=True)
        parts = [grad_N[:, None] * slope_NH for grad_N, slope_NH in gradients if slope_NH is not None]
        return (sum(parts).to(parts[0].dtype), *[None] * 4)


def _compared(
    asked: Divergence, student: Dense, teacher: Dense, tokens_N: Tensor, scratch: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The statistics of some tokens, and the gradient of the divergence with respect to the hidden states.

    `scratch` is for four times the logits on the CPU, where fresh tensors are slow.
    """
    sides, head_VH = (student, teacher), student.head_VH
    forward = asked.kind == "forward_kl"
    if scratch is None:
        from gepa_loop.training.head import kernels as head_kernels

        student_NV, teacher_NV = (hidden_NH @ weight_VH.T for hidden_NH, weight_VH in sides)
        with torch.cuda.device(student_NV.device):  # the kernel goes to the current one
            found = head_kernels.compare(student_NV, teacher_NV, tokens_N, forward)
        return _stacked(found), student_NV @ head_VH
    shape = 4, len(head_VH), len(student.hidden_NH)
    scratch_4VN = scratch[: math.prod(shape)].view(shape)
    for out_VN, (hidden_NH, weight_VH) in zip(scratch_4VN, sides, strict=False):
        if out_VN.dtype == weight_VH.dtype:
            torch.mm(weight_VH, hidden_NH.T, out=out_VN)
        else:
            out_VN.copy_(weight_VH @ hidden_NH.T)
    student_VN, teacher_VN = scratch_4VN[:2]
    found = compare(student_VN, teacher_VN, scratch_4VN[2:], tokens_N, forward)
    return _stacked(found), (head_VH.T @ student_VN.to(head_VH.dtype)).T


def _stacked(found: Compared) -> Tensor:
    """In the order of `TokenStats`, whose two log-probabilities are one at temperature 1."""
    divergence_N, logprob_N, *rest = found
    return torch.stack([divergence_N, logprob_N, logprob_N, *rest])


class _Outcomes(NamedTuple):
    """What student and teacher are compared over: the vocabulary, or some tokens of it and the rest as one outcome."""

    log_p: Tensor
    log_q: Tensor
    ids_NK: Tensor | None = None
    """Those tokens; the last outcome is the rest."""

    @staticmethod
    def of(log_p_NV: Tensor, ids_NK: Tensor, log_q_NK: Tensor) -> _Outcomes:
        return _Outcomes(
            with_tail(log_p_NV.gather(-1, ids_NK)), with_tail(log_q_NK.to(log_p_NV.dtype)), ids_NK
        )


def _asked(asked: Divergence, log_p_NV: Tensor, p_NV: Tensor, pair: _Outcomes) -> tuple[Tensor, Tensor]:
    """The divergence [N] and its gradient with respect to the student's logits [N, V]; `log_p_NV` is of temperature 1."""
    if asked.temperature != 1:
        if pair.ids_NK is not None:
            raise ValueError("what a server tells of the teacher is of temperature 1 and of no other")
        log_p_NV, log_q_NV = (at_temperature(side, asked.temperature) for side in pair[:2])
        p_NV, pair = log_p_NV.exp(), _Outcomes(log_p_NV, log_q_NV)
    if asked.top_k is not None and asked.top_k < pair.log_p.shape[-1]:
        ids_NK = log_p_NV.topk(asked.top_k, sorted=False).indices
        pair = _Outcomes.of(log_p_NV, ids_NK, pair.log_q.gather(-1, ids_NK))
    if asked.clip is None:
        known_NV = p_NV if pair.ids_NK is None else None
        value_N, slope_NV = with_gradient(pair.log_p, pair.log_q, asked.kind, asked.beta, known_NV)
    else:
        value_N, slope_NV = clipped_with_gradient(pair.log_p, pair.log_q, asked.kind, asked.beta, asked.clip)
    if pair.ids_NK is not None:
        # The gradient of the rest falls to its tokens by their share of it.
        share_NV = (log_p_NV - pair.log_p[:, -1:]).exp()
        slope_NV = (share_NV * slope_NV[:, -1:]).scatter(-1, pair.ids_NK, slope_NV[:, :-1])
    return value_N, slope_NV if asked.temperature == 1 else slope_NV / asked.temperature


def _log_softmax(hidden_NH: Tensor, head_VH: Tensor) -> Tensor:
    return (hidden_NH @ head_VH.T).to(_wide(hidden_NH)).log_softmax(-1)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunks(hidden_NH: Tensor, head_VH: Tensor) -> list[slice]:
    count = len(hidden_NH)
    most = max(1, CHUNK_LOGITS[hidden_NH.device.type] // len(head_VH))
    size = -(-count // -(-count // most)) if count else 1
    return [slice(start, start + size) for start in range(0, count, size)]
