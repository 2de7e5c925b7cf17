"""The check of what generates: does it compute what training computes, with the same adapter?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gepa_loop.errors import ModelError
from gepa_loop.model.lora.low_rank import Twin
from gepa_loop.sampling.base import Completion, Sampler, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.base import Base
    from gepa_loop.model.lora.adapter import Adapter

TEXTS = (
    "What is 17 + 25? Answer with a number.",
    "Write one sentence about the sea.",
    "def area(radius):\n    return",
    "Die Hauptstadt von Frankreich ist",
)
SAMPLING = Sampling(1.0, 16)
"""At temperature 1, so that unlikely tokens are compared as well."""
ALLOWED = {"float32": 1e-3, "bfloat16": 0.2}
"""Nats. Measured: 1e-5 in float32 (vLLM 0.32, CPU, SmolLM2-135M). In bfloat16, where every order of summation rounds otherwise, it
is the model that decides: 0.02 to 0.03 (Qwen2.5-Coder-0.5B, H100, every engine) and 0.04 to 0.08 (SmolLM2-135M, H100 and CPU).
A wrong adapter gives 0.03 to 0.8, hence the second test of `Canary.check`."""
CERTAIN = 4.0
"""Standard errors."""


@dataclass(frozen=True)
class Mismatch:
    """How far what is sampled is from what was trained, a token; and what the adapter does, to compare it with."""

    nats: float
    effect: float

    def __str__(self) -> str:
        return (
            f"sampler and trainer differ by {self.nats:.1g} nats a token on fixed prompts, "
            f"where the adapter changes {self.effect:.1g}"
        )


class Canary:
    """A few fixed prompts whose completions are read again by the model that is trained.

    Args:
        base: The model, which carries no adapters at this moment.
        allowed: Largest mean absolute difference of the log-probabilities, in nats; None is what
            was measured for its type, and some room.
    """

    def __init__(self, base: Base, allowed: float | None) -> None:
        dtype = str(base.model.dtype).removeprefix("torch.")
        self.allowed = ALLOWED[dtype] if allowed is None else allowed
        # Training wraps the base's own modules; these stay as they are.
        self._twin = Twin(base.model)
        texts = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        self.prompts: tuple[tuple[int, ...], ...] = tuple(tuple(ids) for ids in texts)
        self.seeds = tuple(range(len(TEXTS)))

    def check(
        self,
        complete: Callable[[Sequence[int]], Sequence[Completion]],
        adapter: Adapter | None,
        rivals: Mapping[str, Adapter | None],
        engine: str,
    ) -> Mismatch:
        """How far an engine is from the model with this adapter.

        Two things are wrong: log-probabilities that differ by more than is allowed in the mean, and ones that are nearer to the
        model with a rival than to the model with the adapter. The second finds an adapter that is missing or stale where rounding
        is as large as what it changes. It must hold by `CERTAIN` standard errors over the tokens, twice: an adapter that changes
        next to nothing is nearer by chance now and then, and that must not end a run.

        Args:
            complete: Gives the engine's completions of `prompts` by `SAMPLING` and these seeds.
            adapter: What the engine should compute with.
            rivals: What it may compute with by mistake, by what a message calls it.
            engine: Its name for the message.

        Raises:
            ModelError: It computes something else, or what is no number.
        """
        completions = complete(self.seeds)
        theirs_N, with_N = _theirs(completions), self._logprobs(completions, adapter)
        effect_N = with_N - self._logprobs(completions, None) if adapter is not None else with_N * 0
        found = Mismatch(float((with_N - theirs_N).abs().mean()), float(effect_N.abs().mean()))
        if math.isnan(found.nats) or found.nats > self.allowed:
            raise ModelError(
                f"{engine}'s log-probabilities differ from the trained model's by {found.nats:.2g} nats in the mean over "
                f"{len(theirs_N)} tokens; sampling.canary allows {self.allowed:.2g}",
                "It computes with other weights or another precision than training does. Use another sampling.engine, or raise "
                "sampling.canary if you know why.",
            )
        own = None if adapter is None else adapter.fingerprint
        others = {name: one for name, one in rivals.items() if (one and one.fingerprint) != own}
        again: Sequence[Completion] | None = None
        for name, rival in others.items():
            if self._nearer(completions, adapter, rival):
                again = again or complete(tuple(seed + len(self.seeds) for seed in self.seeds))
                if self._nearer(again, adapter, rival):
                    raise ModelError(
                        f"{engine}'s log-probabilities are nearer to the model with {name} than to the model with the adapter "
                        "that it was given",
                        "It computes with what it had before. Use another sampling.engine.",
                    )
        return found

    def _nearer(
        self, completions: Sequence[Completion], adapter: Adapter | None, rival: Adapter | None
    ) -> bool:
        """Whether what sampled these is surely nearer to the model with the rival."""
        theirs_N = _theirs(completions)
        apart_N, other_N = ((self._logprobs(completions, one) - theirs_N).abs() for one in (adapter, rival))
        gap_N = apart_N - other_N
        error = float(gap_N.std()) / math.sqrt(len(gap_N))
        return float(gap_N.mean()) > CERTAIN * error

    @torch.inference_mode()
    def _logprobs(self, completions: Sequence[Completion], adapter: Adapter | None) -> Tensor:
        """The model's log-probability of each token of the completions, [N] float32 on the CPU."""
        found, model = [], self._twin.model
        self._twin.set_adapter(adapter)
        for prompt, completion in zip(self.prompts, completions, strict=True):
            count = len(completion.token_ids)
            ids_1T = torch.tensor([[*prompt, *completion.token_ids]], device=model.device)
            out = model(input_ids=ids_1T, use_cache=False, logits_to_keep=count + 1)
            logprobs_TV = out.logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs_TV.gather(-1, ids_1T[0, -count:, None])[:, 0])
        return torch.cat(found).cpu()


def _theirs(completions: Sequence[Completion]) -> Tensor:
    return torch.tensor([logprob for c in completions for logprob in c.logprobs])


def check_sampler(
    base: Base,
    sampler: Sampler,
    adapter: Adapter | None,
    below: Adapter | None,
    allowed: float | None,
    engine: str,
) -> Mismatch:
    """Let a sampler complete the canary's prompts with an adapter.

    Args:
        base: The model, which carries no adapters at this moment.
        sampler: What generates.
        adapter: The whole student's; None is the base alone.
        below: What the student stands on: the adapter of the earlier rounds.
        allowed: As for `Canary`.
        engine: The sampler's name for the message.

    Raises:
        ModelError: It computes something else than the model with this adapter does.
    """
    canary = Canary(base, allowed)

    def complete(seeds: Sequence[int]) -> Sequence[Completion]:
        return sampler.generate(canary.prompts, SAMPLING, seeds, adapter)

    rivals = {"no adapter": None} | ({} if below is None else {"the adapter of the earlier rounds": below})
    return canary.check(complete, adapter, rivals, engine)
