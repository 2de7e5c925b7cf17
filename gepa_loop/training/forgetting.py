"""What a distillation changes beside its task: on texts that have nothing to do with it, and on a control task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from gepa_loop.model.lora.low_rank import Twin
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import mean_score
from gepa_loop.task.prompts import NO_PROMPT
from gepa_loop.training.records import ControlRecord

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.lab import Lab
    from gepa_loop.model.base import Base
    from gepa_loop.model.lora.adapter import Adapter

NEUTRAL = (
    "A glacier is a body of ice that moves under its own weight. It forms where more snow falls in winter than melts in summer, "
    "year after year, until the lower layers are pressed into ice. Most of the fresh water on Earth is held in glaciers.",
    "The old harbour was quiet that morning. Two men sat on the wall and mended a net, and neither of them looked up when the "
    "ferry came in. A dog ran along the quay, stopped at the bakery, and waited for the door to open.",
    "def moving_average(values, window):\n    total = sum(values[:window])\n    result = [total / window]\n    for i in "
    "range(window, len(values)):\n        total += values[i] - values[i - window]\n        result.append(total / window)\n    return result\n",
    "To make a simple soup, cut two onions and three carrots into small pieces and fry them slowly in a little oil. Add a litre of "
    "water, a handful of lentils and some salt, and let it cook for half an hour.",
    "Let n be an even number. Then n = 2k for some integer k, and so the square of n is 4k^2, which is twice 2k^2 and therefore "
    "even as well. The same argument shows that the product of an even number with any integer is even.",
    "Die Bibliothek liegt am Rand des Parks. Im Erdgeschoss stehen die Zeitungen, darüber die Romane, und unter dem Dach gibt es "
    "einen Saal, in dem am Abend gelesen wird. Im Sommer bleiben die Fenster offen.",
    "Question: Why does the moon have phases?\nAnswer: The sun always lights one half of the moon. As the moon goes around the "
    "Earth in about a month, we see more or less of that half, from a thin crescent to the full disc.",
    "The committee met on Tuesday and agreed on three points. First, the bridge will be repaired before winter. Second, the school "
    "gets a new roof next year. Third, the question of parking is put off until the spring.",
)
"""Prose, code, a recipe, a proof, another language, a question: written for this purpose."""


@torch.inference_mode()
def forgetting(base: Base, adapter: Adapter, below: Adapter | None) -> float:
    """KL(model || student) on `NEUTRAL` in nats, mean over tokens, over the whole vocabulary at temperature 1.

    Args:
        base: The model, which carries no adapters at this moment.
        adapter: The whole student's.
        below: What the student stands on: the adapter of the earlier rounds.
    """
    # The task does not show it: at lr 2e-3 two students kept their prompt's effect (.996 and 1.038 of it) and were 2.1 nats
    # away here, at 3e-4 .09 (benchmarks/NOTES.md).
    twin, kl = Twin(base.model), []
    for text in NEUTRAL:
        ids_1T = torch.tensor([base.tokenizer(text)["input_ids"]], device=base.device)
        before_TV, after_TV = (_logprobs(twin, one, ids_1T) for one in (below, adapter))
        kl.append((before_TV.exp() * (before_TV - after_TV)).sum(-1))
    return float(torch.cat(kl).mean())


@dataclass(frozen=True)
class Control:
    """Mean scores on the control task's `pareto` items, as `evaluate` says, without a prompt."""

    before: float
    """Of the model that the student stands on."""
    after: float
    """Of the student."""

    @property
    def loss(self) -> float:
        """The difference, without the rounding of floats: .8 to .7 is .1 and no more."""
        return round(self.before - self.after, 9)

    def as_dict(self) -> ControlRecord:
        return {"before": self.before, "after": self.after}

    def __str__(self) -> str:
        return f"control task: {self.before:.3f} before, {self.after:.3f} by the student"


def control_scores(lab: Lab, adapter: Adapter, below: Adapter | None) -> Control | None:
    """What a distillation costs on `distill.control`; None without one.

    Args:
        lab: From `Lab.for_training`.
        adapter: The whole student's.
        below: What the student stands on.
    """
    if lab.control is None:
        return None
    rollouts, settings = replace(lab.rollouts, task=lab.control), lab.config.evaluate
    items, means = lab.control.splits["pareto"], []
    for one in (below, adapter):
        sampling = Sampling(settings.temperature, lab.config.sampling.max_tokens)
        means.append(
            mean_score(rollouts.by(one).rows(NO_PROMPT, items, settings.samples, sampling, "evaluate"))
        )
    return Control(*means)


def _logprobs(twin: Twin, adapter: Adapter | None, ids_1T: Tensor) -> Tensor:
    """Of the next token at each place, [T, V] float32."""
    twin.set_adapter(adapter)
    logits_TV: Tensor = twin.model(input_ids=ids_1T, use_cache=False).logits[0]
    return logits_TV.float().log_softmax(-1)
