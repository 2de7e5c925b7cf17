"""Is a prompt better chosen by its students' race? The runs of benchmarks/PROTOCOL.md, and their table.

A cell is a task and a seed. Eight prompts compete; each one's student is distilled to its end, and everything that any of the four
rules looks at is scored once: the prompts on `pareto` and on `select`, the students on `race` at each rung, on `select` and on
`test`. The rules are read off the scores afterwards, so all of them choose among the same students.

    python -m benchmarks.claim run --model FOLDER --task router --seed 401 --out DIR
    python -m benchmarks.claim table DIR
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.claim_pools import pool_of
from gepa_loop.config.load import load_config
from gepa_loop.config.tables import EvaluateConfig, RaceConfig
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import write_text
from gepa_loop.scores.card import ways
from gepa_loop.scores.decision import Contender, decide
from gepa_loop.scores.race import FINALISTS, rung
from gepa_loop.scores.rollouts import item_means
from gepa_loop.scores.statistics import ItemScores
from gepa_loop.stages.race import course, rung_steps
from gepa_loop.task.prompts import NO_PROMPT, Candidate

SPLITS = "{train=320,pareto=100,race=64,select=128,test=300}"
TASKS = {
    "router": "router",
    "policy": "policy",
    "lcm": str(Path(__file__).parent / "claim_tasks" / "lcm.toml"),
    "letter_counting": str(Path(__file__).parent / "claim_tasks" / "letter_counting.toml"),
}
"""Task -> its preset or config. The recipe is the default's in all."""
ALPHA = 0.05


def config_of(task: str, seed: int, model: str, more: Sequence[str]) -> Config:
    sets = (f"task.splits={SPLITS}", f"model.name={model}", f"seed={seed}", *more)
    return load_config(TASKS[task], sets, env={})


@dataclass(frozen=True)
class Cell:
    """A lab with what its scores are taken by."""

    lab: Lab
    prompts: Mapping[str, Candidate]

    def scores(self, split: str, prompt: str, adapter: Any, settings: EvaluateConfig) -> dict[str, float]:
        from gepa_loop.sampling.base import Sampling

        rollouts, items = self.lab.rollouts.by(adapter), self.lab.task.splits[split]
        sampling = Sampling(settings.temperature, self.lab.config.sampling.max_tokens)
        rows = rollouts.rows(prompt, items, settings.samples, sampling, "evaluate")
        return item_means(rows)


