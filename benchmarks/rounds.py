"""How often three rounds of a loop find a better student, and how often one that is not better, by simulation.

A round has eight prompts whose students race, and tests those that are left on fresh items of `select`: with the loop's own rules
(`scores.race.rung`, `scores.statistics.holm` and `scores.decision`'s ranking by side), but for two things that would take days. The p
of a paired difference is that of all sign flips, which `scores.statistics.difference` draws 9,999 of, and there are no intervals,
which decide nothing. `test_rounds.py` holds both against `scores.decision.decide`.

As a round's items are its own, it depends on those before it by its model alone: how many better students have won. So each model is
simulated once for all levels, and three rounds are computed from that. No loop ends early here (`scores.ending`), which lets more false
winners through than one that does.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import binom

from benchmarks.race import RUNGS, Floats, Trials
from benchmarks.race import World as Students
from gepa_loop.scores.decision import first_above, holm_by_side, level_of_round
from gepa_loop.scores.race import FINALISTS, rung
from gepa_loop.scores.statistics import DIGITS, Difference

ALPHA, ROUNDS = 0.05, 3
SELECTS = (128, 300)
SAMPLES = 4
RACE = 64
BEHIND, KEEP, PROMPT = 2.0, 0.5, 0.3
"""The defaults of `evaluate.samples`, `task.splits.race` and `[race]`."""
SPREAD, BASE = 0.06, 0.38
"""Standard deviation of what early students and prompts have beyond the last student's gain, and the first model's score."""
EARLY = ((0.1, 0.7), (0.2, 0.85), (0.4, 0.9), (1.0, 1.0))
CORRELATION = 0.7
"""As the world in between of `race.py`."""
BATCH = 1000
"""Trials held in memory at once."""

SCHEDULES: Mapping[str, Sequence[float]] = {
    "alpha spending": [level_of_round(ALPHA, number) for number in range(ROUNDS)],
    "alpha each": [ALPHA] * ROUNDS,
    "alpha / rounds": [ALPHA / ROUNDS] * ROUNDS,
}
LEVELS = sorted({level for levels in SCHEDULES.values() for level in levels})


@dataclass(frozen=True)
class Model:
    """What a round stands on."""

    score: float
    """The model's own."""
    gain: float
    """By which the student of one of the eight prompts is better; those of the others are as the model."""


WORLDS: Mapping[str, Sequence[float]] = {
    "none is better": (0.0,),
    "one is better by .05": (0.05, 0.0),
    "one is better by .10": (0.10, 0.0),
    "one is better by .15": (0.15, 0.0),
    "one in each round, by .10": (0.10, 0.10, 0.10),
}
"""Gain of the better student on the first model, on that student, and so on; the last one holds for those that follow."""


def models(gains: Sequence[float]) -> list[Model]:
    """A world's, by how many better students have won."""
    own = [*gains, *[gains[-1]] * ROUNDS][:ROUNDS]
    return [Model(round(BASE + sum(own[:won]), DIGITS), gain) for won, gain in enumerate(own)]


@dataclass(frozen=True)
class Shares:
    """Of a model's rounds at a level."""

    better: float
    """Whose winner is better than the model."""
    false: float
    """Whose winner is as the model."""


def simulate(model: Model, trials: int, seed: int) -> dict[tuple[int, float], Shares]:
    """Items of `select` and level -> what a model's rounds come to."""
    better = {(items, level): 0 for items in SELECTS for level in LEVELS}
    false = dict(better)
    for begun in range(0, trials, BATCH):
        for winners in _winners(model, min(BATCH, trials - begun), seed + begun):
            for key, winner in winners.items():
                better[key] += winner == BETTER and model.gain > 0
                false[key] += winner is not None and not (winner == BETTER and model.gain > 0)
    return {key: Shares(better[key] / trials, false[key] / trials) for key in better}


BETTER = "7"
"""The last of the eight, to whom no tie goes."""


def _winners(model: Model, trials: int, seed: int) -> list[dict[tuple[int, float], str | None]]:
    world = Students(8, model.score, SPREAD, CORRELATION, EARLY, samples=SAMPLES)
    z = np.zeros(world.students)
    z[int(BETTER)] = model.gain / SPREAD
    own = Trials(world, trials, seed, z)
    bare = np.full((trials, 1), model.score)
    common = own.items(RACE)
    prompts, base = own.look(own.prompts, common), own.look(bare, common)
    helps = prompts.mean(-1) > base.mean(-1)
    living = [[str(n) for n in np.flatnonzero(one)] for one in helps]
    for share in RUNGS:
        seen = own.look(own.at(share), common)
        for n, ids in enumerate(living):
            if len(ids) > FINALISTS:
                early, theirs = _named(seen[n], ids), _named(prompts[n], ids)
                living[n] = list(rung(early, theirs, PROMPT, BEHIND, KEEP).living)
    common = own.items(max(SELECTS))
    students, base = own.look(own.final, common), own.look(bare, common)
    return [
        {
            (items, level): winner
            for items in SELECTS
            for level, winner in decided(base[n, 0, :items], _rows(students[n, :, :items], ids)).items()
        }
        for n, ids in enumerate(living)
    ]


