"""The check of an engine that keeps weights of its own: does it compute what training computes?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from gepa_loop.errors import ModelError
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.network import twin

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

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
ALLOWED = {"float32": 1e-3, "bfloat16": 0.02}
"""Nats. Measured: 1e-5 in float32 (vLLM 0.32, CPU, SmolLM2-135M) and 0.005 in bfloat16 (0.25.1, H100, random 135M); a wrong
adapter gives 0.03 to 0.8."""
ALLOWED_EMULATED = 0.2
"""In bfloat16 on a CPU, whose sums are rounded elsewhere: 0.08 was measured."""


class Canary:
    """A few fixed prompts whose completions are read again by the model that is trained.

    Args:
        base: The model, which carries no adapters at this moment.
        allowed: Largest mean absolute difference of the log-probabilities, in nats; None is what
            was measured for its type and device, and some room.
    """

    def __init__(self, base: Base, allowed: float | None) -> None:
        dtype = str(base.model.dtype).removeprefix("torch.")
        usual = ALLOWED_EMULATED if (base.device.type, dtype) == ("cpu", "bfloat16") else ALLOWED[dtype]
        self.allowed = usual if allowed is None else allowed
        # Training wraps the base's own modules; these stay as they are.
        self._model = twin(base.model)
        texts = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        self.prompts: tuple[tuple[int, ...], ...] = tuple(tuple(ids) for ids in texts)
        self.seeds = tuple(range(len(TEXTS)))

    def check(self, completions: Sequence[Completion], adapter: Adapter | None, engine: str) -> float:
        """Mean absolute difference of the engine's and the model's log-probabilities, in nats.

        Args:
            completions: The engine's, of `prompts` by `SAMPLING` and `seeds`.
            adapter: What the engine should have computed with.
            engine: Its name for the message.

        Raises:
            ModelError: The difference is larger than allowed, or no number.
        """
        theirs_N = torch.tensor([logprob for c in completions for logprob in c.logprobs])
        difference = float((self._logprobs(completions, adapter) - theirs_N).abs().mean())
        if math.isnan(difference) or difference > self.allowed:
            raise ModelError(
                f"{engine}'s log-probabilities differ from the trained model's by {difference:.2g} nats in the mean over "
                f"{len(theirs_N)} tokens; sampling.canary allows {self.allowed:.2g}",
                "It computes with other weights or another precision than training does. Use sampling.engine = 'torch', or "
                "raise sampling.canary if you know why.",
            )
        return difference

    @torch.inference_mode()
    def _logprobs(self, completions: Sequence[Completion], adapter: Adapter | None) -> Tensor:
        """The model's log-probability of each token of the completions, [N] float32 on the CPU."""
        found = []
        with _adapted(self._model, adapter):
            for prompt, completion in zip(self.prompts, completions, strict=True):
                count = len(completion.token_ids)
                ids_1T = torch.tensor([[*prompt, *completion.token_ids]], device=self._model.device)
                out = self._model(input_ids=ids_1T, use_cache=False, logits_to_keep=count + 1)
                logprobs_TV = out.logits[0, :-1].float().log_softmax(-1)
                found.append(logprobs_TV.gather(-1, ids_1T[0, -count:, None])[:, 0])
        return torch.cat(found).cpu()


@contextmanager
def _adapted(model: PreTrainedModel, adapter: Adapter | None) -> Iterator[None]:
    """Within the block the model computes W x + scale B A x as training does: nothing is merged, no weight copied."""
    hooks, scale = [], 1.0 if adapter is None else adapter.scale
    pairs = {} if adapter is None else {name: adapter.pair(name) for name in adapter.modules}
    for name, pair in pairs.items():
        a, b = (tensor.to(model.device, model.dtype) for tensor in pair)

        def add(_: Any, given: tuple[Tensor], out: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
            return out + linear(linear(given[0], a), b) * scale

        hooks.append(model.get_submodule(name).register_forward_hook(add))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
