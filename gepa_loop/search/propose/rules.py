"""Rules that write the next prompt without a model: edits that mend the kind of failure they see."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gepa_loop.config.search import PromptSection
from gepa_loop.run.seeds import derive_seed
from gepa_loop.search.propose.base import OFFLINE, Example, Proposal
from gepa_loop.task.items import Item


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
        adds = "adds worked examples and " if self._examples else ""
        none = f"; this task has no optimize.reflection.sections, so it {adds}rearranges paragraphs only"
        return text if self.sections else text + none

    @property
    def parallel(self) -> int:
        """One after the other, so that none draws what another has drawn."""
        return 1

    def propose(
        self, parent: str, examples: Sequence[Example], number: int, known: Collection[str]
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

    def quote(self, parent: str, examples: Sequence[Example]) -> None:
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
        # Those that a user's own prompt has, in whatever form, do not count.
        held = _spaced("\n\n".join(paragraphs))
        if self._examples and not any(_spaced(one) in held for one in self._examples):
            chosen = rng.sample(self._examples, min(rng.randint(1, self.max_examples), len(self._examples)))
            how = f"add {len(chosen)} worked example{'s' * (len(chosen) != 1)}"
            edits.append((how, "\n\n".join([*paragraphs, *chosen])))
        return edits or [("nothing left to edit", "\n\n".join(paragraphs))]

    @property
    def _examples(self) -> list[str]:
        """The worked examples that it may add."""
        if not self.max_examples:
            return []
        return [f"Example: {item.question}\nAnswer: {item.answer}" for item in self.shown]


def _spaced(text: str) -> str:
    """With one space for each white space: a prompt is normalised before it is a parent, and a question may hold tabs."""
    return " ".join(text.split())
