"""Imitation of what the teacher wrote."""

from __future__ import annotations

import torch
from torch import Tensor

from gepa_loop.config.objectives import SFT
from gepa_loop.training.head.chunked import Divergence
from gepa_loop.training.objectives.base import Rule, Seen


class SFTRule(Rule[SFT]):
    """-log p of the teacher's tokens, or KL(teacher || student) at each."""

    def asks(self, temperature: float) -> Divergence | None:
        del temperature  # the student imitates at 1
        return Divergence("forward_kl") if self.settings.loss == "forward_kl" else None

    @property
    def policy(self) -> bool:
        return self.settings.loss != "forward_kl"

    def trained(self, score_C: Tensor, equal_C: Tensor) -> Tensor:
        every_C = super().trained(score_C, equal_C)
        return torch.as_tensor(score_C == 1) if self.settings.only_correct else every_C

    def loss(self, seen: Seen) -> Tensor:
        value_N = seen.divergence_N if self.settings.loss == "forward_kl" else -seen.logprob_N
        return (seen.weight_N * value_N).sum()
