"""Divergences over the vocabulary, dense and in chunks, against brute force in float64 and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gepa_loop.training.head.chunked import Dense, Divergence, Wanted, token_logprobs, token_stats
from gepa_loop.training.head.divergence import (
    Kind,
    clipped_with_gradient,
    divergence,
    from_logprobs,
    with_gradient,
    with_tail,
)

KINDS: list[tuple[Kind, float]] = [
    ("reverse_kl", 0.5),
    ("forward_kl", 0.5),
    ("jsd", 0.5),
    ("jsd", 0.1),
    ("jsd", 0.0),
    ("jsd", 1.0),
]


def logits(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def brute(p: Tensor, q: Tensor, kind: str, beta: float, clip: float = math.inf) -> Tensor:
    """Straight from the definitions, outcome by outcome, each of which counts as at most `clip`."""

    def part(v: int) -> Tensor:
        own, other = p[:, v], q[:, v]
        reverse, forward = own * (own / other).log(), other * (other / own).log()
        if kind == "reverse_kl" or (kind == "jsd" and beta == 1.0):
            return reverse
        if kind == "forward_kl" or (kind == "jsd" and beta == 0.0):
            return forward
        m = beta * other + (1 - beta) * own
        return beta * other * (other / m).log() + (1 - beta) * own * (own / m).log()

    return sum((part(v).clamp(max=clip) for v in range(p.shape[1])), torch.tensor(0.0))


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_divergence_and_gradient_equal_brute_force(kind: Kind, beta: float) -> None:
    student, teacher = logits(0, 40, 30).requires_grad_(), logits(1, 40, 30)
    value = divergence(student, teacher, kind, beta)
    expected = brute(student.softmax(-1), teacher.softmax(-1), kind, beta)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    (got,) = torch.autograd.grad(value.sum(), student)
    (wanted,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-12)
    assert (value > 0).all()


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_the_clip_is_of_each_outcome_before_the_sum(kind: Kind, beta: float) -> None:
    """As in OPSD: a token above it keeps the gradient of its other outcomes."""
    student, teacher, clip = logits(0, 40, 30).requires_grad_(), logits(1, 40, 30), 0.03
    expected = brute(student.softmax(-1), teacher.softmax(-1), kind, beta, clip)
    (wanted,) = torch.autograd.grad(expected.sum(), student)
    log_p, log_q = student.detach().log_softmax(-1), teacher.log_softmax(-1)
    value, slope = clipped_with_gradient(log_p, log_q, kind, beta, clip)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-10)
    whole = brute(log_p.exp(), log_q.exp(), kind, beta)
    assert (value < whole - 1e-3).any() and slope.abs().sum(-1).min() > 1e-3
    unclipped = clipped_with_gradient(log_p, log_q, kind, beta, math.inf)
    for mine, own in zip(unclipped, with_gradient(log_p, log_q, kind, beta), strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-6, atol=1e-10)


def test_the_clip_by_hand() -> None:
    """q = (3/4, 1/4), p = (1/4, 3/4): the forward KL's parts are .75 log 3 = .824 and -.25 log 3 = -.275."""
    p, q = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.75, 0.25]]).log()
    value, slope = clipped_with_gradient(p, q, "forward_kl", 0.5, 0.05)
    assert value.item() == pytest.approx(0.05 - 0.25 * math.log(3))
    # Of -q_2 log p_2 alone: -q_2 (onehot_2 - p).
    assert slope[0].tolist() == pytest.approx([0.25 * 0.25, -0.25 + 0.25 * 0.75])


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_equal_logits_diverge_by_exactly_zero(kind: Kind, beta: float) -> None:
    both = logits(2, 20, 50).float()
    assert (divergence(both, both.clone(), kind, beta) == 0).all()


def test_jsd_limits() -> None:
    student, teacher = logits(0, 10, 8, scale=0.5), logits(1, 10, 8, scale=0.5)
    for small in (1e-4, 1e-6):
        forward = divergence(student, teacher, "jsd", small) / small
        reverse = divergence(student, teacher, "jsd", 1 - small) / small
        torch.testing.assert_close(
            forward, divergence(student, teacher, "forward_kl"), rtol=200 * small, atol=1e-6
        )
        torch.testing.assert_close(
            reverse, divergence(student, teacher, "reverse_kl"), rtol=200 * small, atol=1e-6
        )
    symmetric = divergence(student, teacher, "jsd", 0.5), divergence(teacher, student, "jsd", 0.5)
    torch.testing.assert_close(*symmetric)
    assert (symmetric[0] <= math.log(2)).all()


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_divergence_survives_extreme_logits(kind: Kind, beta: float) -> None:
    student = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    value = divergence(student, torch.tensor([[-200.0, 200.0, 0.0]]), kind, beta)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.isfinite().all() and student.grad is not None and student.grad.isfinite().all()


def test_bad_kind_and_beta_are_refused() -> None:
    with pytest.raises(ValueError, match="kl"):
        divergence(logits(0, 1, 2), logits(1, 1, 2), "kl")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta = 2"):
        divergence(logits(0, 1, 2), logits(1, 1, 2), "jsd", 2)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd"])
def test_the_gradient_raises_the_token_that_the_teacher_prefers(kind: Kind) -> None:
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    divergence(student, torch.tensor([[1.0, 0.0]], dtype=torch.float64), kind).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad[0, 0] < 0 < student.grad[0, 1]  # a step down raises the first
    if kind == "forward_kl":  # p - q by hand
        assert student.grad[0, 0].item() == pytest.approx(0.5 - math.e / (math.e + 1))


