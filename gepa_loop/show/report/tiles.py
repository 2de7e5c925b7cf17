"""The numbers that a page begins with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gepa_loop.scores.card import WAYS
from gepa_loop.scores.numbers import (
    decimal,
    gain_text,
    interval_text,
    is_flat,
    items_text,
    p_sentence,
    score_text,
)
from gepa_loop.scores.records import DifferenceRecord, RatioRecord
from gepa_loop.show.report.figures import nats
from gepa_loop.show.report.read import Told


@dataclass(frozen=True)
class Tile:
    """A number that a page begins with."""

    title: str
    number: str
    range: str
    """Its interval; empty where it has none."""
    notes: tuple[str, ...]


def tiles(told: Told) -> list[Tile]:
    """The numbers, as far as they are known.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    found = list(_agreed(told) if told.agreement else _kept(told))
    gained = told.gap("student_minus_base", told.decides)
    # As costs.json has it: tokens pay for nothing where nothing may be gained.
    if gained is not None and gained["ci"][0] > 0 and told.reads_prompt:
        found.append(_saved(told))
    return found


def _kept(told: Told) -> Iterator[Tile]:
    """What the student keeps of its prompt, or else what it gains."""
    way = told.decides
    share = told.shares[way]
    if share is not None:
        theirs = told.shares[next(one for one in WAYS if one != way)]
        notes = [_measured(told, share)]
        if theirs is not None:
            notes.append(f"{next(one for one in WAYS if one != way)}: {score_text(theirs)}")
        if told.command == "loop":
            notes.append(f"of the last winner's prompt on the {told.ground}")
        yield Tile("of the prompt's effect kept", decimal(share["mean"]), _range(share), tuple(notes))
    elif (student := told.gap("student_minus_base", way)) is not None:
        note = f"{_measured(told, student)}, {p_sentence(student['p'])}"
        title = "gained over the bare model, without a prompt"
        yield Tile(title, decimal(student["mean"], "+"), _range(student, "+"), (note,))


def _agreed(told: Told) -> Iterator[Tile]:
    """How often the student gives the prompted model's greedy reply, where that one itself does; and how far it is from it."""
    own, theirs = told.card("student", "sampled"), told.card("prompted", "sampled")
    gap = told.gap("student_minus_prompted", "sampled")
    assert gap is not None, "a distillation has a student"
    if theirs["mean"]:
        notes = (
            f"sampled, {items_text(own['n'])} of test, 95 % interval",
            f"the prompted model itself: {score_text(theirs)}",
            f"student − prompted: {gain_text(gap)}, {p_sentence(gap['p'])}",
        )
        title = "of its replies are the prompted model's greedy one"
        yield Tile(title, decimal(own["mean"]), interval_text(own["ci"]), notes)
    if told.kl is not None:
        note = "KL(student || prompted) of its replies to items of pareto, which chose its step"
        yield Tile("nats a token from the prompted model", nats(told.kl), "", (note,))


def _saved(told: Told) -> Tile:
    whole, bare = told.result["tokens"]["prompt"], told.result["tokens"].get("bare", 0)
    asked, own = (told.card(key, told.decides)["tokens"] for key in ("prompted", "student"))
    system = f"system turn: {whole:,} tokens with the prompt, {bare:,} without"
    replies = f"replies: {asked:.1f} tokens with the prompt, {own:.1f} by the student"
    return Tile("tokens saved at every call", f"{told.saved:,}", "", (system, replies))


def _measured(told: Told, one: DifferenceRecord | RatioRecord) -> str:
    """On what a number was measured, and what its range is."""
    spread = "no interval, as all items are alike" if is_flat(one) else "95 % interval"
    return f"{told.decides}, {items_text(told.card('base', told.decides)['n'])} of test, {spread}"


def _range(one: DifferenceRecord | RatioRecord, sign: str = "-") -> str:
    return "" if is_flat(one) else interval_text(one["ci"], sign)
