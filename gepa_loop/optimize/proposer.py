"""Who writes the next prompt: a reflection model through litellm, or rules that need no model.

Both read the same reflective dataset (inputs, outputs, feedback) and return a text; `refusal` says why a text
cannot become a candidate.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gepa_loop.errors import ReflectionError
from gepa_loop.runs import derive_seed
from gepa_loop.schema import PromptSection, ReflectionConfig
from gepa_loop.task import Item

EXCERPT_CHARS = 600
"""Longest completion that the reflection model reads, head and tail together."""

RETRIES = 5
"""Times a call is repeated after a transient failure, with growing pauses."""

OFFLINE = "offline"


@dataclass(frozen=True)
class Proposal:
    """A proposed text, what it cost, and how it was made."""

    text: str
    usd: float
    how: str


class Proposer(Protocol):
    """Writes a new prompt from a parent and examples of how it fared."""

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str:
        """What it is, for a person."""
        ...

    def propose(self, parent: str, examples: Sequence[Mapping[str, Any]], number: int) -> Proposal:
        """The `number`-th proposal of the search, from the parent's reflective dataset.

        Raises:
            ReflectionError: The model refused the key, could not be reached or failed for good.
        """
        ...


def excerpt(text: str, limit: int = EXCERPT_CHARS) -> str:
    """The head and tail of a long text, with the number of characters left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def refusal(text: str, known: Collection[str], tokens: Callable[[str], int], max_tokens: int) -> str | None:
    """Why a normalised text cannot become a candidate, or None when it can.

    Args:
        text: The proposed prompt.
        known: Texts that are candidates already or were refused before.
        tokens: Counts tokens of a text.
        max_tokens: Most tokens of a prompt.
    """
    if not text:
        return "empty"
    if text in known:
        return "unchanged: the same text was proposed before"
    count = tokens(text)
    if count > max_tokens:
        return f"over-long: {count} tokens, optimize.max_prompt_tokens is {max_tokens}"
    return None


@dataclass(frozen=True)
class OfflineProposer:
    """Edits prompts by rules from the failures it sees: an honest search baseline, not a language model.

    A prompt is seen as paragraphs. The commonest failure of the examples (no readable answer, a cut completion,
    a wrong answer) makes texts that mend it likelier; one edit is drawn: add a section, drop one, swap two,
    replace one by a shorter one of the same kind, or add worked examples of `train` items that are not in the
    minibatch. The draw depends on the seed and the proposal's number alone.
    """

    sections: tuple[PromptSection, ...]
    max_examples: int
    train: tuple[Item, ...]
    seed: int
    name: str = OFFLINE
    about: str = "offline: edits by rules from the failures it sees, no language model"

    def propose(self, parent: str, examples: Sequence[Mapping[str, Any]], number: int) -> Proposal:
        rng = random.Random(derive_seed(self.seed, "offline", number))
        paragraphs = parent.split("\n\n")
        failures = [str(e["Failure"]) for e in examples if e["Failure"]]
        wanted = rng.choice(failures) if failures else rng.choice(["content", "format", "cut"])
        edits = self._edits(paragraphs, wanted, {str(e["Inputs"]["question"]) for e in examples}, rng)
        how, text = rng.choice(edits)
        return Proposal(text, 0.0, how)

    def _edits(
        self, paragraphs: list[str], wanted: str, asked: Collection[str], rng: random.Random
    ) -> list[tuple[str, str]]:
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
        fresh = [item for item in self.train if item.question not in asked]
        if self.max_examples and fresh and not any(p.startswith("Example") for p in paragraphs):
            chosen = rng.sample(fresh, min(rng.randint(1, self.max_examples), len(fresh)))
            shown = [f"Example: {item.question}\nAnswer: {item.answer}" for item in chosen]
            edits.append((f"add {len(shown)} worked examples", "\n\n".join([*paragraphs, *shown])))
        return edits or [("nothing left to edit", "\n\n".join(paragraphs))]


@dataclass(frozen=True)
class LMProposer:
    """DSPy's instruction proposer with any model that litellm reaches; keys come from the environment."""

    model: str
    max_tokens: int

    @property
    def name(self) -> str:
        return self.model

    @property
    def about(self) -> str:
        return self.model

    def propose(self, parent: str, examples: Sequence[Mapping[str, Any]], number: int) -> Proposal:
        # Prices come from the package; otherwise litellm and dspy each fetch a list from GitHub first.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import dspy
        from dspy.teleprompt.gepa.instruction_proposal import InstructionProposer
        from dspy.utils.exceptions import AdapterParseError, LMAuthError, LMError, LMNotConfiguredError

        from gepa_loop.optimize.adapter import COMPONENT

        lm = dspy.LM(
            self.model,
            max_tokens=self.max_tokens,
            temperature=1.0,
            cache=False,
            num_retries=RETRIES,
            engine="litellm",
        )
        shown = [{k: v for k, v in e.items() if k != "Failure"} for e in examples]
        try:
            with dspy.context(lm=lm):
                texts = InstructionProposer()({COMPONENT: parent}, {COMPONENT: shown}, [COMPONENT])
        except AdapterParseError:
            return Proposal("", _cost(lm), f"{self.model} gave no instruction")
        except LMError as error:
            # Not the provider's own words: they may repeat a part of the key.
            no_key = isinstance(error, LMAuthError | LMNotConfiguredError)
            why = "its API key is missing or refused" if no_key else type(error).__name__
            raise ReflectionError(
                f"optimize.reflection.model = {self.model!r}, proposal {number}: {why}",
                "Check the model's name, its API key in the environment and the network; "
                "or use --set optimize.reflection.model=offline.",
            ) from error
        return Proposal(texts[COMPONENT], _cost(lm), f"reflection by {self.model}")


def _cost(lm: Any) -> float:
    return sum(call.get("cost") or 0.0 for call in lm.history)


def make_proposer(config: ReflectionConfig, train: tuple[Item, ...], seed: int, has_key: bool) -> Proposer:
    """The proposer that a config asks for.

    Args:
        config: `optimize.reflection`.
        train: Items whose questions and answers may be shown as worked examples.
        seed: The search's seed.
        has_key: Whether ANTHROPIC_API_KEY is set; decides what `auto` means.
    """
    model = config.model
    if model == "auto":
        model = config.auto_model if has_key else OFFLINE
    if model == OFFLINE:
        return OfflineProposer(config.sections, config.examples, train, seed)
    return LMProposer(model, config.max_tokens)
