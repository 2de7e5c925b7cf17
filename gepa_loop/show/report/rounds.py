"""The rounds of a loop, or the one distillation of `distill`: who was trained, who raced, who was chosen and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gepa_loop.run.files import read_json
from gepa_loop.scores.numbers import decimal, score_text
from gepa_loop.scores.outcome import ground
from gepa_loop.scores.results import ContenderRecord, DecisionRecord, RoundResult, RungRecord
from gepa_loop.show.report.charts import Chart, Course, race_chart, read_course, training_charts
from gepa_loop.show.report.lineage import Ancestor, family
from gepa_loop.show.report.read import Told
from gepa_loop.show.report.verdict import gain
from gepa_loop.show.searches import read_search
from gepa_loop.training.checks import SILENT


@dataclass(frozen=True)
class Contender:
    """A prompt that was handed on, and its student, on `select`."""

    id: str
    winner: bool
    prompted: str
    student: str
    skipped: str


@dataclass(frozen=True)
class Dropped:
    """A student whose race ended."""

    id: str
    step: int
    behind: str
    error: str
    reason: str


@dataclass(frozen=True)
class Stage:
    """A round, or a distillation."""

    number: int | None
    """None of `distill`."""
    lines: tuple[str, ...]
    """What is to be said of it."""
    contenders: tuple[Contender, ...]
    race: Chart | None
    dropped: tuple[Dropped, ...]
    courses: tuple[Course, ...]
    charts: tuple[Chart, ...]
    kept: tuple[str, ...]
    """Which step of each student is kept, and why."""
    prompts: tuple[Ancestor, ...]


def stages(told: Told) -> list[Stage]:
    """All of a run's, in order.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    if told.command == "distill":
        own = told.prompt.stem
        courses = (read_course(told.path / "distill" / own, own, told.agreement),)
        charts = tuple(training_charts(courses))
        return [Stage(None, (), (), None, (), courses, charts, tuple(_kept(courses)), ())]
    return [_round(told, one) for one in told.rounds]


def _round(told: Told, one: RoundResult) -> Stage:
    folder, winner = told.path / f"round_{one['round']:02d}", one["winner"]
    decision = read_json(folder / "decision.json", DecisionRecord)
    trained = sorted(path.parent for path in folder.glob("distill/*/metrics.jsonl"))
    courses = tuple(read_course(path, winner) for path in trained)
    search = read_search(str(told.path.resolve()), one["round"])
    rungs = decision["race"]
    return Stage(
        one["round"],
        tuple(_lines(told, one, decision)),
        tuple(_contender(c, winner) for c in one["candidates"]),
        race_chart(rungs, winner),
        tuple(_dropped(rungs)),
        courses,
        tuple(training_charts(courses)),
        tuple(_kept(courses)),
        family(search, one["candidates"], winner),
    )


def _lines(told: Told, one: RoundResult, decision: DecisionRecord) -> Iterator[str]:
    yield one["reason"]
    if decision["oracle"] is not None:
        yield f"Oracle (the best student of each item of select, which no student reaches): {decimal(decision['oracle'])}."
    if (test := one["test"]) is not None and (student := test["student_minus_base"]) is not None:
        on = ground(told.rounds, one["round"])
        prompt = test["prompted_minus_base"]
        said = f"On test, against the model that it found ({on}): with the prompt {gain(prompt)}; the student without it {gain(student)}."
        if (share := one["internalisation"]) is not None:
            said += f" It keeps {score_text(share)} of the prompt's effect."
        elif prompt["ci"][0] <= 0 <= prompt["ci"][1]:
            said += " What it keeps of the prompt's effect is not known, as that may be 0."
        yield said
    if one["ended"] is not None:
        yield f"No further round: {one['ended']}."


def _contender(one: ContenderRecord, winner: str | None) -> Contender:
    prompted, student = one["prompted"], one["student"]
    return Contender(
        one["id"],
        one["id"] == winner,
        "" if prompted is None else score_text(prompted),
        "" if student is None else score_text(student),
        one["skipped"] or "",
    )


def _dropped(rungs: list[RungRecord]) -> Iterator[Dropped]:
    for rung in rungs:
        for one in rung["dropped"]:
            yield Dropped(
                one["id"], rung["step"], decimal(one["behind"]), decimal(one["error"]), one["reason"]
            )


def _kept(courses: tuple[Course, ...]) -> Iterator[str]:
    for course in courses:
        if course.distilled is not None:
            choice = course.distilled["choice"]
            who = f"{course.id}: " if len(courses) > 1 else ""
            reason = re.sub(r"\.$", "", choice["reason"])
            name = "mean of exp(-KL(student || prompted))" if course.by_kl else "score"
            said = f"Its held-out {name}, {decimal(choice['score'])}, is of the items that chose it, and high by that"
            if SILENT in reason:
                said = f"Its held-out {name} is {decimal(choice['score'])}"
            yield f"{who}kept step {choice['step']}, {reason}. {said}. Training ended {course.distilled['ended']}."
