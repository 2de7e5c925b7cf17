"""Why a proposed text cannot become a candidate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from gepa_loop.task import Item

TEMPLATE_SHARE = 0.02
"""Words that more than this share of the items have (and more than one has) are the task's own, not an item's."""

SHORTEST = 4
"""Items of fewer words are not looked for: any prompt may hold them by chance."""

Words = tuple[str, ...]


@dataclass(frozen=True)
class CopyGuard:
    """Finds single items in a prompt: one that holds the answers is judged by what it has seen.

    An item is copied when the prompt has `size` of its n-grams of `size` words, or all of them where there are fewer.
    Those that many items have do not count: a question's fixed words may be quoted.

    Args:
        items: Those that a prompt must not hold.
        size: Words and signs in a row.
    """

    items: Sequence[Item]
    size: int
    _own: dict[str, set[Words]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {item.id: _grams(_words(item.question), self.size) for item in self.items}
        shared = Counter(gram for grams in found.values() for gram in grams)
        most = max(1, int(TEMPLATE_SHARE * len(self.items)))
        own = {id_: {g for g in grams if shared[g] <= most} for id_, grams in found.items()}
        object.__setattr__(self, "_own", own)

    def copied(self, text: str) -> str | None:
        """The id of the first item that a text copies, or None."""
        words = _words(text)
        sizes = {len(gram) for grams in self._own.values() for gram in grams}
        held = {gram for size in sizes for gram in _windows(words, size)}
        return next(
            (id_ for id_, own in self._own.items() if own and len(own & held) >= min(len(own), self.size)),
            None,
        )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


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
            return "cut: the reply ended at optimize.reflection.max_tokens, so the text may be a part"
        if not text:
            return "empty"
        if text in known:
            return "unchanged: the same text was proposed before"
        if tokens > self.max_tokens:
            return f"over-long: {tokens} tokens, optimize.max_prompt_tokens is {self.max_tokens}"
        if (found := self.guard.copied(text)) is not None:
            return f"copies item {found}"
        return self.fits(text)
