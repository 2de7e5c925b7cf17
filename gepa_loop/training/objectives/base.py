"""What the objectives share: completions, ratios, weights, and the contract of an objective. Pure functions.

Axes: `_N` completion tokens, completion by completion; `_C` completions. Log-probabilities are in nats. Those of which
advantages, ratios and policy gradients are made, the student's and the teacher's, are of the distribution that was
sampled from: the logits divided by `sampling.temperature`, as verl, TRL and MiniLLM do; at another one the gradient is
that of something else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gepa_loop.config.objectives import Objective
from gepa_loop.training.head.chunked import Divergence, TokenStats

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are cut here before they are exponentiated, as in verl: exp(20) is 5e8, and float32 ends at exp(88)."""

S = TypeVar("S", bound=Objective)


@dataclass(frozen=True)
class Completions:
    """What was sampled in one step. Tokens of all completions follow each other on `_N`."""

    lengths_C: Tensor
    groups_C: Tensor
    """Which item each completion belongs to."""
    reward_C: Tensor
    """Task reward, float32."""
    truncated_C: Tensor
    """Cut at the horizon."""
    old_logprob_N: Tensor
    """Log-probability of each token before the step: as collected the sampler's, at temperature 1; where
    `objective.old` asks for the trainer's, `update` puts those here, at the temperature of sampling."""
    by_student_C: Tensor
    """Sampled by the student; the others by the teacher."""

    @property
    def owner_N(self) -> Tensor:
        """The completion of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths_C)), self.lengths_C)

    @property
    def place_N(self) -> Tensor:
        """The place of each token in its completion, from 0."""
        starts_C = self.lengths_C.cumsum(0) - self.lengths_C
        return torch.arange(int(self.lengths_C.sum())) - starts_C[self.owner_N]


class Ratios(NamedTuple):
    """Importance ratios, the student's probability of a token over that from before the step; float32, no gradient."""

    log_ratio_N: Tensor
    """Cut at +-20; 0 for tokens that the teacher sampled."""
    ratio_N: Tensor
    """As the objective uses it: of the token or of the completion, capped."""
    geo_C: Tensor
    """Geometric mean of each completion."""
    masked_N: Tensor
    """Outside one of the objective's masks."""


@dataclass(frozen=True)
class Seen:
    """What the loss of a micro-batch is made of, token by token."""

    logprob_N: Tensor
    """The student's, under the distribution that was sampled from (for `sft` at temperature 1); carries a gradient."""
    divergence_N: Tensor
    """From the teacher; carries a gradient. NaN where the objective asks for none."""
    found: Ratios
    advantage_N: Tensor
    """From `Rule.advantages`."""
    weight_N: Tensor
    """From `token_weights`; 0 where a mask of the ratios covers the token."""
    reference_logprob_N: Tensor | None
    """The teacher's, or the base's for `grpo`; of the same temperature."""


