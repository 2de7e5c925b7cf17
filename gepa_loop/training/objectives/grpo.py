"""The task reward alone, clipped (GRPO, DAPO)."""

from __future__ import annotations

import torch
from torch import Tensor

from gepa_loop.config.objectives import GRPO
from gepa_loop.training.objectives.base import Rule, Seen, k3


class GRPORule(Rule[GRPO]):
    """-min(r A, clip(r) A) + kl_tau (exp(b - s) - (b - s) - 1), with r = student / student before the step."""

    def rewards(self, score_C: Tensor, lengths_C: Tensor, horizon: int) -> Tensor:
        low, high = self.settings.reward
        return low + (high - low) * score_C + overlong_penalty(lengths_C, horizon, self.settings.overlong)

    def trained(self, score_C: Tensor, equal_C: Tensor) -> Tensor:
        return ~equal_C if self.settings.drop_equal else super().trained(score_C, equal_C)

    def loss(self, seen: Seen) -> Tensor:
        own = self.settings
        # The value of the ratio comes from `found`, its gradient from the log-probability.
        ratio_N = seen.found.ratio_N * (seen.logprob_N - seen.logprob_N.detach()).exp()
        low, high = own.clip
        clipped_N = ratio_N.clamp(1 - low, 1 + high)
        value_N = -torch.minimum(ratio_N * seen.advantage_N, clipped_N * seen.advantage_N)
        if own.kl_tau:
            assert seen.reference_logprob_N is not None
            value_N = own.kl_tau * k3(seen.logprob_N, seen.reference_logprob_N) + value_N
        return (seen.weight_N * value_N).sum()


def overlong_penalty(lengths_C: Tensor, horizon: int, buffer: int) -> Tensor:
    """DAPO's soft penalty: 0 up to horizon - buffer tokens, then linearly down to -1 at the horizon; [C]."""
    over_C = (lengths_C - (horizon - buffer)).clamp(min=0)
    return -over_C.float() / buffer if buffer else torch.zeros(len(lengths_C))
