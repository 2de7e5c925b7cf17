"""Which students of a race train on after a rung. Pure functions.

The constants come from a simulation (`python -m benchmarks.race`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gepa_loop.scores.numbers import decimal
from gepa_loop.scores.results import DroppedRecord
from gepa_loop.scores.statistics import ItemScores, mean_difference, standard_error

FINALISTS = 2
"""Students that a race ends with, if as many are left: they are tested on `select`."""


@dataclass(frozen=True)
class Dropped:
    """A student whose race ended at a rung."""

    id: str
    behind: float
    """Mean over items of what the leader has less what it has; 0 or more."""
    error: float
    """Standard error of that mean."""
    reason: str

    def as_dict(self) -> DroppedRecord:
        return {"id": self.id, "behind": self.behind, "error": self.error, "reason": self.reason}


@dataclass(frozen=True)
class Rung:
    """Who trains on, best first, and who does not."""

    living: tuple[str, ...]
    dropped: tuple[Dropped, ...]


def rung(
    students: Mapping[str, ItemScores],
    prompts: Mapping[str, ItemScores],
    weight: float,
    behind: float,
    keep: float,
) -> Rung:
    """Drop students after a look at all of them on the same items.

    What is compared is, item by item, (1 - `weight`) x the student's score + `weight` x its prompt's. Dropped are first those who
    are behind the leader by more than `behind` standard errors of the paired difference, then the last ones beyond the share
    `keep`, but not below `FINALISTS`, and nobody who has the same as the leader, item by item: of students who all have nothing
    yet, as their prompts have, a rung knows nothing.

    Args:
        students: Each one's scores without a prompt, the likelier winner first, which breaks ties.
        prompts: Those of each one's prompt on the model without it; not read where `weight` is 0.
        weight: Of the prompt, from 0 to 1.
        behind: Standard errors.
        keep: Share of the students before the rung, of which the rounded-up number may stay.

    Raises:
        ValueError: No students, no items, different items, or a score outside [0, 1].
    """
    scores = {id_: _mixed(own, prompts[id_], weight) if weight else own for id_, own in students.items()}
    order = sorted(scores, key=lambda id_: -math.fsum(scores[id_].values()))
    leader, most = order[0], most_living(len(order), keep)
    of = f" ({decimal(1 - weight)} student + {decimal(weight)} prompt)" if weight else ""
    living, dropped = [leader], list[Dropped]()
    for id_ in order[1:]:
        gap = mean_difference(scores[leader], scores[id_])
        error = standard_error(scores[leader], scores[id_])
        shown = f"{decimal(gap)} behind {leader} on {len(scores[leader])} items{of}"
        if gap > behind * error:
            dropped.append(
                Dropped(id_, gap, error, f"{shown}, more than {behind:g} standard errors of {decimal(error)}")
            )
        elif len(living) >= most and (gap or error):
            dropped.append(Dropped(id_, gap, error, f"{shown}, and {most} of {len(order)} train on"))
        else:
            living.append(id_)
    return Rung(tuple(living), tuple(dropped))


def _mixed(student: ItemScores, prompt: ItemScores, weight: float) -> ItemScores:
    if student.keys() != prompt.keys():
        raise ValueError("a student and its prompt were scored on different items")
    return {item: (1 - weight) * score + weight * prompt[item] for item, score in student.items()}


def most_living(students: int, keep: float) -> int:
    """How many of so many students may train on."""
    return max(FINALISTS, math.ceil(keep * students))
