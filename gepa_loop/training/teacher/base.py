"""What a distillation asks of whoever reads the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gepa_loop.config.tables import SamplingConfig
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item
from gepa_loop.training.batch import Group
from gepa_loop.training.head.chunked import Dense, TopK


class Teacher(Protocol):
    """What reads completions after prompts of its own, without gradients."""

    @property
    def prompts(self) -> Mapping[str, tuple[int, ...]]:
        """Item id -> the whole prompt."""
        ...

    @property
    def follows(self) -> bool:
        """It has an adapter of its own that follows the student's."""
        ...

    def after_prefix(self, item: Item) -> tuple[int, ...]:
        """An item's prompt without the prefix that is computed once for all items; the whole of it where nothing is."""
        ...

    def read(self, groups: Sequence[Group], device: torch.device) -> Dense | TopK:
        """Its distributions at the positions that predict the groups' completion tokens, on `device`."""
        ...

    def logprobs(self, groups: Sequence[Group], device: torch.device, temperature: float) -> Tensor:
        """Its log-probability of each completion token at a temperature, [N] float32 on `device`."""
        ...

    def moved(self) -> None:
        """Take note that an update has moved the student."""
        ...

    def restored(self) -> None:
        """Take note that weights of a checkpoint were put back."""
        ...

    def follow(self) -> None:
        """Follow the student, whose step is over."""
        ...

    def release(self) -> None:
        """Give back the memory that is held between calls and can be done without."""
        ...

    def answers(self, rollouts: Rollouts, stack: Adapter | None, settings: SamplingConfig) -> Rollouts:
        """The same, answered by it: through the run's own sampler with its adapters, or through one for another model."""
        ...
