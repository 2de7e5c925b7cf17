"""Who writes the next prompt: a reflection model (`reflection`), or rules that need no model.

Both read the same reflective dataset (inputs, outputs, feedback) and return a text.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gepa_loop.runs import derive_seed
from gepa_loop.schema import PromptSection, ReflectionConfig
from gepa_loop.task import Item

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


@dataclass(frozen=True)
class OfflineProposer:
    """Edits prompts by rules from the failures it sees: an honest search baseline, not a language model.

    A prompt is seen as paragraphs. The commonest failure of the examples (no readable answer, a cut completion,
    a wrong answer) makes texts that mend it likelier; one edit is drawn: add a section, drop one, swap two,
    replace one by a shorter one of the same kind, or add worked examples of items that the search does not score.
    Texts that are known already are not drawn. Otherwise the draw depends on the seed and the proposal's number alone.
    """

    sections: tuple[PromptSection, ...]
    max_examples: int
    shown: tuple[Item, ...]
    """What worked examples are made of."""
    seed: int
    name: str = OFFLINE

    @property
    def about(self) -> str:
        text = "offline: edits by rules from the failures it sees, no language model"
        none = "; this task has no optimize.reflection.sections, so it adds worked examples and rearranges paragraphs only"
        return text if self.sections else text + none

    def propose(
        self, parent: str, examples: Sequence[Mapping[str, Any]], number: int, known: Collection[str]
    ) -> Proposal:
        rng = random.Random(derive_seed(self.seed, "offline", number))
        paragraphs = parent.split("\n\n")
        failures = [str(e["Failure"]) for e in examples if e["Failure"]]
        wanted = rng.choice(failures) if failures else rng.choice(["content", "format", "cut"])
        edits = self._edits(paragraphs, wanted, rng)
        edits = [edit for edit in edits if edit[1] not in known] or edits
        how, text = rng.choice(edits)
        return Proposal(text, 0.0, how)

    def check(self) -> None:
        """There is nothing that could be missing."""

    def quote(self, parent: str, examples: Sequence[Mapping[str, Any]]) -> None:
        """It costs nothing."""

    def _edits(self, paragraphs: list[str], wanted: str, rng: random.Random) -> list[tuple[str, str]]:
        """The edits to draw from, as (what it does, text); adding what mends the failure counts three times."""
        known = {section.text.strip(): section.mends for section in self.sections}
        missing = [section for section in self.sections if section.text.strip() not in paragraphs]
        edits: list[tuple[str, str]] = []
        for section in missing:
            place = len(paragraphs) if section.mends != "content" else rng.randint(0, len(paragraphs))
            added = [*paragraphs[:place], section.text.strip(), *paragraphs[place:]]
            weight = 3 if section.mends == wanted else 1
            edits += [(f"add a section against {section.mends} failures", "\n\n".join(added))] * weight
            rivals = [n for n, p in enumerate(paragraphs) if known.get(p) == section.mends]
            for n in rivals:
                swapped = [*paragraphs[:n], section.text.strip(), *paragraphs[n + 1 :]]
                edits.append((f"replace a section against {section.mends} failures", "\n\n".join(swapped)))
        if len(paragraphs) > 1:
            n = rng.randrange(len(paragraphs))
            edits.append(("drop a paragraph", "\n\n".join([*paragraphs[:n], *paragraphs[n + 1 :]])))
            a, b = sorted(rng.sample(range(len(paragraphs)), 2))
            moved = list(paragraphs)
            moved[a], moved[b] = moved[b], moved[a]
            edits.append(("swap two paragraphs", "\n\n".join(moved)))
        if self.max_examples and self.shown and not any(p.startswith("Example") for p in paragraphs):
            chosen = rng.sample(self.shown, min(rng.randint(1, self.max_examples), len(self.shown)))
            lines = [f"Example: {item.question}\nAnswer: {item.answer}" for item in chosen]
            edits.append((f"add {len(lines)} worked examples", "\n\n".join([*paragraphs, *lines])))
        return edits or [("nothing left to edit", "\n\n".join(paragraphs))]


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
    from gepa_loop.optimize.reflection import LMProposer

    return LMProposer(model, config, max_prompt_tokens)


def without_kinds(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model reads of the examples: the kind of failure is for the offline proposer."""
    return [{key: value for key, value in example.items() if key != "Failure"} for example in examples]