def _named(seen: Floats, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        id_: dict(zip(map(str, range(RACE)), row.tolist(), strict=True))
        for id_, row in _rows(seen, ids).items()
    }


def _rows(seen: Floats, ids: Sequence[str]) -> dict[str, Floats]:
    return {id_: seen[int(id_)] for id_ in ids}


def decided(base: Floats, students: Mapping[str, Floats]) -> dict[float, str | None]:
    """Level -> the winner of a round, from each student's scores of the same items as the base's: `decide` without intervals."""
    gaps = {id_: own - base for id_, own in students.items()}
    differences = {
        id_: Difference(float(gap.mean().round(DIGITS)), (0.0, 0.0), flip_p(gap)) for id_, gap in gaps.items()
    }
    adjusted = holm_by_side(differences) if differences else {}
    ranking = sorted(students, key=lambda id_: (-differences[id_].mean, id_))
    return {level: first_above(ranking, differences, adjusted, level) for level in LEVELS}


def flip_p(gaps: Floats) -> float:
    """Two-sided p of no difference over all flips of signs, where gaps are multiples of 1 / `SAMPLES`.

    Those of one size, flipped, have a binomial distribution; the sum's is the convolution over sizes.
    """
    whole = np.rint(gaps * SAMPLES).astype(int)
    found = np.ones(1)
    for size, count in enumerate(np.bincount(np.abs(whole), minlength=SAMPLES + 1)):
        if size and count:
            spaced = np.zeros(2 * size * count + 1)
            spaced[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
            found = np.convolve(found, spaced)
    most = len(found) // 2
    return float(min(1.0, found[np.abs(np.arange(-most, most + 1)) >= abs(whole.sum())].sum()))


@dataclass(frozen=True)
class Outcome:
    """Of three rounds."""

    winners: tuple[float, ...]
    """Chance of a better student in each."""
    false: float
    """Chance that a winner of any is not better."""
    gain: float
    """Expected, of the last model over the first."""


def three(
    gains: Sequence[float], shares: Sequence[Mapping[float, Shares]], levels: Sequence[float]
) -> Outcome:
    """What rounds at such levels come to; `shares` are those of the world's models."""
    own = models(gains)
    # (Better students so far, whether a false winner was among them) -> chance.
    chances = {(0, False): 1.0}
    winners, gained = list[float](), 0.0
    for level in levels:
        after = dict[tuple[int, bool], float]()
        found = 0.0
        for (won, wrong), chance in chances.items():
            share = shares[won][level]
            found += chance * share.better
            gained += chance * share.better * own[won].gain
            for key, part in (
                ((won + 1, wrong), share.better),
                ((won, True), share.false),
                ((won, wrong), 1 - share.better - share.false),
            ):
                after[key] = after.get(key, 0.0) + chance * part
        chances = after
        winners.append(found)
    return Outcome(tuple(winners), sum(chance for (_, wrong), chance in chances.items() if wrong), gained)


def table(trials: int) -> Table:
    found = Table(title=f"{ROUNDS} rounds, {trials:,} trials of each model", box=SIMPLE_HEAD)
    for head in ("students", "select", "levels", "better in 1", "2", "3", "a false winner", "gain"):
        found.add_column(head, justify="left" if head in ("students", "levels") else "right")
    simulated = dict[Model, dict[tuple[int, float], Shares]]()
    for name, gains in WORLDS.items():
        own = models(gains)
        for model in own:
            if model not in simulated:
                simulated[model] = simulate(model, trials, seed=len(simulated) * 10**6)
        for items in SELECTS:
            shares = [{level: simulated[model][items, level] for level in LEVELS} for model in own]
            for schedule, levels in SCHEDULES.items():
                end = three(gains, shares, levels)
                found.add_row(
                    name,
                    str(items),
                    schedule,
                    *(f"{chance:.3f}" for chance in end.winners),
                    f"{end.false:.3f}",
                    f"{end.gain:.3f}",
                )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    Console(width=110).print(table(parser.parse_args().trials))
