"""The gradients of one update, of one student or several at once, in passes that add up to those of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from gepa_loop.model.base import Base
from gepa_loop.model.forward import Prefix, recomputed_states
from gepa_loop.model.lora.training import several_students
from gepa_loop.model.packed import Packed, pack
from gepa_loop.training.batch import Group, completion_tokens
from gepa_loop.training.clock import Clock
from gepa_loop.training.head.chunked import Dense, TokenStats, TopK, Wanted, token_stats
from gepa_loop.training.objectives.base import Ratios, Seen
from gepa_loop.training.objectives.choose import rule_of
from gepa_loop.training.passes import Passes, free, parts_of, smaller, too_large
from gepa_loop.training.turn import Prepared, Reader, Trainee

NO_PREFIX = Prefix()
"""One value, by which captured graphs know it again."""


@dataclass(frozen=True)
class Share:
    """A student's part of an update."""

    groups: tuple[Group, ...]
    tokens: slice
    """Their places among the student's tokens."""
    weight_N: Tensor


@dataclass
class Gradient:
    """What the passes of an update found of a student; the gradient itself is in its parameters."""

    weight_N: Tensor
    values: list[Tensor] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    seen: list[tuple[TokenStats, Ratios]] = field(default_factory=list)
    loss: float = 0.0
    norm: float = 0.0
    counted: bool = False
    """Whether any token did."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def gradients(
    fixed: Sequence[Prepared], shares: Sequence[Share], reader: Reader, passes: Passes, clock: Clock
) -> tuple[list[Gradient], Passes]:
    """The clipped gradients of one update, in each student's parameters."""
    found, passes = _at_once(fixed, shares, reader, passes, clock)
    if len(fixed) > 1 and not all(one.finite for one in found):
        # 0 times infinity is no number: what one student's positions overflow into would count against the others.
        apart, grads = list[Gradient](), list[list[Tensor]]()
        for one, share in zip(fixed, shares, strict=True):
            [alone], passes = _at_once([one], [share], reader, passes, clock)
            apart.append(alone)
            # A backward pass adds to the gradients of all students, if only nothing, or nothing times infinity.
            grads.append([grad.clone() for grad in _grads(one.turn.trainee)])
        for one, own in zip(fixed, grads, strict=True):
            torch._foreach_copy_(_grads(one.turn.trainee), own)
        return apart, passes
    return found, passes


def _at_once(
    fixed: Sequence[Prepared], shares: Sequence[Share], reader: Reader, passes: Passes, clock: Clock
) -> tuple[list[Gradient], Passes]:
    groups = [group for share in shares for group in share.groups]
    while True:
        for one in fixed:
            # The gradients stay where they are: captured graphs add to these addresses, and all of a student lie in one tensor.
            one.turn.trainee.optimizer.zero_grad(set_to_none=False)
        found = [Gradient(share.weight_N) for share in shares]
        starts = [share.tokens.start for share in shares]
        try:
            for part in parts_of(groups, passes):
                pieces = []
                for number, own in _by_student(part, fixed):
                    here = slice(starts[number], starts[number] + sum(group.tokens for group in own))
                    starts[number] = here.stop
                    pieces.append(_Piece(fixed[number], shares[number], found[number], own, here))
                _pass(pieces, reader, passes.recompute, clock)
            break
        except torch.OutOfMemoryError as error:
            cause = str(error).partition("\n")[0]
        # Outside of the handler, which holds the tensors of what failed.
        less = smaller(passes, groups)
        if less is None:
            raise too_large(groups, cause)
        passes = less
        free(reader.forward, *(one.turn.trainee.teacher for one in fixed))
    norms = [
        torch.nn.utils.clip_grad_norm_(_parameters(one.turn.trainee), one.turn.config.distill.max_norm)
        for one in fixed
    ]
    # The one place where the host waits for the device.
    shown = torch.stack(
        [
            torch.stack(
                [
                    norm.to(reader.base.device),
                    torch.stack(one.values).sum(),
                    torch.stack(one.counts).any().to(norm.dtype),
                ]
            )
            for norm, one in zip(norms, found, strict=True)
        ]
    ).tolist()
    for gradient, (norm, loss, counted) in zip(found, shown, strict=True):
        gradient.norm, gradient.loss, gradient.counted = norm, loss, bool(counted)
    return found, passes


def _parameters(trainee: Trainee) -> list[Tensor]:
    return [parameter for group in trainee.optimizer.param_groups for parameter in group["params"]]


