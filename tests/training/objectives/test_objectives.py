"""Objectives against exact gradients by enumeration, and by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gepa_loop.config.objectives import GRPO, SFT, FullKL, Objective, SequenceKL, TokenKL
from gepa_loop.training.head.chunked import Divergence
from gepa_loop.training.head.divergence import divergence
from gepa_loop.training.objectives.base import (
    Completions,
    Ratios,
    Seen,
    k3,
    reward_advantage,
    token_weights,
)
from gepa_loop.training.objectives.choose import rule_of
from gepa_loop.training.objectives.grpo import overlong_penalty
from gepa_loop.training.objectives.token_kl import discounted


def advantages(
    objective: Objective, batch: Completions, teacher: Tensor | None, baseline: float
) -> tuple[Tensor, float]:
    return rule_of(objective).advantages(batch, teacher, baseline)  # type: ignore[arg-type]


def ratios(objective: Objective, *tensors: Tensor) -> Ratios:
    return rule_of(objective).ratios(*tensors)  # type: ignore[arg-type]


def loss(
    objective: Objective,
    logprob: Tensor,
    kl: Tensor,
    found: Ratios,
    advantage: Tensor,
    weight: Tensor,
    reference: Tensor | None,
) -> Tensor:
    seen = Seen(logprob, kl, found, advantage, weight * ~found.masked_N, reference)
    return rule_of(objective).loss(seen)  # type: ignore[arg-type]


def logits(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def batch(
    lengths: list[int],
    groups: list[int],
    rewards: list[float] | None = None,
    sampler: Tensor | None = None,
    truncated: list[bool] | None = None,
) -> Completions:
    count = len(lengths)
    return Completions(
        torch.tensor(lengths),
        torch.tensor(groups),
        torch.tensor(rewards or [0.0] * count),
        torch.tensor(truncated or [False] * count),
        torch.zeros(sum(lengths)) if sampler is None else sampler,
        torch.ones(count, dtype=torch.bool),
    )


def test_reward_advantages_by_hand() -> None:
    reward, groups = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    assert reward_advantage(reward, groups, std=False).tolist() == [0.5, -0.5, 0.0, 0.0]
    scaled = reward_advantage(reward, groups, std=True)
    assert scaled.tolist() == pytest.approx([0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4), 0, 0])


def test_overlong_penalty_by_hand() -> None:
    lengths = torch.tensor([5, 8, 9, 12])
    assert overlong_penalty(lengths, 12, 4).tolist() == [0.0, 0.0, -0.25, -1.0]
    assert overlong_penalty(lengths, 12, 0).tolist() == [0.0] * 4


def test_discounted_sums_by_hand() -> None:
    value = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert discounted(value, [3, 1], 0.5).tolist() == [1 + 1 + 1, 2 + 2, 4, 8]
    assert discounted(value, [3, 1], 1.0).tolist() == [7, 6, 4, 8]


TEACHER = torch.tensor([-1.0, -2.0, -3.0, -1.0, -1.0])
SAMPLER = torch.tensor([-1.5, -1.0, -1.0, -2.0, -1.0])


def test_sequence_advantages_by_hand() -> None:
    sampled = batch([2, 1, 2], [0, 0, 0], [1.0, 0.0, 0.0], SAMPLER)
    objective = SequenceKL(adv_tau=2, teacher_tau=1, student_tau=0.5)
    # R = 2 r + sum teacher - sum sampler / 2: 2 - 3 + 1.25, -3 + 0.5, -2 + 1.5
    whole = [0.25, -2.5, -0.5]
    mean = sum(whole) / 3
    got, _ = advantages(objective, sampled, TEACHER, 0.0)
    assert got.tolist() == pytest.approx([whole[n] - mean for n in (0, 0, 1, 2, 2)])
    task, _ = advantages(objective.model_copy(update={"use_full_reward_baseline": False}), sampled, None, 0.0)
    assert task.tolist() == pytest.approx([2 * (1 - 1 / 3)] * 2 + [-2 / 3] * 3)


def test_token_advantages_by_hand() -> None:
    sampled = batch([2, 1, 2], [0, 0, 1], [1.0, 0.0, 0.0], SAMPLER)
    gap = TEACHER - SAMPLER
    plain, _ = advantages(TokenKL(), sampled, TEACHER, 0.0)
    assert torch.equal(plain, gap)
    hybrid, _ = advantages(TokenKL(adv_tau=1), sampled, TEACHER, 0.0)
    assert torch.equal(hybrid, gap + torch.tensor([0.5, 0.5, -0.5, 0, 0]))
    centred, _ = advantages(TokenKL(centre="group"), sampled, TEACHER, 0.0)
    torch.testing.assert_close(centred, torch.cat([gap[:3] - gap[:3].mean(), gap[3:] - gap[3:].mean()]))
    running, baseline = advantages(TokenKL(centre="running"), sampled, TEACHER, 0.5)
    torch.testing.assert_close(running, gap - 0.5)
    assert baseline == pytest.approx(0.45 + 0.1 * gap.mean().item())
    white, _ = advantages(TokenKL(centre="whiten"), sampled, TEACHER, 0.0)
    torch.testing.assert_close(white, (gap - gap.mean()) / gap.std(correction=0))


def test_advantages_of_minillm_by_hand() -> None:
    """Log-ratios .5, -1, -2 in one completion and 1, 0 in another; the sum over what follows, over its length."""
    sampled = batch([3, 2], [0, 1], sampler=SAMPLER)
    mean, _ = advantages(TokenKL(discount=1, length_normalise=True), sampled, TEACHER, 0.0)
    assert mean.tolist() == pytest.approx([-2.5 / 3, -3 / 2, -2, 1 / 2, 0])
    after, _ = advantages(TokenKL(discount=1, single_step=True), sampled, TEACHER, 0.0)
    assert after.tolist() == pytest.approx([-3, -2, 0, 0, 0])
    halved, _ = advantages(TokenKL(discount=0.5, single_step=True), sampled, TEACHER, 0.0)
    assert halved.tolist() == pytest.approx([-0.5 - 0.5, -1, 0, 0, 0])
    both, _ = advantages(TokenKL(discount=1, single_step=True, length_normalise=True), sampled, TEACHER, 0.0)
    assert both.tolist() == pytest.approx([-3 / 2, -2, 0, 0, 0])
    # Its expected log-ratio over the vocabulary is the divergence, which carries the gradient in its place.
    kl = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], requires_grad=True)
    present, weight = SAMPLER.clone().requires_grad_(), torch.full((5,), 0.2)
    objective = TokenKL(discount=1, single_step=True, teacher_tau=2, student_tau=2)
    found = ratios(objective, present, SAMPLER, sampled.owner_N, torch.ones(5, dtype=torch.bool))
    value = loss(objective, present, kl, found, after, weight, TEACHER)
    slopes = torch.autograd.grad(value, (kl, present))
    assert slopes[0].tolist() == pytest.approx([0.4] * 5)
    torch.testing.assert_close(slopes[1], -0.2 * after)


def test_weights_count_what_is_trained() -> None:
    sampled = batch([3, 1, 2], [0, 0, 1], truncated=[False, False, True])
    all_ = torch.ones(3, dtype=torch.bool)
    assert token_weights(FullKL(), sampled, all_).tolist() == pytest.approx([1 / 6] * 6)
    by_sequence = token_weights(FullKL(normalise="sequence"), sampled, all_)
    assert by_sequence.tolist() == pytest.approx([1 / 9] * 3 + [1 / 3] + [1 / 6] * 2)
    masked = token_weights(FullKL(truncated="mask"), sampled, all_)
    assert masked.tolist() == pytest.approx([1 / 4] * 4 + [0] * 2)
    skipped = token_weights(FullKL(skip_tokens=1, normalise="sequence"), sampled, all_)
    assert skipped.tolist() == pytest.approx([0, 1 / 4, 1 / 4, 0, 0, 1 / 2])
    some = token_weights(FullKL(), sampled, torch.tensor([False, True, False]))
    assert some.tolist() == [0, 0, 0, 1, 0, 0]
    assert token_weights(FullKL(), sampled, ~all_).tolist() == [0] * 6


def test_ratio_masks_and_caps_by_hand() -> None:
    ratio = torch.tensor([1.0, 4.0, 0.25, 0.5, 1.0])
    owner, student = torch.tensor([0, 0, 1, 1, 2]), torch.ones(5, dtype=torch.bool)
    zero = torch.zeros(5)

    def found(objective: Objective, by_student: Tensor = student) -> list[list[float]]:
        got = ratios(objective, ratio.log(), zero, owner, by_student)
        return [got.ratio_N.tolist(), got.masked_N.tolist(), got.geo_C.tolist()]

    assert found(FullKL())[0] == pytest.approx(ratio.tolist())
    assert found(FullKL())[2] == pytest.approx([2.0, 0.125**0.5, 1.0])
    assert found(FullKL(token_mask=(0.5, 2)))[1] == [False, True, True, False, False]
    assert found(FullKL(geo_mask=(0.4, 1.9)))[1] == [True, True, True, True, False]
    assert found(FullKL(sequence_mask=(0.3, 100)))[1] == [False, False, True, True, False]
    assert found(FullKL(ratio_cap=2))[0] == pytest.approx([1, 2, 0.25, 0.5, 1])
    assert found(SequenceKL(ratio="sequence"))[0] == pytest.approx([4, 4, 0.125, 0.125, 1])
    # What the teacher sampled has no ratio.
    mixed = torch.tensor([True, True, False, False, True])
    assert found(FullKL(sequence_mask=(0.3, 100)), mixed) == [
        pytest.approx([1, 4, 1, 1, 1]),
        [False] * 5,
        pytest.approx([2, 1, 1]),
    ]
    extreme = ratios(
        FullKL(), torch.tensor([500.0, -500.0]), torch.zeros(2), torch.tensor([0, 1]), student[:2]
    )
    assert extreme.ratio_N.isfinite().all()


def test_sequence_loss_is_the_formula_of_the_fork() -> None:
    """loss = -sum coeff.detach() lp over kept tokens, coeff = ratio (A - kl_tau log ratio)."""
    objective = SequenceKL(kl_tau=0.1, token_mask=(0.125, 8))
    present = torch.tensor([-1.2, -1.1, -5.0, -2.2, -0.9], dtype=torch.float64, requires_grad=True)
    owner, weight = torch.tensor([0, 0, 1, 2, 2]), torch.full((5,), 0.2)
    advantage = torch.tensor([1.0, 1.0, -2.0, 0.5, 0.5])
    found = ratios(objective, present, SAMPLER, owner, torch.ones(5, dtype=torch.bool))
    value = loss(objective, present, present * 0, found, advantage, weight, None)
    (got,) = torch.autograd.grad(value, present)
    expected, slope = 0.0, []
    for lp, old, a in zip(present.tolist(), SAMPLER.tolist(), advantage.tolist(), strict=True):
        log_ratio = lp - old
        kept = 0.125 <= math.exp(log_ratio) <= 8
        coeff = math.exp(log_ratio) * (a - 0.1 * log_ratio) * kept
        slope.append(-0.2 * coeff)
        expected -= 0.2 * coeff * lp
    assert slope[2] == 0  # exp(-4) is below the mask
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert got.tolist() == pytest.approx(slope, rel=1e-5)


def test_grpo_clips_like_ppo() -> None:
    objective = GRPO(clip=(0.2, 0.3))
    old = torch.zeros(4)
    present = torch.tensor([1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    advantage, weight = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.ones(4)
    found = ratios(objective, present, old, torch.arange(4), torch.ones(4, dtype=torch.bool))
    value = loss(objective, present, present * 0, found, advantage, weight, None)
    (got,) = torch.autograd.grad(value, present)
    assert value.item() == pytest.approx(-1.3 - 0.5 + 1.5 + 0.8)
    # Beyond the bound in the direction that the advantage asks for there is no gradient.
    assert got.tolist() == pytest.approx([0, -0.5, 1.5, 0])


def test_k3_is_the_kl_on_average_and_never_negative() -> None:
    p, q = logits(0, 1, 6).softmax(-1)[0], logits(1, 1, 6).softmax(-1)[0]
    values = k3(p.log(), q.log())
    assert (values >= 0).all()
    assert (p * values).sum().item() == pytest.approx((p * (p / q).log()).sum().item())


def test_k3_pulls_towards_the_other_and_has_no_gradient_beyond_20_nats() -> None:
    logprob = torch.tensor([-1.0, -5.0, -30.0, -0.1], requires_grad=True)
    k3(logprob, torch.tensor([-2.0, -1.0, -1.0, -60.0])).sum().backward()
    assert logprob.grad is not None
    expected = [1 - math.exp(-1), 1 - math.exp(4), 0.0, 1 - math.exp(-59.9)]
    assert logprob.grad.tolist() == pytest.approx(expected)


# --- unbiasedness by enumeration: a policy over sequences of three tokens from a vocabulary of three ---

VOCABULARY, HORIZON = 3, 3


class Policy:
    """A table of logits for each prefix of tokens, so that every sequence's probability is exact."""

    def __init__(self, seed: int) -> None:
        prefixes = [p for n in range(HORIZON) for p in itertools.product(range(VOCABULARY), repeat=n)]
        self.row = {prefix: n for n, prefix in enumerate(prefixes)}
        self.table = logits(seed, len(prefixes), VOCABULARY, scale=0.7)

    def logprobs(self, sequence: tuple[int, ...], table: Tensor) -> Tensor:
        """Log-probability of each token, [3]."""
        rows = torch.tensor([self.row[sequence[:n]] for n in range(HORIZON)])
        return table[rows].log_softmax(-1).gather(-1, torch.tensor(sequence)[:, None])[:, 0]


