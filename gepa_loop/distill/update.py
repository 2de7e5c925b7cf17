"""The optimiser steps on one step's rollouts, in micro-batches that sum to the gradient of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gepa_loop.config.whole import Config
from gepa_loop.distill.batch import Group, completion_tokens, micro_batches
from gepa_loop.distill.clock import Clock
from gepa_loop.distill.collect import Collected
from gepa_loop.distill.head.chunked import TokenStats, Wanted, token_logprobs, token_stats
from gepa_loop.distill.objectives.base import Completions, Ratios, Seen, token_weights
from gepa_loop.distill.objectives.choose import rule_of
from gepa_loop.distill.optimizer import learning_rate
from gepa_loop.distill.passes import Passes, free, in_parts, smaller, too_large
from gepa_loop.distill.teacher.base import Teacher
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Forward, Prefix, recomputed_states
from gepa_loop.model.packed import Packed, pack

NO_PREFIX = Prefix()
"""One value, by which captured graphs know it again."""


@dataclass(frozen=True)
class Trainee:
    """Who is trained, who is read, and by what; weights, moments and a following teacher change in place."""

    base: Base
    """The model, with the student's adapter active."""
    forward: Forward
    """Runs it; from `graphs.open_forward` with the student's parameters."""
    optimizer: torch.optim.Optimizer
    """Over the student's parameters, from `make_optimizer`."""
    teacher: Teacher | None
    """What reads besides the student."""


@dataclass(frozen=True)
class Carried:
    """What one step hands to the next."""

    passes: Passes
    """How rollouts are cut: those that fitted in memory."""
    updates: int = 0
    """Optimiser steps taken."""
    baseline: float = 0.0
    """Running mean of the advantages."""


@dataclass(frozen=True)
class Updated:
    """What the updates of one step saw; tensors are on the CPU, tokens in the order of the rollouts."""

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
    carried: Carried
    """To the next step."""


def update(config: Config, trainee: Trainee, collected: Collected, carried: Carried, clock: Clock) -> Updated:
    """Train on one step's rollouts.

    An update whose loss or gradient is not finite, or in which no token counts, leaves the weights as they are. One that
    runs out of memory begins anew with smaller passes.

    Args:
        config: The run's configuration.
        trainee: Changes in place.
        collected: The rollouts.
        carried: From the step before.
        clock: Gets the seconds of each phase.

    Raises:
        ModelError: Not even one completion fits in memory.
    """
    objective, batch, passes = config.objective, collected.batch, carried.passes
    base, forward, teacher = trainee.base, trainee.forward, trainee.teacher
    temperature = objective.policy_temperature(config.sampling.temperature)
    reference_N = None
    if objective.reads_before and teacher is not None:

        def theirs(part: Sequence[Group]) -> Tensor:
            return teacher.logprobs(part, base.device, temperature)

        reference_N, passes = in_parts(theirs, collected.groups, passes, teacher)
        clock.lap("teacher")
    if objective.old_from_trainer(config.sampling.temperature):

        def own(part: Sequence[Group]) -> Tensor:
            packed = _packed(part, base.device)
            tokens_N = completion_tokens(part, base.device)
            return token_logprobs(forward(packed, NO_PREFIX), _head(base), tokens_N, temperature)

        old_N, passes = in_parts(own, collected.groups, passes, forward)
        batch = replace(batch, old_logprob_N=old_N)
        clock.lap("forward")
    advantage_N, baseline = rule_of(objective).advantages(batch, reference_N, carried.baseline)
    fixed = _Fixed(config, trainee, batch, advantage_N, reference_N)

    losses, norms, seen, weights, moved = [], [], [], [], False
    for number, (share, tokens, rollouts) in enumerate(_shares(collected, config.distill.updates)):
        weight_N = token_weights(objective, _slice(batch, tokens, rollouts), collected.trained_C[rollouts])
        value, counted, parts_seen, passes = _gradient(fixed, share, tokens, weight_N, passes, clock)
        seen += parts_seen
        parameters = [p for group in trainee.optimizer.param_groups for p in group["params"]]
        # The one place where the host waits for the device.
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.distill.max_norm))
        for group in trainee.optimizer.param_groups:
            group["lr"] = learning_rate(config.distill, carried.updates + number)
        total = float(value)
        # Clipping has multiplied every gradient by max_norm / norm, so a norm of NaN or infinity spoils them all. And a step in
        # which no token counts would move the weights all the same, by AdamW's momentum and decay.
        if math.isfinite(norm) and math.isfinite(total) and bool(counted):
            trainee.optimizer.step()
            moved = True
            if teacher is not None:
                teacher.moved()
        clock.lap("optimizer")
        losses.append(total)
        norms.append(norm)
        weights.append(weight_N)
    if moved and teacher is not None:
        teacher.follow()
    stats = TokenStats(*(torch.cat(values).cpu() for values in zip(*(s for s, _ in seen), strict=True)))
    return Updated(
        loss=sum(losses) / len(losses),
        # `max` passes over NaN or not depending on where it stands.
        grad_norm=max(norms, key=lambda norm: math.inf if math.isnan(norm) else norm),
        stats=stats,
        reverse_kl_N=rule_of(objective).reverse_kl(stats, reference_N),
        found=Ratios(*(torch.cat(values).cpu() for values in zip(*(f for _, f in seen), strict=True))),
        advantage_N=advantage_N,
        reference_logprob_N=reference_N,
        weight_N=torch.cat(weights),
        carried=Carried(passes, carried.updates + len(losses), baseline),
    )


