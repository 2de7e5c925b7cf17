"""Where the prompts of a search came from: each below its parent, with what became of it and what it changes of the seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gepa_loop.scores.numbers import decimal, score_text
from gepa_loop.scores.results import ContenderRecord
from gepa_loop.search.records import CandidateRow
from gepa_loop.show.searches import Search
from gepa_loop.show.textdiff import line_pairs, word_spans


@dataclass(frozen=True)
class Line:
    """A line of a text that was compared with the seed's."""

    kind: Literal["same", "gone", "new", "gap"]
    parts: tuple[tuple[str, bool], ...]
    """Its text, and whether the words are those that differ."""


@dataclass(frozen=True)
class Ancestor:
    """A prompt in the tree."""

    id: str
    depth: int
    """Of the tree; the seed's is 0."""
    number: int
    status: str
    reason: str
    how: str
    tokens: int
    pareto: str
    """Its mean there; empty where it was not scored."""
    select: str
    """What its student scored there, and why there is none otherwise; empty of one that was not handed on."""
    handed_on: bool
    winner: bool
    text: str
    diff: tuple[Line, ...]
    """None of the seed."""


def family(search: Search, contenders: Sequence[ContenderRecord], winner: str | None) -> tuple[Ancestor, ...]:
    """All prompts of a search, each behind its parent, in the order in which they were made.

    Args:
        search: The search.
        contenders: Those of them that were handed on.
        winner: Whose student was chosen.
    """
    own, said = search.own, {one["id"]: one for one in contenders}
    if not own:
        return ()
    seed = search.tried[0]["text"]
    below: dict[str | None, list[CandidateRow]] = {}
    for row in own.values():
        below.setdefault(_parent(row, own), []).append(row)
    found, owed = list[Ancestor](), [(row, 0) for row in reversed(below.get(None, []))]
    while owed:
        row, depth = owed.pop()
        found.append(_ancestor(row, depth, seed, said.get(row["id"]), winner))
        owed += [(child, depth + 1) for child in reversed(below.get(row["id"], []))]
    return tuple(found)


def _parent(row: CandidateRow, own: Mapping[str, CandidateRow]) -> str | None:
    """The parent that was made last before it; None of what has none on record."""
    earlier = [id_ for id_ in row["parents"] if id_ in own and own[id_]["number"] < row["number"]]
    return max(earlier, key=lambda id_: own[id_]["number"], default=None)


def _ancestor(
    row: CandidateRow, depth: int, seed: str, said: ContenderRecord | None, winner: str | None
) -> Ancestor:
    mean = row["pareto_mean"]
    return Ancestor(
        row["id"],
        depth,
        row["number"],
        row["status"],
        row["reason"] or "",
        row["how"],
        row["tokens"],
        "" if mean is None else decimal(mean),
        _select(said),
        said is not None,
        row["id"] == winner,
        row["text"],
        tuple(diff(seed, row["text"])),
    )


def _select(said: ContenderRecord | None) -> str:
    if said is None:
        return ""
    student = said["student"]
    if student is None:
        return said["skipped"] or ""
    return f"its student {score_text(student)} on select"


def diff(old: str, new: str) -> Iterator[Line]:
    """What changed from one text to another; nothing where they are equal."""
    if old == new:
        return
    for pair in line_pairs(old.split("\n"), new.split("\n")):
        if pair is None:
            yield Line("gap", ())
            continue
        left, right, equal = pair
        if equal:
            yield Line("same", ((left or "", False),))
            continue
        spans: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
        if left is not None and right is not None:
            spans = word_spans(left, right)
        if left is not None:
            yield Line("gone", _parts(left, spans[0]))
        if right is not None:
            yield Line("new", _parts(right, spans[1]))


def _parts(line: str, spans: Sequence[tuple[int, int]]) -> tuple[tuple[str, bool], ...]:
    found, at = list[tuple[str, bool]](), 0
    for start, end in spans:
        found += [(line[at:start], False), (line[start:end], True)]
        at = end
    return tuple((text, changed) for text, changed in [*found, (line[at:], False)] if text)
