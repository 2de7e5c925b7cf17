"""One reward a completion, from summed log-probabilities."""

from __future__ import annotations

from torch import Tensor

from gepa_loop.config.objectives import SequenceKL
from gepa_loop.training.objectives.base import (
    LOG_RATIO_LIMIT,
    Completions,
    Rule,
    Seen,
    reward_advantage,
    sums,
)

SEQUENCE_RATIO_LIMIT = 10.0
"""A completion's product of ratios counts as at most this, as in prime-rl."""


class SequenceKLRule(Rule[SequenceKL]):
    """-r (A - kl_tau log r) log p with A of whole completions, or with the log-ratio of each token."""

    def advantages(
        self, batch: Completions, teacher_logprob_N: Tensor | None, baseline: float
    ) -> tuple[Tensor, float]:
        own, owner_N, task_C = self.settings, batch.owner_N, self.task_advantage(batch)
        if not own.use_full_reward_baseline:
            return task_C[owner_N], baseline
        assert teacher_logprob_N is not None
        kl_N = own.teacher_tau * teacher_logprob_N - own.student_tau * batch.old_logprob_N
        kl_C = sums(kl_N, owner_N, len(batch.lengths_C))
        return (task_C + reward_advantage(kl_C, batch.groups_C, own.kl_std))[owner_N], baseline

    def ratio(self, ratio_N: Tensor, sums_C: Tensor, owner_N: Tensor) -> Tensor:
        if self.settings.ratio != "sequence":
            return ratio_N
        return sums_C.clamp(max=LOG_RATIO_LIMIT).exp().clamp(max=SEQUENCE_RATIO_LIMIT)[owner_N]

    def loss(self, seen: Seen) -> Tensor:
        own, advantage_N = self.settings, seen.advantage_N
        if not own.use_full_reward_baseline:
            assert seen.reference_logprob_N is not None
            kl_N = own.teacher_tau * seen.reference_logprob_N - own.student_tau * seen.logprob_N.detach()
            advantage_N = advantage_N + kl_N
        advantage_N = advantage_N - own.kl_tau * seen.found.log_ratio_N
        return -(seen.weight_N * seen.found.ratio_N * advantage_N * seen.logprob_N).sum()