def run_cell(task: str, seed: int, model: str, out: Path, more: Sequence[str]) -> dict[str, Any]:
    """Distil and score all prompts of a cell."""
    from gepa_loop.training.trainer import Pupil, distill, train

    started, config = time.perf_counter(), config_of(task, seed, model, more)
    folder = out / "students" / f"{task}_{seed}"
    # Of a process that did not end: its students stand beyond the first rungs, whose looks they would be taken for.
    shutil.rmtree(folder, ignore_errors=True)
    lab = open_lab(config).for_training().in_round(0)
    cell = Cell(lab, {c.id: c for c in map(Candidate, pool_of(task, seed))})
    decides, seconds = config.evaluate, dict[str, float]()
    as_searched = EvaluateConfig(samples=config.optimize.samples, temperature=config.optimize.temperature)
    both = ways(decides)

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - started - sum(seconds.values())
        print(f"{task} {seed}: {name} {seconds[name]:.0f} s", flush=True)

    base = {split: cell.scores(split, NO_PROMPT, None, decides) for split in ("race", "select", "pareto")}
    base_test = {way: cell.scores("test", NO_PROMPT, None, own) for way, own in both.items()}
    # The price of a race of eight, in rollouts: its students' steps, their looks, and the last two on `select`.
    price = race_price(config, len(cell.prompts))
    each = max(1, round(price / (len(cell.prompts) * len(lab.task.splits["select"]))))
    lap("base")
    prompts = {
        id_: {
            "text": one.text,
            "pareto": cell.scores("pareto", one.text, None, as_searched),
            "race": cell.scores("race", one.text, None, decides),
            "select": cell.scores(
                "select", one.text, None, EvaluateConfig(samples=each, temperature=decides.temperature)
            ),
        }
        for id_, one in cell.prompts.items()
    }
    lap("prompts")
    pupils = [Pupil(one, folder / id_, lambda row: None) for id_, one in cell.prompts.items()]
    given: dict[str, Any] = {"stack": None, "before": base["pareto"]}
    students: dict[str, dict[str, Any]] = {id_: {"race": {}} for id_ in cell.prompts}
    for step in rung_steps(config.distill, config.race.rungs):
        reached = train(lab, pupils, until=step, **given)
        for id_, one in zip(students, reached, strict=True):
            students[id_]["race"][step] = cell.scores("race", NO_PROMPT, one.adapter, decides)
        lap(f"to step {step}")
    train(lab, pupils, **given)
    lap("training")
    for pupil in pupils:
        done = distill(lab, pupil.candidate, pupil.folder, progress=pupil.progress, **given)
        students[pupil.candidate.id] |= {
            "kept": done.kept.step,
            "last": done.last_step,
            "select": cell.scores("select", NO_PROMPT, done.adapter, decides),
            "test": {way: cell.scores("test", NO_PROMPT, done.adapter, own) for way, own in both.items()},
        }
    lap("students")
    return {
        "task": task,
        "seed": seed,
        "race": config.race.model_dump(mode="json"),
        "samples": {"select": each},
        "price": price,
        "base": base,
        "base_test": base_test,
        "prompts": prompts,
        "students": students,
        "seconds": seconds,
    }


def race_price(config: Config, students: int) -> int:
    """Rollouts of a race: those of its steps, of its looks and of the last two on `select`."""
    splits, samples = config.task.splits, config.evaluate.samples
    way, price, before = course(students, config.race, config.distill), 0, 0
    for step, living in way:
        price += living * (step - before) * config.distill.rollouts
        before = step
    looks = sum(living for _, living in way[:-1]) * (splits.race or 0) * samples
    return price + looks + 2 * splits.select * samples


# What each rule would have done


@dataclass(frozen=True)
class Choice:
    """A rule's student, whether it would be shipped, and what it took in whole distillations."""

    id: str | None
    """None where nothing is distilled, as no prompt helps."""
    shipped: bool
    distillations: float


def mean(scores: ItemScores) -> float:
    return math.fsum(scores.values()) / len(scores)


def by_prompt(cell: Mapping[str, Any], split: str) -> Choice:
    """The student of the prompt that scores best itself."""
    best = max(cell["prompts"], key=lambda id_: mean(cell["prompts"][id_][split]))
    return Choice(best, _ships(cell, [best]) is not None, 1.0)


def by_race(cell: Mapping[str, Any]) -> Choice:
    """The student that `gepa-loop loop` would end with."""
    settings, students, prompts = RaceConfig(**cell["race"]), cell["students"], cell["prompts"]
    base = mean(cell["base"]["race"])
    living = [id_ for id_ in prompts if mean(prompts[id_]["race"]) > base]
    if not living:
        return Choice(None, False, 0.0)
    last = max(one["last"] for one in students.values())
    steps = sorted(int(step) for step in students[living[0]]["race"])
    cost, before = 0.0, 0
    for step in steps:
        if len(living) <= FINALISTS:
            break
        cost += len(living) * (step - before) / last
        before = step
        seen = {id_: students[id_]["race"][str(step)] for id_ in living}
        shown = {id_: prompts[id_]["race"] for id_ in living}
        living = list(rung(seen, shown, settings.prompt, settings.behind, settings.keep).living)
    cost += len(living) * (last - before) / last
    best = max(living, key=lambda id_: mean(students[id_]["select"]))
    winner = _ships(cell, living)
    return Choice(winner or best, winner is not None, cost)