SEQUENCES = list(itertools.product(range(VOCABULARY), repeat=HORIZON))
REWARDS = {s: float(sum(s) % 3 == 0) for s in SEQUENCES}


def expected_gradient(
    objective: Objective, group: int, teacher: Policy, student: Policy, reward: bool
) -> Tensor:
    """The mean of the estimated gradient over all groups of `group` sequences, each with its exact probability."""
    table = student.table.clone().requires_grad_()
    mean = torch.zeros_like(table)
    probability = {s: student.logprobs(s, student.table).sum().exp() for s in SEQUENCES}
    for drawn in itertools.product(SEQUENCES, repeat=group):
        present = torch.cat([student.logprobs(s, table) for s in drawn])
        reference = torch.cat([teacher.logprobs(s, teacher.table) for s in drawn])
        sampled = batch(
            [HORIZON] * group,
            [0] * group,
            [REWARDS[s] * reward for s in drawn],
            present.detach(),
        )
        advantage, _ = advantages(objective, sampled, reference, 0.0)
        found = ratios(
            objective, present, present.detach(), sampled.owner_N, torch.ones_like(present, dtype=torch.bool)
        )
        # The sum over tokens, averaged over completions: the estimator of the sequence's gradient.
        weight = torch.full((HORIZON * group,), 1.0 / group, dtype=torch.float64)
        rows = torch.tensor([student.row[s[:n]] for s in drawn for n in range(HORIZON)])
        kl = divergence(table[rows], teacher.table[rows], "reverse_kl")
        value = loss(objective, present, kl, found, advantage, weight, reference)
        (gradient,) = torch.autograd.grad(value, table)
        mean += gradient * torch.stack([probability[s] for s in drawn]).prod()
    return mean


