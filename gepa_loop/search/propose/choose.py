"""Who writes the prompts of a search."""

from __future__ import annotations

from gepa_loop.config.search import ReflectionConfig
from gepa_loop.search.propose.base import OFFLINE, Proposer
from gepa_loop.search.propose.rules import OfflineProposer
from gepa_loop.task.items import Item


def make_proposer(
    config: ReflectionConfig, model: str, shown: tuple[Item, ...], max_prompt_tokens: int, seed: int
) -> Proposer:
    """The proposer that a config asks for.

    Args:
        config: `optimize.reflection`.
        model: `offline`, or a litellm model string.
        shown: Items whose questions and answers may be shown as worked examples.
        max_prompt_tokens: Longest prompt that is wanted.
        seed: The search's seed.
    """
    if model == OFFLINE:
        return OfflineProposer(config.sections, config.examples, shown, seed)
    from gepa_loop.search.propose.model import LMProposer

    return LMProposer(model, config, max_prompt_tokens)