def by_all(cell: Mapping[str, Any]) -> Choice:
    """The best student of all on `select`."""
    every = list(cell["students"])
    best = max(every, key=lambda id_: mean(cell["students"][id_]["select"]))
    winner = _ships(cell, every)
    return Choice(winner or best, winner is not None, float(len(every)))


def _ships(cell: Mapping[str, Any], ids: Sequence[str]) -> str | None:
    contenders = [
        Contender(id_, cell["prompts"][id_]["race"], cell["students"][id_]["select"], None) for id_ in ids
    ]
    return decide(cell["base"]["select"], contenders, ALPHA, cell["seed"]).winner


RULES = {
    "a: prompt on pareto": lambda cell: by_prompt(cell, "pareto"),
    "b: prompt on select": lambda cell: by_prompt(cell, "select"),
    "c: race": by_race,
    "d: distil all": by_all,
}


HEADS = "rule", "test, sampled", "less a, 95 %", "less b, 95 %", "greedy", "ships", "false", "distillations"


def outcome(cell: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of each rule its student's score on `test`, and whether it ships one that is not better than no prompt."""
    found = {}
    bare = mean(cell["base_test"]["sampled"])
    for name, rule in RULES.items():
        choice = rule(cell)
        own = cell["base_test"] if choice.id is None else cell["students"][choice.id]["test"]
        found[name] = {
            "sampled": mean(own["sampled"]),
            "greedy": mean(own["greedy"]),
            "shipped": float(choice.shipped),
            "false": float(choice.shipped and mean(own["sampled"]) <= bare),
            "distillations": choice.distillations,
        }
    best = max(mean(one["test"]["sampled"]) for one in cell["students"].values())
    found["best on test (an oracle)"] = {"sampled": best}
    return found


def tables(cells: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Each task's rules beside rule a, paired over seeds, and all tasks together."""
    shown, names = [], list(RULES)
    outcomes = [(cell["task"], cell["seed"], outcome(cell)) for cell in cells]
    tasks = sorted({task for task, _, _ in outcomes})
    for task in (*tasks, "all"):
        rows = [one for own, _, one in outcomes if task in (own, "all")]
        found = Table(title=f"{task}: {len(rows)} cells", box=SIMPLE_HEAD)
        for head in HEADS:
            found.add_column(head, justify="left" if head == "rule" else "right")
        for name in names:
            gaps = [
                interval(np.array([one[name]["sampled"] - one[other]["sampled"] for one in rows]))
                for other in names[:2]
            ]
            parts = [f"{np.mean([one[name][key] for one in rows]):.3f}" for key in ("sampled", "greedy")]
            counts = [
                f"{np.mean([one[name][key] for one in rows]):.2f}"
                for key in ("shipped", "false", "distillations")
            ]
            found.add_row(name, parts[0], *gaps, parts[1], *counts)
        oracle = np.mean([one["best on test (an oracle)"]["sampled"] for one in rows])
        found.add_row("best on test (an oracle)", f"{oracle:.3f}", *[""] * (len(HEADS) - 2))
        shown.append(found)
    return shown


def interval(gaps: np.ndarray[Any, Any]) -> str:
    """Mean and t interval of paired differences."""
    middle = float(gaps.mean())
    if len(gaps) < 2 or not gaps.std():
        return f"{middle:+.3f}"
    half = float(stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps)))
    return f"{middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--model", required=True)
    runner.add_argument("--task", required=True, choices=sorted(TASKS))
    runner.add_argument("--seed", type=int, required=True)
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--set", action="append", default=[])
    reader = commands.add_parser("table")
    reader.add_argument("folder", type=Path)
    asked = parser.parse_args()
    if asked.command == "run":
        file = asked.out / f"{asked.task}_{asked.seed}.json"
        if not file.exists():
            asked.out.mkdir(parents=True, exist_ok=True)
            made = run_cell(asked.task, asked.seed, asked.model, asked.out, asked.set)
            write_text(file, json.dumps(made))
    else:
        for one in tables([json.loads(path.read_text()) for path in sorted(asked.folder.glob("*.json"))]):
            Console(width=140).print(one)