def exact(teacher: Policy, student: Policy, *, kl: float, reward: float) -> Tensor:
    """The gradient of kl * KL(student || teacher) over sequences - reward * the expected reward."""
    table = student.table.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for s in SEQUENCES:
        log_p, log_q = student.logprobs(s, table).sum(), teacher.logprobs(s, teacher.table).sum()
        total = total + log_p.exp() * (kl * (log_p - log_q) - reward * REWARDS[s])
    (gradient,) = torch.autograd.grad(total, table)
    return gradient


def exact_per_token(teacher: Policy, student: Policy) -> Tensor:
    """The gradient of the summed token divergences, the distribution of prefixes held fixed."""
    table = student.table.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for prefix, row in student.row.items():
        reach = math.prod(
            student.table[student.row[prefix[:n]]].softmax(-1)[token].item() for n, token in enumerate(prefix)
        )
        total = total + reach * divergence(table[row][None], teacher.table[row][None], "reverse_kl")[0]
    (gradient,) = torch.autograd.grad(total, table)
    return gradient


@pytest.fixture(scope="module")
def policies() -> tuple[Policy, Policy]:
    return Policy(0), Policy(1)


def test_token_kl_is_unbiased_for_the_divergence_of_each_token(policies: tuple[Policy, Policy]) -> None:
    teacher, student = policies
    for objective in (TokenKL(), TokenKL(student="trainer")):
        got = expected_gradient(objective, 1, teacher, student, reward=False)
        torch.testing.assert_close(got, exact_per_token(teacher, student), rtol=1e-6, atol=1e-7)


