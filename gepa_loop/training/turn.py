"""What one student brings to a step, and what runs the model for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gepa_loop.config.whole import Config
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Forward
from gepa_loop.training.batch import Group
from gepa_loop.training.collect import Collected
from gepa_loop.training.objectives.base import Completions
from gepa_loop.training.teacher.base import Teacher


@dataclass(frozen=True)
class Reader:
    """What runs the model that is trained."""

    base: Base
    """The model, with its students' adapters active."""
    forward: Forward
    """Runs it; from `graphs.open_forward` with the students' parameters."""


@dataclass(frozen=True)
class Trainee:
    """A student and who it learns from; weights, moments and a following teacher change in place."""

    optimizer: torch.optim.Optimizer
    """Over the student's parameters, from `make_optimizer`."""
    teacher: Teacher | None
    """What reads besides the student."""
    number: int = 0
    """The student's in the model."""


@dataclass(frozen=True)
class Turn:
    """What one student brings to a step."""

    config: Config
    """Of its step: what counts is the objective, the temperature and the learning rate."""
    trainee: Trainee
    """Who is trained."""
    collected: Collected
    """The rollouts."""
    updates: int = 0
    """Optimiser steps taken before."""
    baseline: float = 0.0
    """Running mean of the advantages."""


@dataclass(frozen=True)
class Prepared:
    """What all passes of a student's step read."""

    turn: Turn
    groups: tuple[Group, ...]
    """The rollouts, marked as the student's."""
    batch: Completions
    advantage_N: Tensor
    baseline: float
    """For the next step."""
    reference_N: Tensor | None

    @property
    def temperature(self) -> float:
        """Of the policy."""
        config = self.turn.config
        return config.objective.policy_temperature(config.sampling.temperature)
