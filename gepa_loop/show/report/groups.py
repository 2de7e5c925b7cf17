"""Scores of `test` in groups: by label, or by what the prompted model scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gepa_loop.scores.numbers import decimal
from gepa_loop.scores.statistics import ItemScores, item_scores
from gepa_loop.show.report.items import Shown, few_labels
from gepa_loop.show.report.read import Key, Told

BANDS = ((0.0, "0"), (0.25, "up to .25"), (0.5, "up to .5"), (0.75, "up to .75"), (1.0, "below 1"))
"""Upper ends of the bands below a full score, and what they are called."""


@dataclass(frozen=True)
class Group:
    """Some items and each subject's mean score on them."""

    name: str
    count: int
    means: tuple[tuple[float, str], ...]
    """In percent, and as tables print it, in the order of the subjects."""
    behind: str
    """Student less prompted model; empty without a student."""


@dataclass(frozen=True)
class Groups:
    """A table of them."""

    by: str
    """`label` or `band`."""
    subjects: tuple[str, ...]
    rows: tuple[Group, ...]
    labels: tuple[str, ...]
    """The answers, where they are labels."""


def group(told: Told, shown: Sequence[Shown]) -> Groups:
    """Items by their answers where those are few, else by bands of the prompted model's score, as what decides was drawn.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    scores = {one.key: item_scores(told.rows(one, told.decides)) for one in told.subjects}
    names = tuple(one.name for one in told.subjects)
    labels = few_labels(shown)
    if labels:
        parts = {label: [one.id for one in shown if one.answer == label] for label in labels}
        rows = tuple(_group(label, ids, scores) for label, ids in parts.items())
        return Groups("label", names, rows, tuple(labels))
    banded: dict[str, list[str]] = {name: [] for name in (*(name for _, name in BANDS), "1")}
    for id_, score in scores["prompted"].items():
        banded[_band(score)].append(id_)
    rows = tuple(_group(name, ids, scores) for name, ids in banded.items() if ids)
    return Groups("band", names, rows, ())


def _band(score: float) -> str:
    if score >= 1:
        return "1"
    return next(name for top, name in BANDS if score <= top)


def _group(name: str, ids: Sequence[str], scores: Mapping[Key, ItemScores]) -> Group:
    means = {key: math.fsum(own[id_] for id_ in ids) / len(ids) for key, own in scores.items()}
    behind = decimal(means["student"] - means["prompted"], "+") if "student" in means else ""
    return Group(
        name, len(ids), tuple((round(100 * mean, 2), decimal(mean)) for mean in means.values()), behind
    )