def _grads(trainee: Trainee) -> list[Tensor]:
    return [parameter.grad for parameter in _parameters(trainee) if parameter.grad is not None]


def _by_student(part: Sequence[Group], fixed: Sequence[Prepared]) -> Iterator[tuple[int, list[Group]]]:
    """The groups of each student of a part, with its place in `fixed`."""
    places = {one.turn.trainee.number: place for place, one in enumerate(fixed)}
    for student, own in groupby(part, key=lambda group: group.student):
        yield places[student], list(own)


@dataclass(frozen=True)
class _Piece:
    """What a pass has of one student."""

    fixed: Prepared
    share: Share
    gradient: Gradient
    """Gets what the pass finds."""
    groups: list[Group]
    here: slice
    """Places of their tokens among all of the student."""

    @property
    def wanted(self) -> Wanted:
        config = self.fixed.turn.config
        rule, temperature = rule_of(config.objective), self.fixed.temperature
        return Wanted(rule.asks(temperature), rule.policy, temperature)


def _pass(pieces: Sequence[_Piece], reader: Reader, recompute: bool, clock: Clock) -> None:
    """Forward and backward of a part; gradients add up in place."""
    base = reader.base
    device = base.device
    dense = [_read(piece, device) for piece in pieces]
    clock.lap("teacher")
    packed = packed_questions([group for piece in pieces for group in piece.groups], base)
    student_NH = recomputed_states(base.model, packed) if recompute else reader.forward(packed, NO_PREFIX)
    clock.lap("forward")
    values = []
    # Students at the same stage share the passes over the vocabulary as well.
    for wanted, alike in groupby(
        zip(pieces, dense, _states(student_NH, pieces), strict=True), key=lambda entry: entry[0].wanted
    ):
        own, read, states = zip(*alike, strict=True)
        tokens_N = completion_tokens([group for piece in own for group in piece.groups], device)
        stats = token_stats(torch.cat(states), head_of(base), tokens_N, _side_by_side(read), wanted)
        lengths = [piece.here.stop - piece.here.start for piece in own]
        parts = zip(*(torch.split(tensor, lengths) for tensor in stats), strict=True)
        values += [_value(piece, TokenStats(*part), device) for piece, part in zip(own, parts, strict=True)]
    clock.lap("loss")
    torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]
    clock.lap("backward")


def _read(piece: _Piece, device: torch.device) -> Dense | TopK | None:
    """What a student's teacher makes of its completions, where its objective asks."""
    teacher = piece.fixed.turn.trainee.teacher
    return None if piece.wanted.divergence is None or teacher is None else teacher.read(piece.groups, device)


def _states(student_NH: Tensor, pieces: Sequence[_Piece]) -> Sequence[Tensor]:
    return torch.split(student_NH, [piece.here.stop - piece.here.start for piece in pieces])


def _side_by_side(read: Sequence[Dense | TopK | None]) -> Dense | TopK | None:
    """What several teachers that are one model read."""
    first = read[0]
    if len(read) == 1 or not isinstance(first, Dense):
        assert len(read) == 1 or first is None, "only students of the base itself are trained together"
        return first
    return Dense(torch.cat([one.hidden_NH for one in read if isinstance(one, Dense)]), first.head_VH)


def _value(piece: _Piece, stats: TokenStats, device: torch.device) -> Tensor:
    """The loss of a student's tokens in a pass."""
    fixed, here = piece.fixed, piece.here
    rule, batch, tokens = rule_of(fixed.turn.config.objective), fixed.batch, piece.share.tokens
    weight_N = piece.share.weight_N[here.start - tokens.start : here.stop - tokens.start].to(device)
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
    piece.gradient.values.append(value.detach())
    # On the device: `bool` here would wait for it once a pass.
    piece.gradient.counts.append((weight_N * ~found.masked_N).any())
    piece.gradient.seen.append((TokenStats(*(tensor.detach() for tensor in stats)), found))
    return value


def packed_questions(part: Sequence[Group], base: Base) -> Packed:
    """The students' own reading of a part of a model's rollouts."""
    students = [group.student for group in part] if several_students(base.model) else None
    return pack([g.student_prompt for g in part], [g.completions for g in part], 0, base.device, students)


def head_of(base: Base) -> Tensor:
    weight: Tensor = base.model.get_output_embeddings().weight
    return weight
