"""Our whole search, `stages.search`, and what it chose; run by search.py."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
from scipy.stats import t as student_t

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, seed_prompt
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.search.records import CandidateRow, SearchRecord
from gepa_loop.stages.search import Purpose, search
from gepa_loop.task.prompts import Candidate

NUMBER = 1
"""The round that both sides' proposer is seeded for."""

VARIANTS = {f"ours, accept = {rule}": (f"optimize.accept={rule}",) for rule in ("test", "margin", "gepa")}
"""Name -> what is set besides; the first is the default."""

STOCK = f"dspy.GEPA {dspy.__version__}"
SIDES = (*VARIANTS, STOCK)


@dataclass(frozen=True)
class Outcome:
    """What a side's search chose, and what it says of it."""

    chosen: Candidate
    """What the side tells its user to take; the seed prompt where it found nothing better."""
    winner: bool
    """It reports that `chosen` is another prompt than the seed."""
    reported: float
    """Mean score that it reports for `chosen`: on `select` (ours), on `pareto` (stock)."""
    best: Candidate
    """The highest mean that it knows, significant or not."""
    proposals: tuple[str, ...]
    accepted: int
    """Proposals that were scored on `pareto`."""
    rollouts: int
    """Completions that were scored, in the search and for the choice."""
    seconds: float
    cpu_seconds: float
    """Of all threads: what other programs on the machine do changes it little, unlike the time on the clock."""

    def row(self) -> dict[str, Any]:
        """Its numbers."""
        return {
            "winner": self.winner,
            "reported": self.reported,
            "proposals": len(self.proposals),
            "accepted": self.accepted,
            "rollouts": self.rollouts,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


class Clock:
    """Seconds since it was made: on the clock, and of all threads."""

    def __init__(self) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        clock, cpu = self.begun
        return {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}


class Silent:
    """An observer that shows nothing."""

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        pass

    def progress(self, done: int, total: int, **facts: Any) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def configure(budget: int, seed: int, *sets: str) -> Config:
    """The preset `sums` with the offline proposer and a budget for all rollouts of a search.

    Of `budget` the scores on `select` of the finalists, `max_front` with the seed, are kept back. `sets` come last.
    """
    own = (f"seed={seed}", "optimize.reflection.model=offline")
    config = load_config("sums", [*own, *sets], env={})
    judged = config.optimize.max_front * config.task.splits.select * config.evaluate.samples
    return load_config("sums", [*own, f"optimize.max_rollouts={budget - judged}", *sets], env={})


def search_ours(lab: Lab, folder: Path) -> Outcome:
    """Search and choose; `folder` gets what a run's round writes."""
    clock = Clock()
    front = search(
        lab,
        seed_prompt(lab.config.optimize),
        folder / "optimize",
        Silent(),
        Purpose("prompt", NUMBER),
    )
    spent = clock.seconds()
    candidates = {c.id: c for c in front.candidates}
    chosen = candidates[front.winner] if front.winner else seed_prompt(lab.config.optimize)
    rows = {row["id"]: row for row in front.rows}
    finalists = read_json(folder / "optimize" / "result.json", SearchRecord)["finalists"]
    decided = read_jsonl(folder / "optimize" / "candidates.jsonl", CandidateRow)[1:]
    own = rows[chosen.id]["select"]
    assert own is not None, "a search for a prompt scores its front on select"
    judged = len(finalists) * len(lab.task.splits["select"]) * lab.config.evaluate.samples
    return Outcome(
        chosen=chosen,
        winner=front.winner is not None,
        reported=own["mean"],
        best=front.candidates[0],
        proposals=tuple(row["text"] for row in decided),
        accepted=sum(row["status"] == "accepted" for row in decided),
        rollouts=front.spent["rollouts"] + judged,
        **spent,
    )


def interval(values: Sequence[float]) -> list[float] | None:
    """Student's 95 % interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    middle, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(student_t.ppf(0.975, len(values) - 1)) * error
    return [middle - half, middle + half]
