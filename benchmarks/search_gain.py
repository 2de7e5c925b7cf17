"""What our search and stock `dspy.GEPA` make of the preset `sums` with one budget; run by search.py."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.search_dspy import search_stock
from benchmarks.search_ours import STOCK, VARIANTS, configure, interval, search_ours
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, seed_prompt
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import mean_score
from gepa_loop.task.items import load_task
from gepa_loop.task.prompts import Candidate

MEANS = (
    "test",
    "test_of_seed_prompt",
    "test_of_best_mean",
    "reported",
    "rollouts",
    "proposals",
    "accepted",
    "seconds",
    "cpu_seconds",
)
"""Columns of the rows whose means over seeds are told."""


def gain(
    opened: Lab, sides: Sequence[str], seeds: Sequence[int], budget: int, threads: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """For each seed and side: its search with the model of `opened`, and what it chose scored on `test`."""
    for seed in seeds:
        labs = {name: at(opened, configure(budget, seed, *sets)) for name, sets in VARIANTS.items()}
        plain = at(opened, configure(budget, seed))
        test = tester(plain)
        before = test(seed_prompt(plain.config.optimize))  # it also warms the sampler
        for name in sides:
            outcome = (
                search_ours(labs[name], folder / str(seed) / name)
                if name in labs
                else search_stock(plain, budget, threads)
            )
            yield {
                "seed": seed,
                "side": name,
                "test": test(outcome.chosen),
                "test_of_seed_prompt": before,
                "test_of_best_mean": test(outcome.best),
                **outcome.row(),
                "chosen": outcome.chosen.text,
            }


def at(lab: Lab, config: Config) -> Lab:
    """A lab with the model that another one has loaded, and the task of a config's seed."""
    task = load_task(config.task, config.seed)
    rollouts = dataclasses.replace(lab.rollouts, task=task, seed=config.seed)
    return dataclasses.replace(lab, config=config, task=task, rollouts=rollouts)


def tester(lab: Lab) -> Callable[[Candidate], float]:
    """What scores a prompt on `test`, greedily; one that was scored before is not scored again."""
    seen: dict[str, float] = {}

    def test(prompt: Candidate) -> float:
        if prompt.id not in seen:
            greedy = Sampling(0.0, lab.config.sampling.max_tokens)
            rows = lab.rollouts.rows(prompt.text, lab.task.splits["test"], 1, greedy, "evaluate")
            seen[prompt.id] = mean_score(rows)
        return seen[prompt.id]

    return test


def gains(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each side, means over seeds, and its difference from the stock with a t interval over seeds."""
    summary = {}
    for name in dict.fromkeys(row["side"] for row in rows):
        own, stock = ([row for row in rows if row["side"] == side] for side in (name, STOCK))
        less = [a["test"] - b["test"] for a, b in zip(own, stock, strict=True)]
        means = {key: statistics.mean(row[key] for row in own) for key in MEANS}
        summary[name] = {
            **means,
            "against_stock": {"mean": statistics.mean(less), "ci": interval(less)},
            "optimism": means["reported"] - means["test"],
            "winners": sum(row["winner"] for row in own),
        }
    return summary
