"""The race of a round's students: from rung to rung, until as few are left as can be tested."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.config.recipe import DistillConfig
from gepa_loop.config.tables import RaceConfig
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import stack_adapters
from gepa_loop.run.files import read_json, write_json
from gepa_loop.scores.race import FINALISTS, Rung, most_living, rung
from gepa_loop.scores.results import RungRecord
from gepa_loop.scores.statistics import ItemScores, as_array, item_scores, mean
from gepa_loop.stages.distillation import Below, train_candidates
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.pool import Pool
from gepa_loop.stages.score import scoring
from gepa_loop.task.prompts import NO_PROMPT


@dataclass(frozen=True)
class Raced:
    """What a race came to."""

    living: tuple[str, ...]
    """Prompts whose students are worth finishing, best first."""
    dropped: Mapping[str, str]
    """Prompt -> why its student was dropped, in words."""
    rungs: tuple[RungRecord, ...]


def race(lab: Lab, pool: Pool, folder: Path, observer: Observer, below: Below) -> Raced:
    """Train the students of a round to rung after rung, and drop those that are behind.

    A student that is dropped costs no more steps; one that goes on ends as it would have without a race, up to rounding, as
    students share their steps (`distill.together`).

    Args:
        lab: That of the round.
        pool: The prompts that have students, the best first, and where they were scored.
        folder: Of the round. race/NNNNNN.json is written when a rung is decided, and read by a process that continues.
        observer: Watches.
        below: The round's model.
    """
    settings, by_id = lab.config.race, {candidate.id: candidate for candidate in pool.candidates}
    living, rungs, number = list(by_id), list[RungRecord](), lab.rollouts.round
    if settings.on and len(living) > FINALISTS and pool.split == "pareto":
        observer.note("students race on pareto, whose items the search has seen: task.splits.race has none")
    for step in rung_steps(lab.config.distill, settings.rungs) if settings.on else ():
        if len(living) <= FINALISTS:
            break
        file = folder / "race" / f"{step:06d}.json"
        if file.exists():
            decided = read_json(file, RungRecord)
        else:
            seen, several = {}, f"{len(living)} students"
            observer.stage(f"race to step {step}", round=number, candidate=several)
            waiting = {folder / "distill" / id_: by_id[id_] for id_ in living}
            students = train_candidates(lab, waiting, observer, below, step)
            asked = {}
            for id_, student in zip(living, students, strict=True):
                whole = student if below.stack is None else stack_adapters([below.stack, student])
                asked[id_] = scoring(lab, pool.split, NO_PROMPT, whole, file.with_suffix("") / f"{id_}.jsonl")
            for id_, own in asked.items():
                observer.stage(f"student of step {step}", round=number, candidate=id_)
                seen[id_] = item_scores(own.rows(observer.progress))
            found = rung(seen, pool.prompted, settings.prompt, settings.behind, settings.keep)
            decided = _decided(step, pool, seen, found)
            write_json(file, decided)
        for one in decided["dropped"]:
            observer.note(f"{one['id']} is dropped: {one['reason']}")
            # Nobody goes on from there.
            shutil.rmtree(folder / "distill" / one["id"] / "checkpoints", ignore_errors=True)
        living = decided["living"]
        rungs.append(decided)
    every = itertools.chain.from_iterable(one["dropped"] for one in rungs)
    return Raced(tuple(living), {one["id"]: one["reason"] for one in every}, tuple(rungs))


def _decided(step: int, pool: Pool, seen: Mapping[str, ItemScores], found: Rung) -> RungRecord:
    return {
        "step": step,
        "split": pool.split,
        "scores": {id_: mean(as_array(own)) for id_, own in seen.items()},
        "prompts": {id_: mean(as_array(pool.prompted[id_])) for id_ in seen},
        "living": list(found.living),
        "dropped": [one.as_dict() for one in found.dropped],
    }


def rung_steps(settings: DistillConfig, shares: Sequence[float]) -> list[int]:
    """The held-out checks, before the last step, that are the first at or after each of these shares of all steps."""
    every = settings.check_every
    steps = {math.ceil(round(share * settings.steps, 6) / every) * every for share in shares}
    return sorted(step for step in steps if step < settings.steps)


def course(students: int, settings: RaceConfig, distill: DistillConfig) -> list[tuple[int, int]]:
    """(step, how many students train up to there at most) from rung to rung; the last step is the end.

    Students that score as the leader does, item by item, are not reckoned with.
    """
    found = []
    for step in rung_steps(distill, settings.rungs) if settings.on else ():
        if students <= FINALISTS:
            break
        found.append((step, students))
        students = most_living(students, settings.keep)
    return [*found, (distill.steps, students)]