@dataclass(frozen=True)
class _Fixed:
    """What all passes of one step read."""

    config: Config
    trainee: Trainee
    batch: Completions
    advantage_N: Tensor
    reference_N: Tensor | None


def _gradient(
    fixed: _Fixed,
    share: Sequence[Group],
    tokens: slice,
    weight_N: Tensor,
    passes: Passes,
    clock: Clock,
) -> tuple[Tensor, Tensor, list[tuple[TokenStats, Ratios]], Passes]:
    """The gradient of one update, in the optimiser's parameters.

    Returns:
        The loss, whether any token counted, what each pass saw (all on the device), and the passes that fitted in memory.
    """
    trainee = fixed.trainee
    while True:
        # The gradients stay where they are: captured graphs add to these addresses, and all lie in one tensor.
        trainee.optimizer.zero_grad(set_to_none=False)
        start, values, counts, seen = tokens.start, [], [], []
        try:
            for part in micro_batches(share, passes.tokens):
                here = slice(start, start + sum(group.tokens for group in part))
                inside = slice(here.start - tokens.start, here.stop - tokens.start)
                weights = weight_N[inside].to(trainee.base.device)
                value, stats, found = _pass(fixed, part, here, weights, passes.recompute, clock)
                start = here.stop
                values.append(value)
                # On the device: `bool` here would wait for it once a pass.
                counts.append((weights * ~found.masked_N).any())
                seen.append((stats, found))
            return torch.stack(values).sum(), torch.stack(counts).any(), seen, passes
        except torch.OutOfMemoryError as error:
            cause = str(error).partition("\n")[0]
        # Outside of the handler, which holds the tensors of what failed.
        less = smaller(passes, share)
        if less is None:
            raise too_large(share, cause)
        passes = less
        free(trainee.forward, trainee.teacher)


def _pass(
    fixed: _Fixed, part: Sequence[Group], here: slice, weight_N: Tensor, recompute: bool, clock: Clock
) -> tuple[Tensor, TokenStats, Ratios]:
    """Forward and backward of a part, whose tokens are `here` among all; gradients add up in place."""
    config, batch = fixed.config, fixed.batch
    base, teacher = fixed.trainee.base, fixed.trainee.teacher
    objective, device = config.objective, base.device
    temperature = objective.policy_temperature(config.sampling.temperature)
    rule = rule_of(objective)
    asked = rule.asks(temperature)
    dense = teacher.read(part, device) if asked is not None and teacher is not None else None
    clock.lap("teacher")
    packed = _packed(part, device)
    student_NH = (
        recomputed_states(base.model, packed) if recompute else fixed.trainee.forward(packed, NO_PREFIX)
    )
    clock.lap("forward")
    stats = token_stats(
        student_NH,
        _head(base),
        completion_tokens(part, device),
        dense,
        Wanted(asked, rule.policy, temperature),
    )
    owner_N = batch.owner_N[here]
    found = rule.ratios(
        stats.policy_logprob_N,
        batch.old_logprob_N[here].to(device),
        (owner_N - owner_N[0]).to(device),
        batch.by_student_C[owner_N].to(device),
    )
    seen = Seen(
        stats.policy_logprob_N,
        stats.divergence_N,
        found,
        fixed.advantage_N[here].to(device),
        weight_N * ~found.masked_N,
        None if fixed.reference_N is None else fixed.reference_N[here].to(device),
    )
    value = rule.loss(seen)
    clock.lap("loss")
    value.backward()  # type: ignore[no-untyped-call]
    clock.lap("backward")
    return value.detach(), TokenStats(*(tensor.detach() for tensor in stats)), found


def _packed(part: Sequence[Group], device: torch.device) -> Packed:
    """The student's own reading of a part."""
    return pack([g.student_prompt for g in part], [g.completions for g in part], 0, device)


def _head(base: Base) -> Tensor:
    weight: Tensor = base.model.get_output_embeddings().weight
    return weight


def _shares(collected: Collected, updates: int) -> list[tuple[tuple[Group, ...], slice, slice]]:
    """The groups of each update with the places of their tokens and completions."""
    out, token, rollout = [], 0, 0
    for number in range(updates):
        first, last = (round(len(collected.groups) * n / updates) for n in (number, number + 1))
        share = collected.groups[first:last]
        tokens = slice(token, token + sum(group.tokens for group in share))
        rollouts = slice(rollout, rollout + sum(len(group.completions) for group in share))
        out.append((share, tokens, rollouts))
        token, rollout = tokens.stop, rollouts.stop
    return out


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