def test_token_kl_with_discount_1_is_unbiased_for_the_sequence(policies: tuple[Policy, Policy]) -> None:
    teacher, student = policies
    got = expected_gradient(TokenKL(discount=1), 1, teacher, student, reward=False)
    torch.testing.assert_close(got, exact(teacher, student, kl=1, reward=0), rtol=1e-6, atol=1e-7)


def test_token_kl_with_a_single_step_is_unbiased_for_the_sequence(policies: tuple[Policy, Policy]) -> None:
    """The token's own term over the whole vocabulary, the rest by what was sampled."""
    teacher, student = policies
    got = expected_gradient(TokenKL(discount=1, single_step=True), 1, teacher, student, reward=False)
    torch.testing.assert_close(got, exact(teacher, student, kl=1, reward=0), rtol=1e-6, atol=1e-7)


def test_sequence_kl_is_unbiased_but_for_the_group_factor(policies: tuple[Policy, Policy]) -> None:
    """A baseline that contains the completion itself scales the gradient by (G - 1) / G and adds no bias."""
    teacher, student = policies
    got = expected_gradient(SequenceKL(adv_tau=0.5), 2, teacher, student, reward=True)
    torch.testing.assert_close(got, exact(teacher, student, kl=1, reward=0.5) / 2, rtol=1e-6, atol=1e-7)


