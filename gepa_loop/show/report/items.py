"""Every item of `test` for a page's table: what was asked, what each said, and on which tokens student and prompt disagree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gepa_loop.run.marks import damaged
from gepa_loop.scores.numbers import decimal
from gepa_loop.scores.records import ScoreRow
from gepa_loop.scores.statistics import item_scores
from gepa_loop.show.report.figures import UNSAFE
from gepa_loop.show.report.read import Key, Told
from gepa_loop.stages.records import ItemRow

SHOWN: tuple[Key, ...] = ("base", "prompted", "student")
"""Whose replies stand side by side."""
MARKED = 0.1
"""Share of the tokens that are highlighted: those on which the two disagree most."""


@dataclass(frozen=True)
class Said:
    """One subject's replies to an item."""

    greedy: ScoreRow
    score: float
    """Of the greedy reply."""
    sampled: float
    """Mean over the sampled ones."""


@dataclass(frozen=True)
class Shown:
    """An item as the table has it."""

    id: str
    row: ItemRow | None
    """None in a run of an earlier version."""
    said: Mapping[Key, Said]

    @property
    def answer(self) -> str:
        return "" if self.row is None else self.row["answer"]

    @property
    def behind(self) -> float:
        """How far the student's greedy score is behind the prompted model's; 0 without a student."""
        if "student" not in self.said:
            return 0.0
        return self.said["prompted"].score - self.said["student"].score


def read_shown(told: Told) -> list[Shown]:
    """All items, worst first: the student furthest behind the prompt, then its own score; without one the prompt's.

    Raises:
        RunDirectoryError: A file is not as it was written, or two hold other items.
    """
    subjects = [one for one in told.subjects if one.key in SHOWN]
    greedy = {one.key: {row["item"]: row for row in told.rows(one, "greedy")} for one in subjects}
    sampled = {one.key: item_scores(told.rows(one, "sampled")) for one in subjects}
    known = {row["item"]: row for row in told.items()}
    for one in subjects:
        for name, ids in (
            (f"{one.file}_greedy", greedy[one.key].keys()),
            (one.file, sampled[one.key].keys()),
        ):
            if lone := sorted(ids ^ greedy["base"].keys()):
                why = f"its items are not those of base_greedy.jsonl, e.g. {lone[0]}"
                raise damaged(told.path / "test" / f"{name}.jsonl", why)
    found = []
    for id_ in greedy["base"]:
        said = {key: Said(rows[id_], rows[id_]["score"], sampled[key][id_]) for key, rows in greedy.items()}
        found.append(Shown(id_, _of_student(known.get(id_), said), said))
    own: Key = "student" if "student" in greedy else "prompted"
    return sorted(found, key=lambda one: (-one.behind, one.said[own].score))


def _of_student(row: ItemRow | None, said: Mapping[Key, Said]) -> ItemRow | None:
    """A row without its tokens where they are of another student's reply than the one that is shown."""
    if row is None or not row["pieces"]:
        return row
    own = said["student"].greedy if "student" in said else None
    same = (
        own is not None and row["student"] == own["student"] and "".join(row["pieces"]) == own["completion"]
    )
    return row if same else {**row, "pieces": [], "nats": []}


@dataclass(frozen=True)
class Marks:
    """From which divergence on a token is highlighted."""

    least: float
    """Nats."""
    most: float
    """That of the strongest mark."""
    items: int
    """Whose replies were read."""


def marks(shown: Sequence[Shown]) -> Marks | None:
    """None where no reply was read token by token."""
    nats = sorted((n for one in shown if one.row for n in one.row["nats"]), reverse=True)
    if not nats:
        return None
    count = sum(bool(one.row and one.row["nats"]) for one in shown)
    return Marks(nats[max(0, round(MARKED * len(nats)) - 1)], nats[0], count)


def items_json(told: Told, shown: Sequence[Shown], labels: Sequence[str], marked: Marks | None) -> str:
    """What the table's script reads, as JSON that can stand within a page."""
    names = {one.key: one.name for one in told.subjects if one.key in SHOWN}
    value: dict[str, Any] = {
        "subjects": list(names.values()),
        "labels": list(labels),
        "marks": None if marked is None else {"least": marked.least, "most": marked.most},
        "items": [_item(one, list(names)) for one in shown],
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)


def _item(one: Shown, keys: Sequence[Key]) -> dict[str, Any]:
    row = one.row
    return {
        "id": one.id,
        "turns": [] if row is None else [[turn["role"], turn["content"]] for turn in row["turns"]],
        "answer": one.answer,
        "pieces": [] if row is None else row["pieces"],
        "nats": [] if row is None else row["nats"],
        "replies": [_reply(one.said[key]) for key in keys],
        "kinds": _kinds(one),
    }


def _reply(said: Said) -> dict[str, Any]:
    row = said.greedy
    return {
        "text": row["completion"],
        "read": row["extracted"],
        "score": decimal(said.score),
        "full": said.score >= 1,
        "sampled": decimal(said.sampled),
        "cut": row["finish_reason"] == "length",
        "feedback": row["feedback"],
    }


def _kinds(one: Shown) -> list[str]:
    """Filters that an item is in."""
    own = one.said.get("student")
    base, prompted = one.said["base"].score, one.said["prompted"].score
    student = prompted if own is None else own.score
    found = {
        "lost": student < prompted,
        "beyond": own is not None and student > max(prompted, base),
        "broke": own is not None and student < base,
        "both": student < 1 and prompted < 1,
        "differ": own is not None and own.greedy["completion"] != one.said["prompted"].greedy["completion"],
        "cut": own is not None and own.greedy["finish_reason"] == "length",
    }
    return [name for name, holds in found.items() if holds]


def few_labels(shown: Sequence[Shown], most: int = 24, each: int = 2) -> list[str]:
    """The answers where they are labels: at most so many, with so many items each in the mean; the commonest first."""
    counts = Counter(one.answer for one in shown)
    if "" in counts or not 1 < len(counts) <= most or len(shown) < each * len(counts):
        return []
    return [answer for answer, _ in counts.most_common()]
