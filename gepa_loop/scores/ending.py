"""Whether a loop goes on after a round that found nothing. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """What a round without a winner has tried."""

    reads_prompt: bool
    """Its students depend on their prompts."""
    helped: bool
    """A prompt helped, so that there was a student."""
    exhausted: str | None
    """How its search ended, where nothing better or new came any more; None where a budget ended it."""
    prompts: Set[str]
    """Those that its search handed on."""
    before: Set[str]
    """Those of the rounds before it on the same model."""


def nothing_new(tried: Attempt) -> str | None:
    """Why another round would have nothing new to try, in words; None where it has.

    A round without a winner leaves the model as it was. Another one has further items and other random numbers, but with them
    alone the same prompts would be tested until luck makes one win. New to try are other prompts: a search that a budget
    ended, and whose prompts did something, may find some with other minibatches and proposals. One that found nothing
    better or new any more, or no prompt that helps, would only begin again with the same prompt on the same model. And where a
    further round has handed on nothing but prompts of the rounds before it, no others are to be expected.
    """
    if not tried.reads_prompt:
        return "the objective reads no prompt, so another student would differ by its items and random numbers alone"
    if not tried.helped:
        return "none of its prompts helped by more than loop.min_gap, so that nothing was distilled, and another search would begin where it began"
    if tried.exhausted is not None:
        return f"its search was stopped by {tried.exhausted}, and another one would begin where it began"
    if tried.prompts <= tried.before:
        return "all of its prompts had been tried on this model by the rounds before it"
    return None
