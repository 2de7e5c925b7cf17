"""Curves of the students' training and of their race: plotly figures, and a table of each for those who cannot see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.run.files import read_jsonl, read_record
from gepa_loop.scores.numbers import decimal
from gepa_loop.scores.results import RungRecord
from gepa_loop.show.report.figures import (
    Role,
    crosses,
    nats,
    nats_figure,
    nats_line,
    rings,
    score_figure,
    score_line,
    thin_line,
)
from gepa_loop.training.records import DistilledRecord, MetricsRow


@dataclass(frozen=True)
class Course:
    """What is recorded of a student's training."""

    id: str
    """Of its prompt."""
    steps: Sequence[MetricsRow]
    distilled: DistilledRecord | None
    """None of one that was dropped in the race."""
    role: Role
    """`accent` of the one that the run hands on, else `other`."""
    by_kl: bool = False
    """Its checks' scores are means of exp(-KL(student || prompted)) over items, as its task has no answers."""

    @property
    def scores(self) -> list[tuple[int, float]]:
        """Held-out scores by step; that before the first one is of a whole distillation alone. None where the KL judged: its rows hold
        the share of equal replies, which is another quantity than that of its choice."""
        if self.by_kl:
            return []
        first = [] if self.distilled is None else [(0, self.distilled["before"])]
        return first + [
            (row["step"], score) for row in self.steps if (score := row.get("held_out_score")) is not None
        ]

    @property
    def nats(self) -> list[tuple[int, float]]:
        """KL(student || teacher) by step."""
        return [(row["step"], kl) for row in self.steps if (kl := row["reverse_kl"]) is not None]

    @property
    def held_out_nats(self) -> list[tuple[int, float]]:
        """The same of the held-out replies, where it was read."""
        return [(row["step"], kl) for row in self.steps if (kl := row.get("held_out_kl")) is not None]


@dataclass(frozen=True)
class Chart:
    """A figure with its numbers."""

    title: str
    about: str
    """What it shows, for those who cannot see it."""
    figure: str
    """JSON for plotly.js that can stand within a page."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_course(folder: Path, winner: str | None, agreement: bool = False) -> Course:
    """A distillation's record.

    Args:
        folder: The distillation's.
        winner: Whose student the run hands on.
        agreement: Its task has no answers.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    result = folder / "result.json"
    done = read_record(result, DistilledRecord) if result.exists() else None
    steps = read_jsonl(folder / "metrics.jsonl", MetricsRow)
    by_kl = agreement and any("held_out_kl" in row for row in steps)
    return Course(folder.name, steps, done, "accent" if folder.name == winner else "other", by_kl)


def training_charts(courses: Sequence[Course]) -> list[Chart]:
    """Held-out score and KL by step, a line for each student; that of the run's own first."""
    found = []
    courses = sorted(courses, key=lambda course: (course.role != "accent", course.id))
    if scored := [course for course in courses if course.scores]:
        traces = [score_line(c.id, c.scores, c.role, n) for n, c in enumerate(scored)]
        kept = [(c, c.distilled["choice"]) for c in scored if c.distilled is not None]
        for n, (course, choice) in enumerate(kept):
            traces.append(rings("kept", [(choice["step"], choice["score"])], course.role))
            traces[-1].showlegend = n == 0
        ends = ", ".join(f"{c.id} ends at {decimal(c.scores[-1][1])}" for c in scored)
        about = f"Held-out score of the student without a prompt by step of training: {ends}."
        rows = [(c.id, str(step), decimal(score)) for c in scored for step, score in c.scores]
        figure = score_figure(traces, "held-out score")
        head = ("student", "step", "score")
        found.append(Chart("Held-out score by step", about, figure, head, tuple(rows)))
    if read := [course for course in courses if course.nats]:
        traces = [nats_line(c.id, c.held_out_nats, c.role, n) for n, c in enumerate(read) if c.held_out_nats]
        traces += [thin_line(c.id, c.nats, c.role) for c in read]
        ends = ", ".join(f"{c.id} ends at {nats(c.nats[-1][1])}" for c in read)
        about = f"KL of student and teacher on the rollouts of each step, in nats a token: {ends}."
        held = {c.id: dict(c.held_out_nats) for c in read}
        numbers = [
            (c.id, str(step), nats(kl), nats(held[c.id][step]) if step in held[c.id] else "")
            for c in read
            for step, kl in c.nats
        ]
        figure = nats_figure(traces)
        columns = ("student", "step", "its rollouts", "held-out replies")
        found.append(
            Chart(
                "KL(student || teacher) by step: of held-out replies, and dotted of each step’s rollouts",
                about,
                figure,
                columns,
                tuple(numbers),
            )
        )
    return found


def race_chart(rungs: Sequence[RungRecord], winner: str | None) -> Chart | None:
    """Each student's mean at the rungs that it reached; None where there was no race."""
    if not rungs:
        return None
    raced = dict.fromkeys(id_ for rung in rungs for id_ in rung["scores"])
    ids = sorted(raced, key=lambda id_: (id_ != winner, id_))
    traces = [
        score_line(
            id_,
            [(rung["step"], rung["scores"][id_]) for rung in rungs if id_ in rung["scores"]],
            "accent" if id_ == winner else "other",
            n,
        )
        for n, id_ in enumerate(ids)
    ]
    out = [(one, rung) for rung in rungs for one in rung["dropped"]]
    if out:
        places = [(rung["step"], rung["scores"][one["id"]]) for one, rung in out]
        traces.append(crosses("dropped", places))
    gone = (
        "; ".join(f"{one['id']} dropped after step {rung['step']}" for one, rung in out)
        or "nobody was dropped"
    )
    rows = [
        (
            id_,
            str(rung["step"]),
            decimal(score),
            decimal(rung["prompts"][id_]) if id_ in rung["prompts"] else "",
        )
        for rung in rungs
        for id_, score in rung["scores"].items()
    ]
    split = rungs[0]["split"]
    figure = score_figure(traces, f"score on {split}")
    head = ("student", "step", "score", "its prompt's")
    about = f"Scores of the students at each rung on {split}, which decided who trained on: {gone}."
    return Chart("The race: scores that decided who trained on", about, figure, head, tuple(rows))
