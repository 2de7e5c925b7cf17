"""What a search asks of whoever writes its prompts.

All read the same reflective dataset (inputs, outputs, feedback) and return a text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

OFFLINE = "offline"


class Question(TypedDict):
    """What a program was asked."""

    question: str


class Answer(TypedDict):
    """What it said."""

    answer: str


Example = TypedDict(
    "Example",
    {
        "Inputs": Question,
        "Generated Outputs": Answer,
        "Feedback": str,
        "Failure": NotRequired[str | None],
    },
)
"""One item of the reflective dataset, in DSPy's form. `Failure` is what went wrong (see `feedback.failure_of`), for the offline
proposer."""


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

    @property
    def parallel(self) -> int:
        """Most calls of `propose` at a time; 1 where it looks at what is `known`, to which each call adds."""
        ...

    def propose(
        self, parent: str, examples: Sequence[Example], number: int, known: Collection[str]
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

    def quote(self, parent: str, examples: Sequence[Example]) -> Quote | None:
        """The dearest that `propose` of the same may be; None where it costs nothing."""
        ...


def without_kinds(examples: Sequence[Example]) -> list[Example]:
    """What the model reads of the examples: the kind of failure is for the offline proposer."""
    return [
        {
            "Inputs": example["Inputs"],
            "Generated Outputs": example["Generated Outputs"],
            "Feedback": example["Feedback"],
        }
        for example in examples
    ]
