"""The first screen of a page: the verdict in a sentence, what it stands on, and all scores on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gepa_loop.scores.card import WAYS, Way
from gepa_loop.scores.decision import POWER, could_show
from gepa_loop.scores.numbers import decimal, gain_text, interval_text, is_flat, p_sentence, plain
from gepa_loop.scores.outcome import untested
from gepa_loop.scores.records import DifferenceRecord, EstimateRecord, RatioRecord
from gepa_loop.scores.statistics import least_detectable
from gepa_loop.show.report.axis import score_ticks, top_of
from gepa_loop.show.report.figures import nats
from gepa_loop.show.report.read import Gap, Told
from gepa_loop.show.tables import agreement

LEVEL = 0.05
"""Of what intervals tell apart."""


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
    return interval_text(one["ci"])


def gain(one: DifferenceRecord) -> str:
    """A difference with its interval and p, as tables print it."""
    return f"{gain_text(one)}, {p_sentence(one['p'])}"


def verdict(told: Told) -> str:
    """What came of a run, in one sentence.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    if told.agreement:
        return _agreed(told)
    way = told.decides
    student = told.gap("student_minus_base", way)
    if student is None:
        tested = "tested" if untested(told.rounds) else "significantly better than the bare model"
        return f"No student was {tested} on select, so this run has none to use."
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


def _agreed(told: Told) -> str:
    """The verdict where the task has no answers: no score says what the prompt is worth."""
    said = _capital(agreement(told.result["sampled"], "the prompted model's greedy reply"))
    silent = told.card("prompted", "sampled")["mean"] == 0
    if silent and told.kl is not None:
        return f"{said}: {nats(told.kl)} nats a token on held-out replies."
    return f"{said}."


def _without_share(told: Told, student: DifferenceRecord) -> str:
    """The verdict where nothing is known of what the student keeps of a prompt."""
    prompt, (low, high) = told.prompt_gain, student["ci"]
    nothing = told.reads_prompt and prompt is not None and prompt["ci"][0] <= 0 <= prompt["ci"][1]
    if nothing and low <= 0 <= high:
        return _no_effect(told)
    own, bare = (decimal(told.card(key, told.decides)["mean"]) for key in ("student", "base"))
    said = f"Without a prompt, the student scores {own} where the bare model scores {bare}"
    if low <= 0 <= high:
        said += ", on every item the same" if is_flat(student) else ", which these items do not tell apart"
    return (
        f"{said}; what it keeps of its prompt's effect is not known, as that may be nothing."
        if nothing
        else f"{said}."
    )


def _no_effect(told: Told) -> str:
    """The verdict where neither prompt nor student may have changed anything."""
    prompt, count = told.prompt_gain, told.card("base", told.decides)["n"]
    # Infinite for too few items, whatever their spread.
    if (least := least_detectable(count, 0.0, POWER, LEVEL)) == math.inf:
        return f"Whether the prompt changes anything is not known. {could_show(count, least)}"
    if prompt is not None and is_flat(prompt):
        return f"The prompt changes the score of no item. {could_show(count, None)}"
    return "The prompt may change nothing on these items, so there is no effect that a student could keep."


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def evidence(told: Told) -> Iterator[str]:
    """What the sentence stands on, in numbers."""
    prompted = next(one.name for one in told.subjects if one.key == "prompted")
    # On the base its name goes without saying whose prompt is read.
    asked, whole = ("prompt", "prompted") if told.ground == "base" else (prompted, prompted)
    for way in (told.decides, *(way for way in WAYS if way != told.decides)):
        said: list[tuple[str, Gap]] = [
            (f"{asked} − bare", "prompted_minus_base"),
            ("student − bare", "student_minus_base"),
            (f"student − {whole}", "student_minus_prompted"),
        ]
        gaps = [(name, one) for name, key in said if (one := told.gap(key, way)) is not None]
        parts = "; ".join(f"{name} {gain(one)}" for name, one in gaps)
        yield f"{way.capitalize()}{', which decides' if way == told.decides else ''}: {parts}."


def parted(told: Told) -> str:
    """What it means where an interval and its p say different things of a difference; empty where none do."""
    names: tuple[Gap, ...] = ("prompted_minus_base", "student_minus_base", "student_minus_prompted")
    gaps = (told.gap(name, way) for name in names for way in WAYS)
    if not any(one is not None and _beyond(one) != (one["p"] <= LEVEL) for one in gaps):
        return ""
    return (
        f"An interval that leaves 0 out beside a p above {plain(str(LEVEL))}, or the other way round, is no mistake: the interval draws all items again, and p "
        "flips the signs of those that changed. Where few did they may differ; then the difference is not shown by these items."
    )


def _beyond(one: DifferenceRecord) -> bool:
    low, high = one["ci"]
    return low > 0 or high < 0


def retention(told: Told) -> str:
    """What a share of a prompt's effect is, as a formula."""
    if told.ground == "base":
        return "(student − bare) / (prompted − bare)"
    return f"(student − {told.ground}) / ({told.ground} with the prompt − {told.ground})"


def unscored(told: Told) -> str:
    """Which scores a loop has none of, and who measures them; empty where there are all."""
    if told.command != "loop" or told.adapter is None:
        return ""
    bare, them = ("", "it") if told.ground == "base" else (", nor the bare model with it", "both")
    return (
        f"A loop does not score the student with the prompt{bare}, as that would be another scoring of test; "
        f"gepa-loop distill measures {them}."
    )


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
