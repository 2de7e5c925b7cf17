"""The check of what generates: does it compute what training computes, with the same adapter?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gepa_loop.errors import ModelError
from gepa_loop.low_rank import Twin
from gepa_loop.sampling.base import Completion, Sampler, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.lora import Adapter
    from gepa_loop.models import Base

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
"""An adapter that changes next to nothing is as near to the base by chance; it must not end a run."""


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

    def check(self, completions: Sequence[Completion], adapter: Adapter | None, engine: str) -> Mismatch:
        """How far an engine is from the model with this adapter.

        Two things are wrong: log-probabilities that differ by more than is allowed in the mean, and ones that are nearer to the
        model without the adapter than to the model with it. The second finds an adapter that is missing or another one's where
        rounding is as large as what it changes; it counts where it holds by `CERTAIN` standard errors over the tokens.

        Args:
            completions: The engine's, of `prompts` by `SAMPLING` and `seeds`.
            adapter: What the engine should have computed with.
            engine: Its name for the message.

        Raises:
            ModelError: It computes something else, or what is no number.
        """
        theirs_N = torch.tensor([logprob for c in completions for logprob in c.logprobs])
        with_N, without_N = self._logprobs(completions, adapter), self._logprobs(completions, None)
        apart_N = (with_N - theirs_N).abs()
        found = Mismatch(float(apart_N.mean()), float((with_N - without_N).abs().mean()))
        if math.isnan(found.nats) or found.nats > self.allowed:
            raise ModelError(
                f"{engine}'s log-probabilities differ from the trained model's by {found.nats:.2g} nats in the mean over "
                f"{len(theirs_N)} tokens; sampling.canary allows {self.allowed:.2g}",
                "It computes with other weights or another precision than training does. Use another sampling.engine, or raise "
                "sampling.canary if you know why.",
            )
        nearer_N = apart_N - (without_N - theirs_N).abs()
        if float(nearer_N.mean()) > CERTAIN * float(nearer_N.std()) / len(nearer_N) ** 0.5:
            raise ModelError(
                f"{engine}'s log-probabilities are nearer to the model without the adapter than to the model with it, by "
                f"{float(nearer_N.mean()):.2g} nats in the mean over {len(theirs_N)} tokens",
                "It computes without the adapter, or with another one. Use another sampling.engine.",
            )
        return found

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


def check_sampler(
    base: Base, sampler: Sampler, adapter: Adapter | None, allowed: float | None, engine: str
) -> Mismatch:
    """Let a sampler complete the canary's prompts with an adapter, which it is left with.

    Args:
        base: The model, which carries no adapters at this moment.
        sampler: What generates.
        adapter: The whole student's; None is the base alone.
        allowed: As for `Canary`.
        engine: The sampler's name for the message.

    Raises:
        ModelError: It computes something else than the model with this adapter does.
    """
    canary = Canary(base, allowed)
    sampler.set_student(adapter)
    completions = sampler.generate(canary.prompts, SAMPLING, canary.seeds)
    return canary.check(completions, adapter, engine)
