"""A setting in which every prompt is equally good: whoever reports a winner there is wrong; run by search.py."""

from __future__ import annotations

import itertools
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.search_dspy import search_stock
from benchmarks.search_ours import STOCK, VARIANTS, Silent, configure, interval, search_ours
from gepa_loop.config.tables import ModelConfig
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, seed_prompt
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.bundled import TINY
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import read_jsonl
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Completion, Sampling, SelfMeasured
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.scores.statistics import item_scores, wilson
from gepa_loop.search.records import FrontRow
from gepa_loop.stages.score import scores
from gepa_loop.task.items import SPLITS, Item, Task
from gepa_loop.task.prompts import NO_PROMPT, Renderer
from gepa_loop.task.readings import each

RIGHT, WRONG = "right", "wrong"

SECTIONS = 60
"""Texts without a meaning that the offline proposer puts together; every proposal is another text."""

CONTEXT = 4096
"""Tokens; the model that is not there reads any prompt."""

QUESTION = re.compile(r"Item \w+ \d+")


class Coin:
    """A sampler that answers an item right with the item's own chance, whatever the prompt says.

    Each (prompt, item, sample) is a draw of its own, as at temperature 1 without common random numbers, on which equal
    prompts would tie. Row seeds are not read.
    """

    def __init__(self, base: Base, chances: Mapping[str, float], seed: int) -> None:
        self.tokenizer = base.tokenizer
        self.replies = {
            text: (*self.tokenizer(text)["input_ids"], base.stop_ids[0]) for text in (RIGHT, WRONG)
        }
        self.chances = chances
        """Question -> how often it is answered right."""
        self.seed = seed
        self.asked: Counter[str] = Counter()
        """Prompt and question as one text -> how often they were asked."""

    def sleep(self) -> SelfMeasured:
        return {}

    def close(self) -> None:
        pass

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        completions = []
        for tokens in prompts:
            text = self.tokenizer.decode(list(tokens))
            reply = self.replies[RIGHT if self.right(text, self.asked[text]) else WRONG]
            self.asked[text] += 1
            completions.append(Completion(reply, (0.0,) * len(reply), "stop"))
        return completions

    def right(self, text: str, sample: int) -> bool:
        """Whether the `sample`-th reply to a text is right."""
        return random.Random(derive_seed(self.seed, text, sample)).random() < self.chance(text)

    def chance(self, text: str) -> float:
        """How often a text, which ends with the question, is answered right."""
        return self.chances[QUESTION.findall(text)[-1]]


def null_config(budget: int, seed: int, *sets: str) -> Config:
    """The sizes of `sums`, and texts that mean nothing."""
    sections = ", ".join(f"{{ mends = 'content', text = 'Text {n}.' }}" for n in range(1, SECTIONS + 1))
    own = (f"model.name={TINY}", f"optimize.reflection.sections=[{sections}]")
    return configure(budget, seed, *own, "optimize.reflection.examples=0", *sets)


def null_lab(base: Base, config: Config, coin: type[Coin] = Coin) -> Lab:
    """A lab of items whose chances are drawn from Beta(1, 1), which is uniform; of `base` only the tokenizer is used."""
    sizes = config.task.splits.model_dump()
    splits = {
        name: tuple(
            Item(f"{name}:{n}", (("user", f"Item {name} {n}"),), RIGHT, {}) for n in range(sizes[name] or 0)
        )
        for name in SPLITS
    }
    drawn = random.Random(derive_seed(config.seed, "chances"))
    chances = {item.question: drawn.betavariate(1, 1) for name in SPLITS for item in splits[name]}
    task = Task(
        "null",
        "whole",
        splits,
        len(chances),
        len(chances),
        (RIGHT, 1.0),
        "",
        each(lambda reading: (float(reading.read == RIGHT), "")),
    )
    sampler = coin(base, chances, derive_seed(config.seed, "coin"))
    rollouts = Rollouts(sampler, Renderer(base.tokenizer, CONTEXT), task, config.seed)
    return Lab(config, base, task, rollouts, "a coin for each item")


def expected(lab: Lab, split: str) -> float:
    """The score that every prompt has on a split in the mean."""
    items = lab.task.splits[split]
    return statistics.fmean(coin_of(lab).chances[item.question] for item in items)


def coin_of(lab: Lab) -> Coin:
    """The sampler of `null_lab`."""
    assert isinstance(lab.rollouts.sampler, Coin)
    return lab.rollouts.sampler


def null(sides: Sequence[str], trials: int, budget: int, folder: Path) -> Iterator[dict[str, Any]]:
    """For each trial and side: whether it reports a winner, and its mean beside the true one."""
    base = load_base(ModelConfig(name=TINY, dtype="float32", device="cpu"))
    for trial, name in itertools.product(range(trials), sides):
        lab = null_lab(base, null_config(budget, trial, *VARIANTS.get(name, ())))
        if name == STOCK:
            outcome, judged = search_stock(lab, budget, threads=1), "pareto"
        else:
            outcome, judged = search_ours(lab, folder / str(trial) / name), "select"
        useless = None if name == STOCK else would_distil(lab, folder / str(trial) / name)
        own = {"trial": trial, "side": name, "true": expected(lab, judged), "distilled": useless}
        yield own | outcome.row()


def would_distil(lab: Lab, folder: Path) -> bool:
    """Whether a prompt that the search found has a mean on `select` above the bare model's, as a loop asks on `race` before it distills."""
    path = folder / "evaluate" / "bare.jsonl"
    bare = item_scores(scores(lab, "select", NO_PROMPT, None, path, Silent()))
    least = sum(bare.values()) / len(bare) + lab.config.loop.min_gap
    front = read_jsonl(folder / "optimize" / "front.jsonl", FrontRow)
    seed = seed_prompt(lab.config.optimize)
    return any(row["select"]["mean"] > least for row in front if row["select"] and row["id"] != seed.id)


def false_winners(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each side, winners, their rate with Wilson's 95 % interval, and what is reported above the true mean."""
    summary = {}
    for name in dict.fromkeys(row["side"] for row in rows):
        own = [row for row in rows if row["side"] == name]
        winners = [row for row in own if row["winner"]]
        rate = len(winners) / len(own)
        told = [row.get("distilled") for row in own]
        summary[name] = {
            "trials": len(own),
            "winners": len(winners),
            "rate": rate,
            "ci": list(wilson(rate, len(own))),
            "distilled": sum(map(bool, told)) / len(told) if None not in told else None,
            "optimism": _optimism(own),
            "optimism_of_winners": _optimism(winners) if winners else None,
            **{
                key: statistics.mean(row[key] for row in own)
                for key in ("rollouts", "proposals", "accepted", "cpu_seconds")
            },
            "most_rollouts": max(row["rollouts"] for row in own),
        }
    return summary


def _optimism(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    above = [row["reported"] - row["true"] for row in rows]
    return {"mean": statistics.mean(above), "ci": interval(above)}
