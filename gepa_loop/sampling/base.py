"""The sampler's contract: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from gepa_loop.model.lora.adapter import Adapter


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn."""

    temperature: float
    """0 takes the most likely token."""
    max_tokens: int


@dataclass(frozen=True)
class Completion:
    """One completion, as the sampler's own token ids."""

    token_ids: tuple[int, ...]
    """The sampled tokens, with the stop token when there was one."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the temperature-1 distribution, in nats, float32."""
    finish_reason: FinishReason


@dataclass(frozen=True)
class Request:
    """Prompts that one student answers."""

    prompts: Sequence[Sequence[int]]
    """Token ids, none empty."""
    seeds: Sequence[int]
    """One for each prompt."""
    adapter: Adapter | None
    """What stands on the base model."""
    elsewhere: bool = False
    """Whoever asks computes meanwhile: where a sampler has several devices, it is for those that are not the asker's."""


class SelfMeasured(TypedDict, total=False):
    """What a sampler measured of itself during a step, for the step's log."""

    canary: float
    """>= 0, nats, vLLM only: mean absolute difference of sampler's and trainer's log-probabilities on the fixed prompts that check
    every new adapter, before the step's rollouts."""


class Sampler(Protocol):
    """Generates completions with the base model and at most one adapter.

    Every sampled token is a function of the weights, its prompt and its row's seed; which rows share the
    batch changes it only by rounding. What fails raises; it never becomes an empty completion.
    """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        """One completion for each prompt, in order, drawn with that row's seed.

        Args:
            prompts: Token ids, none empty.
            sampling: Temperature and length.
            seeds: One for each prompt.
            adapter: What stands on the base model; None is the base alone. Weights that the sampler holds already are not
                sent again.
        """
        ...

    def sleep(self) -> SelfMeasured:
        """A step's rollouts are drawn: give memory back to training until the next `generate`.

        Returns:
            What the sampler measured of itself meanwhile.
        """
        ...

    def close(self) -> None:
        """Give everything back but the base model; the next `generate` makes it anew."""
        ...


Waiting = Callable[[], list[Completion]]
"""Waits for completions that were asked for."""


@runtime_checkable
class Streaming(Protocol):
    """A sampler that works beside this process: what is asked ahead is answered meanwhile.

    It may hold back what was begun, for it to be shared out together with what follows, until any of it is read.
    """

    def begin(self, wanted: Request, sampling: Sampling) -> Waiting:
        """Ask for what `generate` returns; errors are raised where it is read."""
        ...

    def send(self) -> None:
        """Hold back nothing of what was begun: more comes later, if at all."""
        ...


def answers(sampler: Sampler, wanted: Request, sampling: Sampling) -> list[Completion]:
    """One completion for each row; no rows have none."""
    if not wanted.prompts:
        return []
    return sampler.generate(wanted.prompts, sampling, wanted.seeds, wanted.adapter)


def begin(sampler: Sampler, wanted: Request, sampling: Sampling) -> Waiting:
    """`answers`, read later; begun at once where the sampler is `Streaming`, else when it is read."""
    if isinstance(sampler, Streaming):
        return sampler.begin(wanted, sampling)
    return lambda: answers(sampler, wanted, sampling)
