"""Policy gradient on each sampled token's log-ratio."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gepa_loop.config.objectives import TokenKL
from gepa_loop.training.head.chunked import Divergence
from gepa_loop.training.objectives.base import Completions, Rule, Seen, group_mean


class TokenKLRule(Rule[TokenKL]):
    """-r A log p with A = teacher_tau log q - student_tau log p, discounted and centred if wanted."""

    def asks(self, temperature: float) -> Divergence | None:
        return Divergence("reverse_kl", temperature=temperature) if self.settings.single_step else None

    def advantages(
        self, batch: Completions, teacher_logprob_N: Tensor | None, baseline: float
    ) -> tuple[Tensor, float]:
        own, owner_N = self.settings, batch.owner_N
        task_N = self.task_advantage(batch)[owner_N]
        if own.student != "sampler":
            return task_N, baseline
        assert teacher_logprob_N is not None
        kl_N = own.teacher_tau * teacher_logprob_N - own.student_tau * batch.old_logprob_N
        if own.discount > 0:
            first_N, kl_N = kl_N, discounted(kl_N, batch.lengths_C.tolist(), own.discount)
            summed_N = batch.lengths_C[owner_N] - batch.place_N
            if own.single_step:
                kl_N, summed_N = kl_N - first_N, summed_N - 1
            if own.length_normalise:
                kl_N = kl_N / summed_N.clamp(min=1)
        if own.centre == "whiten":
            kl_N = (kl_N - kl_N.mean()) / (kl_N.std(correction=0) + 1e-8)
        if own.centre == "group":
            kl_N = kl_N - group_mean(kl_N, batch.groups_C[owner_N])
        if own.centre == "running":
            mean, kl_N = float(kl_N.mean()), kl_N - baseline
            baseline = 0.9 * baseline + 0.1 * mean
        return task_N + kl_N, baseline

    def loss(self, seen: Seen) -> Tensor:
        own, advantage_N = self.settings, seen.advantage_N
        if own.student == "trainer":
            assert seen.reference_logprob_N is not None
            present_N = seen.logprob_N.detach()
            advantage_N = (
                advantage_N + own.teacher_tau * seen.reference_logprob_N - own.student_tau * present_N
            )
        policy = -(seen.weight_N * seen.found.ratio_N * advantage_N * seen.logprob_N).sum()
        if own.single_step:
            return policy + own.teacher_tau * (seen.weight_N * seen.divergence_N).sum()
        return policy


def discounted(value_N: Tensor, lengths: Sequence[int], discount: float) -> Tensor:
    """At each token the sum over those from it on in its completion, each weighted by discount^distance; [N]."""
    out_N = value_N.clone()
    end = 0
    for length in lengths:
        start, end = end, end + length
        for n in range(end - 2, start - 1, -1):
            out_N[n] += discount * out_N[n + 1]
    return out_N
