"""The optimiser steps on one step's rollouts, of one student or of several that share their passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gepa_loop.training.batch import Group, completion_tokens
from gepa_loop.training.clock import Clock
from gepa_loop.training.gradient import NO_PREFIX, Gradient, Share, gradients, head_of, packed_questions
from gepa_loop.training.head.chunked import TokenStats, token_logprobs
from gepa_loop.training.objectives.base import Completions, Ratios, token_weights
from gepa_loop.training.objectives.choose import rule_of
from gepa_loop.training.optimizer import learning_rate
from gepa_loop.training.passes import Passes, in_parts
from gepa_loop.training.turn import Prepared, Reader, Turn


@dataclass(frozen=True)
class Updated:
    """What the updates of one step saw of a student; tensors are on the CPU, tokens in the order of the rollouts."""

    loss: float
    """Mean over the updates."""
    grad_norm: float
    """Before clipping; the largest of the updates."""
    stats: TokenStats
    reverse_kl_N: Tensor
    """From `Rule.reverse_kl`."""
    found: Ratios
    advantage_N: Tensor
    reference_logprob_N: Tensor | None
    weight_N: Tensor
    baseline: float
    """For the next step."""
    passes: Passes
    """Those that fitted in memory, for the next step."""


def update(turn: Turn, reader: Reader, passes: Passes, clock: Clock) -> Updated:
    """`update_together` of one student."""
    [done] = update_together([turn], reader, passes, clock)
    return done


def update_together(turns: Sequence[Turn], reader: Reader, passes: Passes, clock: Clock) -> list[Updated]:
    """Train students on one step's rollouts, each on its own, in passes that they share.

    An update whose loss or gradient is not finite, or in which no token counts, leaves a student's weights as they are. One
    that runs out of memory begins anew with smaller passes.

    Args:
        turns: One for each student, which changes in place; all make the same number of updates.
        reader: Runs the model.
        passes: How rollouts are cut.
        clock: Gets the seconds of each phase.

    Raises:
        ModelError: Not even one completion fits in memory.
    """
    fixed = []
    for turn in turns:
        one, passes = _prepared(turn, reader, passes, clock)
        fixed.append(one)
    logs = [_Log() for _ in turns]
    for number in range(turns[0].config.distill.updates):
        shares = [share_of(one, number) for one in fixed]
        found, passes = gradients(fixed, shares, reader, passes, clock)
        for one, log, gradient in zip(fixed, logs, found, strict=True):
            _step(one, log, gradient, number)
        clock.lap("optimizer")
    return [_updated(one, log, passes) for one, log in zip(fixed, logs, strict=True)]


def _prepared(turn: Turn, reader: Reader, passes: Passes, clock: Clock) -> tuple[Prepared, Passes]:
    """What is known of a step's rollouts before the first update."""
    objective, batch, teacher = turn.config.objective, turn.collected.batch, turn.trainee.teacher
    temperature = objective.policy_temperature(turn.config.sampling.temperature)
    device, forward = reader.base.device, reader.forward
    groups = tuple(replace(group, student=turn.trainee.number) for group in turn.collected.groups)
    reference_N = None
    if objective.reads_before and teacher is not None:

        def theirs(part: Sequence[Group]) -> Tensor:
            return teacher.logprobs(part, device, temperature)

        reference_N, passes = in_parts(theirs, groups, passes, teacher)
        clock.lap("teacher")
    if objective.old_from_trainer(turn.config.sampling.temperature):

        def own(part: Sequence[Group]) -> Tensor:
            tokens_N = completion_tokens(part, device)
            states_NH = forward(packed_questions(part, reader.base), NO_PREFIX)
            return token_logprobs(states_NH, head_of(reader.base), tokens_N, temperature)

        old_N, passes = in_parts(own, groups, passes, forward)
        batch = replace(batch, old_logprob_N=old_N)
        clock.lap("forward")
    advantage_N, baseline = rule_of(objective).advantages(batch, reference_N, turn.baseline)
    return Prepared(turn, groups, batch, advantage_N, baseline, reference_N), passes


@dataclass
class _Log:
    """What the updates of a student's step were like."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seen: list[tuple[TokenStats, Ratios]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    moved: bool = False


def _step(fixed: Prepared, log: _Log, found: Gradient, number: int) -> None:
    """One optimiser step of a student, whose gradient is in place."""
    turn = fixed.turn
    teacher, optimizer = turn.trainee.teacher, turn.trainee.optimizer
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(turn.config.distill, turn.updates + number)
    # Clipping has multiplied every gradient by max_norm / norm, so a norm of NaN or infinity spoils them all. And a step in
    # which no token counts would move the weights all the same, by AdamW's momentum and decay.
    if found.finite and found.counted:
        optimizer.step()
        log.moved = True
        if teacher is not None:
            teacher.moved()
    log.losses.append(found.loss)
    log.norms.append(found.norm)
    log.weights.append(found.weight_N)
    log.seen += found.seen


def _updated(fixed: Prepared, log: _Log, passes: Passes) -> Updated:
    turn = fixed.turn
    if log.moved and turn.trainee.teacher is not None:
        turn.trainee.teacher.follow()
    stats = TokenStats(*(torch.cat(values).cpu() for values in zip(*(s for s, _ in log.seen), strict=True)))
    return Updated(
        loss=sum(log.losses) / len(log.losses),
        # `max` passes over NaN or not depending on where it stands.
        grad_norm=max(log.norms, key=lambda norm: math.inf if math.isnan(norm) else norm),
        stats=stats,
        reverse_kl_N=rule_of(turn.config.objective).reverse_kl(stats, fixed.reference_N),
        found=Ratios(*(torch.cat(values).cpu() for values in zip(*(f for _, f in log.seen), strict=True))),
        advantage_N=fixed.advantage_N,
        reference_logprob_N=fixed.reference_N,
        weight_N=torch.cat(log.weights),
        baseline=fixed.baseline,
        passes=passes,
    )


def share_of(fixed: Prepared, number: int) -> Share:
    """The groups of an update with the places of their tokens, and what each token counts."""
    turn, groups = fixed.turn, fixed.groups
    first, last = (round(len(groups) * n / turn.config.distill.updates) for n in (number, number + 1))
    before, share = groups[:first], groups[first:last]
    token, rollout = sum(group.tokens for group in before), sum(len(g.completions) for g in before)
    tokens = slice(token, token + sum(group.tokens for group in share))
    rollouts = slice(rollout, rollout + sum(len(group.completions) for group in share))
    own = _slice(fixed.batch, tokens, rollouts)
    weight_N = token_weights(turn.config.objective, own, turn.collected.trained_C[rollouts])
    return Share(share, tokens, weight_N)


def _slice(batch: Completions, tokens: slice, rollouts: slice) -> Completions:
    return Completions(
        batch.lengths_C[rollouts],
        batch.groups_C[rollouts]
        - batch.groups_C[rollouts][0],  # counted from 0, as sums over groups want them
        batch.reward_C[rollouts],
        batch.truncated_C[rollouts],
        batch.old_logprob_N[tokens],
        batch.by_student_C[rollouts],
    )
