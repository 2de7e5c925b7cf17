"""When a search ends because its reflection model does not do: it fails too often, or writes no instructions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from gepa_loop.errors import ProviderError
from gepa_loop.search.journal import Proposed
from gepa_loop.search.propose.refusal import CUT, UNREAD
from gepa_loop.search.propose.reply import shown

WINDOW = 20
"""Calls of the reflection model of which more than 5 % may not fail, over restarts."""

USELESS = 5
"""Replies in a row without a whole instruction that end a search."""


def check_calls(model: str, proposals: Sequence[Proposed]) -> None:
    """Raise where the last call is one failure too many; calls of an earlier process count like this one's.

    Args:
        model: Who was called.
        proposals: All calls up to this one, judged.

    Raises:
        ProviderError: Too many of the last calls failed, or too many in a row gave no instruction.
    """
    calls = [entry["failed"] for entry in proposals[-WINDOW:]]
    failures = [cause for cause in calls if cause]
    # Not after a call that went well: a search that is continued begins with the failures that ended it in its window.
    if calls[-1] and len(failures) > 0.05 * WINDOW:
        raise ProviderError(
            f"{len(failures)} of the last {len(calls)} calls of {model} failed; the first: {failures[0]}",
            "What was finished is saved; run the same command again to continue.",
        )
    in_a_row = list(takewhile(useless, reversed(proposals)))[::-1]
    if len(in_a_row) >= USELESS:
        raise no_instruction(model, in_a_row)


def useless(entry: Proposed) -> bool:
    """Whether a proposal's reply held no whole instruction, or there was none."""
    return bool(entry["failed"]) or str(entry["refused"]).startswith((CUT, UNREAD))


def no_instruction(model: str, entries: Sequence[Proposed]) -> ProviderError:
    """The error of a model whose replies hold no instruction."""
    first = entries[0]
    return ProviderError(
        f"{len(entries)} replies of {model} in a row held no whole instruction; "
        f"the first ({first['failed'] or first['refused']}): {shown(first['reply'])}",
        "Choose another model with optimize.reflection.model, or raise optimize.reflection.max_tokens if replies are cut. "
        "The replies are in optimize/candidates.jsonl and optimize/gepa/proposals.jsonl.",
    )
