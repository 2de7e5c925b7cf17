"""What the kernels of a launch read and write besides activations and weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Past(NamedTuple):
    """One layer's keys or values: of what all prompts begin with, of each prompt's rest, and of each completion."""

    shared_GCD: Tensor
    prompt_UGPD: Tensor
    completion_RGTD: Tensor


class Rows(NamedTuple):
    """Which slots a launch computes, and where each stands; int32."""

    slots_B: Tensor
    shared_1: Tensor
    """Tokens that all prompts begin with."""
    owners_R: Tensor
    """The prompt of each slot."""
    prompts_U: Tensor
    """Tokens of each prompt after the shared ones."""
    lengths_R: Tensor
    """Completion tokens of each slot, the one that is being read included."""
    students_R: Tensor
    """The student of each slot, where several answer."""


class Whose(NamedTuple):
    """Which ranks of an adapter each row computes with: those of its student, where several students' lie side by side."""

    student_N: Tensor
    """Each row's student, int32."""
    ranks: int
    """Of each student."""
    others_NR: Tensor
    """True for the ranks of a layer that are another student's."""


def whose_ranks(student_N: Tensor, ranks: int, capacity: int) -> Whose:
    """Of layers with room for `capacity` ranks each."""
    whose_R = torch.arange(capacity, device=student_N.device) // ranks
    return Whose(student_N, ranks, whose_R != student_N[:, None])


class Rotary(NamedTuple):
    """How queries and keys are turned to their positions."""

    heads: int
    """Query heads."""
    cos_PE: Tensor
    """Cosines of the angles, by position; [P, D / 2]."""
    sin_PE: Tensor
    """Their sines."""
    eps: float
    """Of the norms before that, where there are some (Qwen 3)."""