@dataclass(frozen=True)
class Rule(ABC, Generic[S]):
    """An objective at work."""

    settings: S

    @abstractmethod
    def loss(self, seen: Seen) -> Tensor:
        """The loss of a micro-batch: a sum over its tokens, since the weights of all micro-batches sum to 1."""

    def asks(self, temperature: float) -> Divergence | None:
        """The divergence from the teacher that is trained beside or instead of the sampled tokens; None where there is none.

        Args:
            temperature: Of the policy.
        """
        del temperature
        return None

    @property
    def policy(self) -> bool:
        """Whether the sampled tokens' log-probabilities are trained or make ratios."""
        return True

    def rewards(self, score_C: Tensor, lengths_C: Tensor, horizon: int) -> Tensor:
        """The task reward of completions of these scores and lengths, [C]."""
        del lengths_C, horizon
        return score_C

    def trained(self, score_C: Tensor, equal_C: Tensor) -> Tensor:
        """Completions that count, [C]; `equal_C` says which groups score the same throughout."""
        del equal_C
        return torch.ones(len(score_C), dtype=torch.bool)

    def advantages(
        self, batch: Completions, teacher_logprob_N: Tensor | None, baseline: float
    ) -> tuple[Tensor, float]:
        """The advantage of each token, as far as it does not depend on the training forward.

        Args:
            batch: What was sampled.
            teacher_logprob_N: The teacher's log-probability of each token, at the temperature of `old_logprob_N`; only
                `token_kl` and `sequence_kl` need it.
            baseline: Running mean of earlier steps' advantages, for `token_kl` with `centre = "running"`.

        Returns:
            Advantages [N], float32, and the new running mean.
        """
        del teacher_logprob_N
        return self.task_advantage(batch)[batch.owner_N], baseline

    def reverse_kl(self, stats: TokenStats, reference_logprob_N: Tensor | None) -> Tensor:
        """KL(student || teacher) of each token, [N], for the step's log.

        That of the whole distributions where the objective reads them, else `k3` of the sampled token.
        """
        if self.asks(1.0) is not None or reference_logprob_N is None:
            return stats.reverse_kl_N
        return k3(stats.policy_logprob_N, reference_logprob_N)

    def task_advantage(self, batch: Completions) -> Tensor:
        """`adv_tau` times the reward's advantage, [C]."""
        own = self.settings
        return own.adv_tau * reward_advantage(batch.reward_C, batch.groups_C, own.reward_std)

    def ratio(self, ratio_N: Tensor, sums_C: Tensor, owner_N: Tensor) -> Tensor:
        """Ratios as the objective uses them, of those of the tokens and the log-ratios' sums; before they are capped."""
        del sums_C, owner_N
        return ratio_N

    def ratios(
        self, logprob_N: Tensor, old_logprob_N: Tensor, owner_N: Tensor, by_student_N: Tensor
    ) -> Ratios:
        """Ratios of a micro-batch of whole completions; `owner_N` counts its completions from 0.

        Both log-probabilities are of one temperature.
        """
        own = self.settings
        log_N = (logprob_N.detach().float() - old_logprob_N).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        # The student drew none of the teacher's tokens, so that there is no probability of its own to correct for.
        log_N = torch.where(by_student_N, log_N, 0.0)
        count = int(owner_N.max()) + 1
        sums_C = sums(log_N, owner_N, count)
        lengths_C = torch.bincount(owner_N, minlength=count)
        geo_C, ratio_N = (sums_C / lengths_C).exp(), log_N.exp()
        masked_N = torch.zeros_like(by_student_N)
        if own.token_mask is not None:
            masked_N |= _outside(ratio_N, own.token_mask)
        if own.geo_mask is not None:
            masked_N |= _outside(geo_C, own.geo_mask)[owner_N]
        if own.sequence_mask is not None:
            odd_N = _outside(ratio_N, own.sequence_mask).float()
            masked_N |= (sums(odd_N, owner_N, count) > 0)[owner_N]
        ratio_N = self.ratio(ratio_N, sums_C, owner_N)
        if own.ratio_cap is not None:
            ratio_N = ratio_N.clamp(max=own.ratio_cap)
        return Ratios(log_N, ratio_N, geo_C, masked_N)


def sums(value_N: Tensor, owner_N: Tensor, count: int) -> Tensor:
    """The sum over the values of each of `count` owners; [count]."""
    return value_N.new_zeros(count).index_add_(0, owner_N, value_N)


def group_mean(value_C: Tensor, groups_C: Tensor) -> Tensor:
    """The mean of each completion's group, [C]."""
    count = int(groups_C.max()) + 1
    return (sums(value_C, groups_C, count) / sums(torch.ones_like(value_C), groups_C, count))[groups_C]


def reward_advantage(reward_C: Tensor, groups_C: Tensor, std: bool) -> Tensor:
    """Reward minus its group's mean, over the group's standard deviation (n - 1) plus 1e-4 if `std`; [C]. (GRPO)"""
    centred_C = reward_C - group_mean(reward_C, groups_C)
    if not std:
        return centred_C
    sizes_C = torch.bincount(groups_C)[groups_C]
    variance_C = group_mean(centred_C**2, groups_C) * sizes_C / (sizes_C - 1).clamp(min=1)
    # 1e-4 and n - 1 as in TRL's GRPOTrainer: a group of equal rewards gives 0, not 0 / 0.
    return centred_C / (variance_C.sqrt() + 1e-4)


def token_weights(objective: Objective, batch: Completions, trained_C: Tensor) -> Tensor:
    """How much each token counts: they sum to 1, over all completions of an optimiser step; [N] float32.

    Not counted are completions outside `trained_C`, cut ones under `truncated = "mask"`, and the first
    `skip_tokens` of each.
    """
    if objective.truncated == "mask":
        trained_C = trained_C & ~batch.truncated_C
    counted_N = (trained_C[batch.owner_N] & (batch.place_N >= objective.skip_tokens)).float()
    if objective.normalise == "token":
        return counted_N / counted_N.sum().clamp(min=1)
    sizes_C = sums(counted_N, batch.owner_N, len(batch.lengths_C))
    # The mean is over completions that count for something: those that are masked whole do not thin it out.
    return counted_N / sizes_C.clamp(min=1)[batch.owner_N] / (sizes_C > 0).sum().clamp(min=1)


def _outside(value: Tensor, bounds: tuple[float, float]) -> Tensor:
    return (value < bounds[0]) | (value > bounds[1])


def k3(logprob_N: Tensor, other_logprob_N: Tensor) -> Tensor:
    """exp(o - s) - (o - s) - 1 >= 0: its mean over the student's own tokens estimates KL(student || other); [N].

    The gap counts as at most 20 nats; a token beyond has no gradient.
    """
    gap_N = (other_logprob_N - logprob_N).clamp(max=LOG_RATIO_LIMIT)
    return torch.expm1(gap_N) - gap_N