def test_sequence_kl_without_the_full_baseline(policies: tuple[Policy, Policy]) -> None:
    teacher, student = policies
    objective = SequenceKL(adv_tau=1, use_full_reward_baseline=False)
    got = expected_gradient(objective, 2, teacher, student, reward=True)
    task = exact(teacher, student, kl=0, reward=1) / 2
    torch.testing.assert_close(got, task + exact_per_token(teacher, student), rtol=1e-6, atol=1e-7)


def test_grpo_without_std_is_unbiased_but_for_the_group_factor(policies: tuple[Policy, Policy]) -> None:
    teacher, student = policies
    got = expected_gradient(GRPO(reward_std=False), 2, teacher, student, reward=True)
    torch.testing.assert_close(got, exact(teacher, student, kl=0, reward=1) / 2, rtol=1e-6, atol=1e-7)


def test_grpo_kl_term_is_unbiased_for_k3(policies: tuple[Policy, Policy]) -> None:
    """Its gradient in expectation, tokens held fixed, is that of the forward KL at each prefix (q / p - 1)."""
    teacher, student = policies
    got = expected_gradient(GRPO(adv_tau=0, kl_tau=1), 1, teacher, student, reward=False)
    table = student.table.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for prefix, row in student.row.items():
        reach = math.prod(
            student.table[student.row[prefix[:n]]].softmax(-1)[token].item() for n, token in enumerate(prefix)
        )
        total = total + reach * divergence(table[row][None], teacher.table[row][None], "forward_kl")[0]
    (wanted,) = torch.autograd.grad(total, table)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


def test_sft_losses(policies: tuple[Policy, Policy]) -> None:
    present = torch.tensor([-1.0, -2.0], requires_grad=True)
    kl, weight = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.5])
    found = ratios(SFT(), present, torch.zeros(2), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    assert loss(SFT(), present, kl, found, kl, weight, None).item() == pytest.approx(1.5)
    assert loss(SFT(loss="forward_kl"), present, kl, found, kl, weight, None).item() == pytest.approx(0.375)


def test_hybrid_full_kl_adds_the_task_reward(policies: tuple[Policy, Policy]) -> None:
    present = torch.tensor([-1.0, -2.0], requires_grad=True)
    kl, weight, advantage = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0])
    objective = FullKL(adv_tau=1, teacher_tau=0.5)
    found = ratios(
        objective, present, present.detach(), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    )
    value = loss(objective, present, kl, found, advantage, weight, None)
    (got,) = torch.autograd.grad(value, present)
    assert value.item() == pytest.approx(0.5 * (0.25 + 0.125) - 0.5 * (-1 + 2))
    assert got.tolist() == pytest.approx([-0.5, 0.5])


def test_what_each_objective_asks_and_which_completions_it_trains() -> None:
    score = torch.tensor([1.0, 0.5, 0.0, 0.0])
    equal = torch.tensor([False, False, True, True])
    every = [True] * 4
    for objective, trained, policy, asked in (
        (FullKL(), every, False, "reverse_kl"),
        (FullKL(adv_tau=1, divergence="forward_kl"), every, True, "forward_kl"),
        (SFT(), every, True, None),
        (SFT(only_correct=True), [True, False, False, False], True, None),
        (SFT(loss="forward_kl"), every, False, "forward_kl"),
        (TokenKL(), every, True, None),
        (TokenKL(single_step=True, discount=1), every, True, "reverse_kl"),
        (SequenceKL(), every, True, None),
        (GRPO(drop_equal=True), [True, True, False, False], True, None),
        (GRPO(drop_equal=False), every, True, None),
    ):
        rule, asks = rule_of(objective), rule_of(objective).asks(0.7)
        assert (rule.trained(score, equal).tolist(), rule.policy) == (trained, policy), objective
        assert (asks and asks.kind) == asked, objective
    assert rule_of(TokenKL(single_step=True, discount=1)).asks(0.7) == Divergence(
        "reverse_kl", temperature=0.7
    )
    lengths = torch.tensor([4, 8, 10, 12])
    assert torch.equal(rule_of(FullKL()).rewards(score, lengths, 12), score)
    found = rule_of(GRPO(reward=(-1, 1), overlong=4)).rewards(score, lengths, 12)
    assert found.tolist() == [1.0, 0.0, -1.5, -2.0]
