"""The first screen of a page: the verdict in a sentence, the numbers, and all scores on one axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gepa_loop.scores.card import WAYS, Way
from gepa_loop.scores.numbers import decimal, p_sentence
from gepa_loop.scores.outcome import ground
from gepa_loop.scores.records import DifferenceRecord, EstimateRecord, RatioRecord
from gepa_loop.show.report.axis import score_ticks, top_of
from gepa_loop.show.report.read import Gap, Told


@dataclass(frozen=True)
class Tile:
    """A number that a page begins with."""

    title: str
    number: str
    range: str
    """Its interval; empty where it has none."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """A score on the axis, in percent of its length."""

    name: str
    """Whose; empty where the row above has the same."""
    key: str
    way: Way
    left: float
    width: float
    dot: float
    score: str
    interval: str


@dataclass(frozen=True)
class Forest:
    """All scores on one axis."""

    ticks: tuple[tuple[float, str], ...]
    """Place in percent, and what it says."""
    bars: tuple[Bar, ...]


def interval(one: EstimateRecord | RatioRecord) -> str:
    """As tables print it."""
    low, high = one["ci"]
    return f"[{decimal(low)}, {decimal(high)}]"


def gain(one: DifferenceRecord) -> str:
    """A difference with its interval and p, as tables print it."""
    low, high = one["ci"]
    return f"{decimal(one['mean'], '+')} [{decimal(low, '+')}, {decimal(high, '+')}], {p_sentence(one['p'])}"


def verdict(told: Told) -> str:
    """What came of a run, in one sentence."""
    way = told.decides
    student = told.gap("student_minus_base", way)
    if student is None:
        return (
            "No student was significantly better than the bare model on select, so this run has none to use."
        )
    share = told.shares[way]
    if share is None:
        return _without_share(told, student)
    number, (low, _) = decimal(share["mean"]), share["ci"]
    if low <= 0:
        return f"What the student keeps of the prompt's effect, {number}, may be nothing."
    against = told.gap("student_minus_prompted", way)
    assert against is not None, "there is a student"
    kept = f"The student keeps {number} of the prompt's effect without its {told.saved:,} tokens"
    low, high = against["ci"]
    if high < 0:
        return f"{kept}, and scores below the prompted model."
    return f"{kept}, and scores above the prompted model." if low > 0 else f"{kept}."


def _without_share(told: Told, student: DifferenceRecord) -> str:
    """The verdict where nothing is known of what the student keeps of a prompt."""
    prompt, (low, high) = told.prompt_gain, student["ci"]
    nothing = prompt is not None and prompt["ci"][0] <= 0 <= prompt["ci"][1]
    if nothing and low <= 0 <= high:
        return (
            "The prompt may change nothing on these items, so there is no effect that a student could keep."
        )
    own, bare = (decimal(told.card(key, told.decides)["mean"]) for key in ("student", "base"))
    said = f"Without a prompt, the student scores {own} where the bare model scores {bare}"
    if low <= 0 <= high:
        said += ", which these items do not tell apart"
    return (
        f"{said}; what it keeps of its prompt's effect is not known, as that may be nothing."
        if nothing
        else f"{said}."
    )


def evidence(told: Told) -> Iterator[str]:
    """What the sentence stands on, in numbers."""
    for way in (told.decides, *(way for way in WAYS if way != told.decides)):
        said: list[tuple[str, Gap]] = [
            ("prompt − bare", "prompted_minus_base"),
            ("student − bare", "student_minus_base"),
            ("student − prompted", "student_minus_prompted"),
        ]
        gaps = [(name, one) for name, key in said if (one := told.gap(key, way)) is not None]
        parts = "; ".join(f"{name} {gain(one)}" for name, one in gaps)
        yield f"{way.capitalize()}{', which decides' if way == told.decides else ''}: {parts}."


def tiles(told: Told) -> list[Tile]:
    """The numbers, as far as they are known."""
    way, found = told.decides, list[Tile]()
    share = told.shares[way]
    if share is not None:
        other = next(one for one in WAYS if one != way)
        theirs = told.shares[other]
        notes = [f"{way}, {told.card('base', way)['n']} items of test, 95 % interval"]
        if theirs is not None:
            notes.append(f"{other}: {decimal(theirs['mean'])} {interval(theirs)}")
        if told.command == "loop":
            notes.append(f"of the last winner's prompt on the {ground(told.rounds)}")
        found.append(
            Tile("of the prompt's effect kept", decimal(share["mean"]), interval(share), tuple(notes))
        )
    elif (student := told.gap("student_minus_base", way)) is not None:
        low, high = student["ci"]
        range_ = f"[{decimal(low, '+')}, {decimal(high, '+')}]"
        note = (
            f"{way}, {told.card('base', way)['n']} items of test, 95 % interval, {p_sentence(student['p'])}"
        )
        found.append(
            Tile(
                "gained over the bare model, without a prompt", decimal(student["mean"], "+"), range_, (note,)
            )
        )
    if told.adapter is not None:
        whole, bare = told.result["tokens"]["prompt"], told.result["tokens"].get("bare", 0)
        asked, own = (told.card(key, way)["tokens"] for key in ("prompted", "student"))
        system = f"system turn: {whole:,} tokens with the prompt, {bare:,} without"
        replies = f"replies: {asked:.1f} tokens with the prompt, {own:.1f} by the student"
        found.append(Tile("tokens saved at every call", f"{told.saved:,}", "", (system, replies)))
    return found


def end_of_axis(*told: Told) -> float:
    """Where an axis ends on which all scores of these runs have room, with their intervals."""
    return top_of(
        max(run.card(one.key, way)["ci"][1] for run in told for one in run.subjects for way in WAYS)
    )


def forest(told: Told, top: float) -> Forest:
    """All subjects, greedily and sampled, on an axis from 0 to `top`."""
    cards = [(subject, way, told.card(subject.key, way)) for subject in told.subjects for way in WAYS]
    bars = []
    for subject, way, card in cards:
        low, high = (max(0.0, min(1.0, end)) for end in card["ci"])
        bars.append(
            Bar(
                subject.name if way == WAYS[0] else "",
                subject.key,
                way,
                _percent(low / top),
                _percent((high - low) / top),
                _percent(card["mean"] / top),
                decimal(card["mean"]),
                interval(card),
            )
        )
    return Forest(tuple((_percent(at / top), text) for at, text in score_ticks(top)), tuple(bars))


def _percent(share: float) -> float:
    return round(100 * share, 3)
