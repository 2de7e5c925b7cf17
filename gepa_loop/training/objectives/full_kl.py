"""Divergences over the whole vocabulary, beside a task reward where one is asked for."""

from __future__ import annotations

from torch import Tensor

from gepa_loop.config.objectives import FullKL
from gepa_loop.training.head.chunked import Divergence
from gepa_loop.training.objectives.base import Rule, Seen


class FullKLRule(Rule[FullKL]):
    """teacher_tau D - r A log p at each token, the divergence weighted by the ratio where that has a cap."""

    def asks(self, temperature: float) -> Divergence:
        del temperature  # one of its own
        own = self.settings
        return Divergence(own.divergence, own.beta, own.clip, own.top_k, own.temperature)

    @property
    def policy(self) -> bool:
        return self.settings.adv_tau > 0

    def loss(self, seen: Seen) -> Tensor:
        own = self.settings
        kl_N = own.teacher_tau * seen.divergence_N
        if own.ratio_cap is not None:
            kl_N = seen.found.ratio_N * kl_N
        task_N = seen.found.ratio_N * seen.advantage_N * seen.logprob_N if own.adv_tau else 0.0
        return (seen.weight_N * (kl_N - task_N)).sum()