def head_case(seed: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """300 tokens (three chunks), 8 dimensions; the teacher has an output layer of its own."""
    student, teacher = logits(seed, 300, 8, scale=1).requires_grad_(), logits(seed + 1, 300, 8, scale=1)
    head, other = logits(seed + 2, 50, 8, scale=1), logits(seed + 3, 50, 8, scale=1)
    tokens = torch.randint(50, (300,), generator=torch.Generator().manual_seed(seed))
    return student, teacher, head, other, tokens


def bucketed(log_p: Tensor, log_q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Probabilities of the student's K likeliest tokens and of the rest, by plain sums."""
    top = log_p.topk(k).indices
    out = []
    for one in (log_p.exp(), log_q.exp()):
        kept = one.gather(-1, top)
        out.append(torch.cat([kept, one.sum(-1, keepdim=True) - kept.sum(-1, keepdim=True)], -1))
    return out[0], out[1]


@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("top_k", [None, 5, 50])
@pytest.mark.parametrize("clip", [None, 0.02])
@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (1.1, 0.5)], ids=str)
def test_chunked_head_equals_the_dense_divergence(
    kind: Kind, beta: float, top_k: int | None, clip: float | None, temperatures: tuple[float, float]
) -> None:
    """The divergence at one temperature, the policy's log-probability at another, the rest at 1."""
    student, teacher, head, other, tokens = head_case()
    weight = torch.rand(300, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    log_p, log_q = (student @ head.T).log_softmax(-1), (teacher @ other.T).log_softmax(-1)
    warm_p, warm_q = (
        (states @ weights.T / temperatures[0]).log_softmax(-1)
        for states, weights in ((student, head), (teacher, other))
    )
    outcomes = bucketed(warm_p, warm_q, 5) if top_k == 5 else (warm_p.exp(), warm_q.exp())
    dense = brute(*outcomes, kind, beta, clip or math.inf)

    stats = token_stats(
        student,
        head,
        tokens,
        Dense(teacher, other),
        Wanted(
            Divergence(kind, beta, clip, top_k, temperatures[0]), policy=True, temperature=temperatures[1]
        ),
    )
    loss_ = (weight * (stats.divergence_N + 0.3 * stats.policy_logprob_N)).sum()
    (got,) = torch.autograd.grad(loss_, student)

    cold = (student @ head.T / temperatures[1]).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    (wanted,) = torch.autograd.grad((weight * (dense + 0.3 * cold)).sum(), student)
    torch.testing.assert_close(stats.divergence_N, dense, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(stats.policy_logprob_N, cold)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)
    picked = log_p.gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(stats.logprob_N, picked)
    torch.testing.assert_close(stats.reverse_kl_N, brute(log_p.exp(), log_q.exp(), "reverse_kl", 0))
    torch.testing.assert_close(stats.entropy_N, -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(stats.teacher_logprob_N, log_q.gather(-1, tokens[:, None])[:, 0])
    torch.testing.assert_close(token_logprobs(student, head, tokens, 1.0), picked.float())
    torch.testing.assert_close(token_logprobs(student, head, tokens, temperatures[1]), cold.float())


@pytest.mark.parametrize("asked", [Divergence(), Divergence("jsd"), Divergence(top_k=3)], ids=str)
def test_rows_that_one_output_layer_has_alone_count_for_nothing(asked: Divergence) -> None:
    student, teacher, head, other, tokens = head_case()
    more = torch.randn(7, head.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 9
    wanted = token_stats(student, head, tokens, Dense(teacher, other), Wanted(asked))
    (slope,) = torch.autograd.grad(wanted.divergence_N.sum(), student)
    for mine, theirs in ((head, torch.cat([other, more])), (torch.cat([head, more]), other)):
        found = token_stats(student, mine, tokens, Dense(teacher, theirs), Wanted(asked))
        for one, same in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, same)
        torch.testing.assert_close(torch.autograd.grad(found.divergence_N.sum(), student)[0], slope)


def test_what_was_not_asked_for_carries_no_gradient() -> None:
    student, teacher, head, other, tokens = head_case()
    stats = token_stats(student, head, tokens, Dense(teacher, other), Wanted(Divergence()))
    assert stats.divergence_N.requires_grad and not stats.policy_logprob_N.requires_grad
    alone = token_stats(student, head, tokens, wanted=Wanted(policy=True))
    assert alone.policy_logprob_N.requires_grad and not alone.divergence_N.requires_grad
    assert not stats.logprob_N.requires_grad and not alone.logprob_N.requires_grad
    assert alone.reverse_kl_N.isnan().all() and (alone.divergence_N == 0).all()


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd"])
def test_top_k_with_a_tail_never_exceeds_the_whole(kind: Kind) -> None:
    student, teacher = logits(0, 50, 30).log_softmax(-1), logits(1, 50, 30).log_softmax(-1)
    whole, last = from_logprobs(student, teacher, kind), torch.zeros(50, dtype=torch.float64)
    for k in (1, 3, 10, 29):
        top = student.topk(k).indices
        part = from_logprobs(with_tail(student.gather(-1, top)), with_tail(teacher.gather(-1, top)), kind)
        assert (part <= whole + 1e-9).all() and (
            part >= last - 1e-9
        ).all()  # merging outcomes loses information
        last = part
