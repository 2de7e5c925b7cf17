"""What a race of students loses and what it costs, by simulation: where the rule of `gepa_loop.scores.race` comes from.

A trial has students of a true quality, an early look that hangs together with it more the later it is, and items that are hard
or easy for all of them. A rule sees scores alone. It loses the best student's quality less that of the one it keeps, and costs
steps, counted in whole distillations.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.special import ndtri

from gepa_loop.scores.race import rung

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What is known of students and their scores."""

    students: int = 8
    mean: float = 0.38
    spread: float = 0.06
    """Standard deviation of the students' qualities, the training seed's part included."""
    prompt: float = 0.3
    """Correlation of a prompt's quality with its student's."""
    early: tuple[tuple[float, float], ...] = ((0.1, 0.6), (0.2, 0.75), (0.4, 0.85), (1.0, 1.0))
    """Share of a distillation's steps -> correlation of the student's quality then with that at the end; linear between."""
    shared: float = 0.6
    """Share of the variance of an item's latent score that all students have in common."""
    samples: int = 1
    """Completions of an item."""


class Trials:
    """Students of many trials at once; every look draws replies of its own, and items, unless it is told which."""

    def __init__(self, world: World, trials: int, seed: int, z: Floats | None = None) -> None:
        """`z` [students] is how good they are, in every trial, in standard deviations from the mean; None: drawn."""
        self.world, self.random = world, np.random.default_rng(seed)
        shape = trials, world.students
        self.z = self.random.standard_normal(shape) if z is None else np.tile(z, (trials, 1))
        self.noise = self.random.standard_normal(shape)
        other = self.random.standard_normal(shape)
        self.prompts = self._quality(world.prompt * self.z + np.sqrt(1 - world.prompt**2) * other)
        self.final = self._quality(self.z)

    def at(self, share: float) -> Floats:
        """The students' qualities after a share of their steps."""
        known = dict(self.world.early)
        r = float(np.interp(share, list(known), list(known.values())))
        return self._quality(r * self.z + np.sqrt(1 - r**2) * self.noise)

    def items(self, count: int) -> Floats:
        """How hard fresh items are for everybody, [trials, 1, items]."""
        found: Floats = self.random.standard_normal((len(self.z), 1, count))
        return found

    def look(self, quality: Floats, common: Floats) -> Floats:
        """Scores [trials, students, items] of a look at such items."""
        total = np.zeros((*quality.shape, common.shape[-1]))
        for _ in range(self.world.samples):
            own = self.random.standard_normal(total.shape)
            latent = np.sqrt(self.world.shared) * common + np.sqrt(1 - self.world.shared) * own
            total += latent < ndtri(quality)[..., None]
        found: Floats = total / self.world.samples
        return found

    def _quality(self, z: Floats) -> Floats:
        return np.clip(self.world.mean + self.world.spread * z, 0.001, 0.999)


@dataclass(frozen=True)
class Rule:
    """How a student is chosen."""

    name: str
    rungs: tuple[float, ...] = ()
    """Shares of a distillation's steps; none distils all."""
    behind: float = 1.5
    keep: float = 0.5
    race: int = 64
    """Items of each rung."""
    prompt: float = 0.0
    """Weight of the prompt's own score, of one look at the same items, beside the student's."""
    gate: float = math.inf
    """Standard errors by which a prompt may be behind the best before its student's first step."""
    select: int = 128
    """Items on which those who are left are ranked."""


def chosen(trials: Trials, rule: Rule) -> tuple[Floats, Floats]:
    """Of each trial the student that a rule keeps and the distillations that it takes."""
    count, students = trials.final.shape
    every = [str(n) for n in range(students)]
    steps, before = np.zeros(count), 0.0
    items = trials.items(rule.race)
    prompts = [_named(own, every) for own in trials.look(trials.prompts, items)]
    living = [list(rung(own, {}, 0.0, rule.gate, 1.0).living) for own in prompts]
    for share in (*rule.rungs, 1.0):
        steps += (share - before) * np.array([len(one) for one in living])
        before = share
        if share < 1.0:
            seen = trials.look(trials.at(share), items)
            for n, own in enumerate(living):
                found = rung(_named(seen[n], own), prompts[n], rule.prompt, rule.behind, rule.keep)
                living[n] = list(found.living)
    means = trials.look(trials.final, trials.items(rule.select)).mean(-1)
    best = [max(living[n], key=lambda id_: means[n, int(id_)]) for n in range(count)]
    return np.array(best, dtype=int), steps


def _named(seen: Floats, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    return {id_: {str(n): float(score) for n, score in enumerate(seen[int(id_)])} for id_ in ids}


def by_prompt(trials: Trials, items: int) -> tuple[Floats, Floats]:
    """The student of the prompt that scores best itself."""
    seen = trials.look(trials.prompts, trials.items(items)).mean(-1)
    return seen.argmax(-1), np.ones(len(seen))


def lost(trials: Trials, best: Floats) -> Floats:
    found: Floats = trials.final.max(-1) - trials.final[np.arange(len(best)), best.astype(int)]
    return found


WORLDS = {
    "a prompt says little of its student": World(),
    "in between": World(prompt=0.7, early=((0.1, 0.7), (0.2, 0.85), (0.4, 0.9), (1.0, 1.0))),
    "a prompt says all of its student": World(prompt=0.97, early=((0.1, 0.9), (0.2, 0.97), (1.0, 1.0))),
}
"""The first as `letter_counting` and `lcm` were measured with an earlier recipe, the last as four tasks whose prompt knows something
are with today's (NOTES.md, "Students that race")."""

RUNGS = (0.1, 0.2, 0.4)
RULES = (
    Rule("distil all"),
    Rule("race, 2.0 errors, half", RUNGS, 2.0, 0.5),
    Rule("the same, .3 of the prompt", RUNGS, 2.0, 0.5, prompt=0.3),
    Rule("the same, .5 of the prompt", RUNGS, 2.0, 0.5, prompt=0.5),
    Rule("prompts behind by 2.0 first", RUNGS, 2.0, 0.5, gate=2.0),
    Rule("race, 1.5 errors, half", RUNGS, 1.5, 0.5),
    Rule("race, 2.0 errors, no half", RUNGS, 2.0, 1.0),
    Rule("halving alone", RUNGS, 99.0, 0.5),
    Rule("race from two fifths on", RUNGS[2:], 2.0, 0.5),
    Rule("race, 128 items", RUNGS, 2.0, 0.5, race=128),
)


def table(name: str, world: World, trials: int) -> Table:
    found = Table(title=f"{name} (correlation {world.prompt:g})", box=SIMPLE_HEAD)
    for head in ("rule", "lost", "95 %", "distillations"):
        found.add_column(head, justify="left" if head == "rule" else "right")
    own = Trials(world, trials, seed=0)
    outcomes = {f"the prompt's score, {items} items": by_prompt(own, items) for items in (64, 512)}
    outcomes |= {rule.name: chosen(own, rule) for rule in RULES}
    for rule, (best, steps) in outcomes.items():
        loss = lost(own, best)
        half = 1.96 * loss.std() / np.sqrt(len(loss))
        found.add_row(rule, f"{loss.mean():.4f}", f"+-{half:.4f}", f"{steps.mean():.2f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    given = parser.parse_args()
    for title, one in WORLDS.items():
        Console().print(table(title, one, given.trials))
