"""Why a proposed text cannot become a candidate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from gepa_loop.config.search import OptimizeConfig
from gepa_loop.errors import PromptError
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import SPLITS, Item
from gepa_loop.task.prompts import candidate

SHORTEST = 4
"""Items of fewer words are not looked for: any prompt may hold them by chance."""

CUT, UNREAD = "cut", "unreadable"
"""What a refusal begins with where the reply held no whole instruction."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class CopyGuard:
    """Finds single items in a prompt: one that holds the answers is judged by what it has seen.

    What tells an item are its n-grams of `size` words that no other item has, so that the words of a template may be
    quoted; an item is copied when a prompt has half of them, and at least `size` where there are so many.

    Args:
        items: Those that a prompt must not hold.
        size: Words and signs in a row.
        allowed: Texts that may be quoted: the seed prompt, and what worked examples show.
    """

    items: Sequence[Item]
    size: int
    allowed: Sequence[str] = ()
    _own: dict[str, set[Words]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {item.id: _grams(_words(item.question), self.size) for item in self.items}
        shared = Counter(gram for grams in found.values() for gram in grams)
        sizes = {len(gram) for gram in shared}
        quoted = {gram for text in self.allowed for gram in _of_sizes(_words(text), sizes)}
        own = {id_: {g for g in grams - quoted if shared[g] == 1} for id_, grams in found.items()}
        object.__setattr__(self, "_own", own)

    def copied(self, text: str) -> str | None:
        """The id of the first item that a text copies, or None."""
        held = _of_sizes(_words(text), {len(gram) for grams in self._own.values() for gram in grams})
        return next(
            (id_ for id_, own in self._own.items() if own and len(own & held) >= self._least(own)), None
        )

    def _least(self, own: Collection[Words]) -> int:
        return max(min(len(own), self.size), (len(own) + 1) // 2)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _of_sizes(words: Sequence[str], sizes: Collection[int]) -> set[Words]:
    return {gram for size in sizes for gram in _windows(words, size)}


def _windows(words: Sequence[str], size: int) -> Iterable[Words]:
    return (tuple(words[n : n + size]) for n in range(len(words) - size + 1))


def _grams(words: Sequence[str], size: int) -> set[Words]:
    return set(_windows(words, min(size, len(words)))) if len(words) >= SHORTEST else set()


@dataclass(frozen=True)
class Rules:
    """What a proposal must be. `fits` says why it cannot be read with the items, or None."""

    max_tokens: int
    guard: CopyGuard
    fits: Callable[[str], str | None]

    def refusal(self, text: str, tokens: int, known: Collection[str], cut: bool) -> str | None:
        """Why a normalised text cannot become a candidate, or None when it can.

        Args:
            text: The proposed prompt.
            tokens: Its length.
            known: Texts that are candidates already or were refused before.
            cut: The reply that it was read from ended at its token limit.
        """
        if cut:
            return f"{CUT}: the reply ended at optimize.reflection.max_tokens, so the text may be a part"
        if not text:
            return f"{UNREAD}: no instruction was found in the reply"
        try:
            candidate(text, "the reply")
        except PromptError as error:
            return f"unusable: {error}"
        if text in known:
            return "unchanged: the same text was proposed before"
        if tokens > self.max_tokens:
            return f"over-long: {tokens} tokens, optimize.max_prompt_tokens is {self.max_tokens}"
        if (found := self.guard.copied(text)) is not None:
            return f"copies item {found}"
        return self.fits(text)


def rules_of(
    settings: OptimizeConfig, rollouts: Rollouts, max_tokens: int, shown: Sequence[Item], seed_prompt: str
) -> Rules:
    """What a proposal of a search must keep to.

    Args:
        settings: `max_prompt_tokens` and `max_copied`.
        rollouts: The task, whose items it must not hold, and how prompts are read.
        max_tokens: Longest completion.
        shown: Items that worked examples show, which it may quote.
        seed_prompt: What it may quote, whatever that holds.
    """
    splits, renderer = rollouts.task.splits, rollouts.renderer
    items = [item for name in SPLITS for item in splits[name] if item not in shown]
    longest = renderer.longest(items)

    def fits(text: str) -> str | None:
        try:
            renderer.check(text, [longest], max_tokens, "unusable")
        except PromptError as error:
            return str(error)
        return None

    quoted = (seed_prompt, *(item.question for item in shown))
    return Rules(settings.max_prompt_tokens, CopyGuard(items, settings.max_copied, quoted), fits)
