"""What a search asks of whoever writes its prompts.

All read the same reflective dataset (inputs, outputs, feedback) and return a text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OFFLINE = "offline"


@dataclass(frozen=True)
class Proposal:
    """A proposed text, what it cost, and how it was made."""

    text: str
    usd: float
    how: str
    cut: bool = False
    """The reply ended at its token limit."""
    failed: str | None = None
    """Why this call gave nothing, in words: the model refused, or what it wrote is no reply."""
    reply: str = ""
    """What a model wrote, at a length that can be kept."""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Quote:
    """The dearest that one proposal may be, short of a retry after a timeout that the provider bills."""

    input_tokens: int
    output_tokens: int
    """The reply's cap, thinking included."""
    usd: float | None
    """None when litellm knows no price of the model."""


class Proposer(Protocol):
    """Writes a new prompt from a parent and examples of how it fared."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What it is, for a person."""
        ...

    def propose(
        self, parent: str, examples: Sequence[Mapping[str, Any]], number: int, known: Collection[str]
    ) -> Proposal:
        """The `number`-th proposal of the search, from the parent's reflective dataset; not one of the `known` texts.

        Raises:
            ProviderError: The model refused the key or the request, or does not exist.
            CallFailed: This call failed after all its retries.
        """
        ...

    def check(self) -> None:
        """Find out, before anything is spent, whether it can be asked.

        Raises:
            ProviderError: It cannot.
        """
        ...

    def quote(self, parent: str, examples: Sequence[Mapping[str, Any]]) -> Quote | None:
        """The dearest that `propose` of the same may be; None where it costs nothing."""
        ...


def without_kinds(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model reads of the examples: the kind of failure is for the offline proposer."""
    return [{key: value for key, value in example.items() if key != "Failure"} for example in examples]
