"""Sweeps: one prompt distilled under each cell of a grid, the students compared with the baseline cell's over seeds.

Every cell and seed is a run directory of its own, so a sweep goes on where it stopped, and with more cells or seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from gepa_loop.config.grids import Grid, cell_of
from gepa_loop.config.whole import Config
from gepa_loop.lab import Lab
from gepa_loop.run.directory import Run, open_run
from gepa_loop.run.files import read_jsonl, read_record, write_json, write_record
from gepa_loop.run.identity import fingerprint
from gepa_loop.scores.ledger import item_print
from gepa_loop.scores.over_seeds import SeedScores, over_seeds, seed_difference
from gepa_loop.scores.records import EstimateRecord, OverSeedsRecord, ScoreRow
from gepa_loop.scores.statistics import ItemScores, estimate, holm, item_scores
from gepa_loop.stages.distillation import distill_alone
from gepa_loop.stages.grid import Configs, cell_folder, go_on_with
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.questions import refuse_questions
from gepa_loop.stages.score import scores
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.training.teacher.choose import check_teacher

SPLIT = "select"

BASE, PROMPTED = "base", "prompted"
"""The untrained model without the prompt, and with it."""

ByItem = dict[str, list[float]]
"""What an item is known by -> its score at each seed that drew it."""


class UntrainedRecord(TypedDict):
    """The model that cells with the same model and sampling begin with."""

    cells: list[str]
    """Those cells."""
    base: EstimateRecord
    """Without the prompt, over distinct items: one that several seeds drew counts once, with the mean of its scores."""
    prompted: EstimateRecord
    """With it."""


class CellRecord(TypedDict):
    """A cell of the grid."""

    cell: str
    """Its name."""
    sets: list[str]
    """What it sets."""
    student: OverSeedsRecord
    """Its students' scores without a prompt, by seed."""
    difference: OverSeedsRecord | None
    """Less the baseline's, paired by seed; p after Holm's correction over all other cells; null for the baseline."""
    adapters: list[str]
    """Where the students lie, by seed."""


class SweepRecord(TypedDict):
    """The outcome of a sweep."""

    grid: str
    """The grid's name."""
    split: str
    """Whose items were scored."""
    items: int
    """Distinct ones, of all seeds together."""
    seeds: list[int]
    """Training seeds."""
    untrained: list[UntrainedRecord]
    """The models that were trained."""
    baseline: str
    """The cell that the others are compared with."""
    cells: list[CellRecord]
    """In the grid's order."""


def check_cells(lab: Lab, grid: Grid, configs: Configs, candidate: Candidate, source: str) -> None:
    """Check the prompt and the teacher of each cell, under its first seed, before anything is spent."""
    first = min(seed for _, seed in configs)
    for name in dict.fromkeys(name for name, _ in configs):
        with cell_of(grid, name):
            refuse_questions(configs[name, first].distill, "sweep")
            cell = lab.under(configs[name, first])
            cell.check_prompt(candidate, source)
            check_teacher(cell, candidate.text)


def run_sweep(
    lab: Lab,
    grid: Grid,
    configs: Configs,
    candidate: Candidate,
    run: Run,
    observer: Observer,
) -> SweepRecord:
    """Distill `candidate` under every config, score the students on `select`, and write result.json.

    Cells are paired by seed and by the items of each seed: another seed draws other items. A finished sweep goes on with the cells
    and seeds that it has not had.

    Raises:
        RunDirectoryError: A cell that was begun is not asked for, or has other values.
    """
    go_on_with(run.path, grid, configs, candidate.id)
    if (done_before := _finished(run.path, grid, configs)) is not None:
        return done_before
    items: dict[int, Sequence[Item]] = {}
    for which, config in configs.items():
        if config.seed != lab.config.seed:
            observer.stage("items", candidate=f"seed {config.seed}")
        lab = lab.under(config, observer.progress).in_run(run.path)
        items[config.seed] = lab.task.splits[SPLIT]
        score_untrained(lab, run.path, configs, candidate, observer)
        identity = lab.identity(command="sweep", prompts=candidate.id)
        with open_run(run.path / cell_folder(*which), identity) as cell:
            write_json(cell.path / "config.json", config.model_dump(mode="json"))
            make_cell(lab, which, candidate, cell, observer)
    return gathered(run.path, grid, configs, candidate.id, items)


def score_untrained(
    lab: Lab, sweep: Path, configs: Configs, candidate: Candidate, observer: Observer
) -> None:
    """Score the model that the lab's cell begins with, without the prompt and with it, if no cell before it begins with the same.

    That is said by the order of the cells alone: of processes that make one each no two write the same file.
    """
    mine = lab.config
    first = next(one for one in configs.values() if (_view(one), one.seed) == (_view(mine), mine.seed))
    if first != mine:
        return
    for label, text in ((BASE, NO_PROMPT), (PROMPTED, candidate.text)):
        observer.stage(label, candidate=f"seed {mine.seed}")
        scores(lab, SPLIT, text, None, _untrained(sweep, label, mine), observer)


def make_cell(lab: Lab, which: tuple[str, int], candidate: Candidate, cell: Run, observer: Observer) -> None:
    """The student of a cell and seed, and its scores."""
    label = f"{which[0]}, seed {which[1]}"
    done = distill_alone(lab, candidate, cell, observer, label=label)
    observer.stage("student", candidate=label)
    scores(lab, SPLIT, NO_PROMPT, done.adapter, _student(cell.path, candidate.id), observer)


def gathered(
    path: Path, grid: Grid, configs: Configs, prompt: str, items: Mapping[int, Sequence[Item]]
) -> SweepRecord:
    """Compare the cells, all of which are made, and write result.json.

    Args:
        path: The sweep's folder.
        grid: Its cells.
        configs: Their configurations.
        prompt: The prompt's id.
        items: Seed -> its items of `select`.

    Raises:
        RunDirectoryError: Rows are missing, or not as they were written.
    """
    views: dict[str, list[str]] = {}
    """Cells whose untrained model is scored in the same way."""
    base: dict[str, ByItem] = {}
    prompted: dict[str, ByItem] = {}
    students: dict[str, dict[int, ItemScores]] = {name: {} for name in grid.cells}
    adapters: dict[str, list[str]] = {name: [] for name in grid.cells}
    noted: set[Path] = set()

    def read(file: Path, config: Config) -> ItemScores:
        due = len(items[config.seed]) * config.evaluate.samples
        return item_scores(read_jsonl(file, ScoreRow, at_least=due))

    for (name, seed), config in configs.items():
        view, folder = _view(config), cell_folder(name, seed)
        if name not in views.setdefault(view, []):
            views[view].append(name)
        for label, into in ((BASE, base), (PROMPTED, prompted)):
            file = _untrained(path, label, config)
            if file not in noted:
                _note(into.setdefault(view, {}), items[seed], read(file, config))
                noted.add(file)
        students[name][seed] = read(_student(path / folder, prompt), config)
        adapters[name].append(f"{folder}/distill/{prompt}/adapter")
    first = min(seed for _, seed in configs)
    result: SweepRecord = {
        "grid": grid.name,
        "split": SPLIT,
        "items": len(base[_view(configs[grid.baseline, first])]),
        "seeds": _seeds(configs),
        "untrained": [
            {
                "cells": names,
                "base": estimate(_averaged(base[view]), first).as_dict(),
                "prompted": estimate(_averaged(prompted[view]), first).as_dict(),
            }
            for view, names in views.items()
        ],
        "baseline": grid.baseline,
        "cells": compared(grid, students, adapters),
    }
    write_record(path / "result.json", result, *(place for own in adapters.values() for place in own))
    return result


def _untrained(path: Path, label: str, config: Config) -> Path:
    return path / "evaluate" / f"{label}_{_view(config)}_seed{config.seed}.jsonl"


def _student(cell: Path, prompt: str) -> Path:
    return cell / "evaluate" / f"{prompt}.jsonl"


def _finished(path: Path, grid: Grid, configs: Configs) -> SweepRecord | None:
    """The outcome, where it is there and has all cells and seeds that are asked for."""
    if not (path / "result.json").exists():
        return None
    found = read_record(path / "result.json", SweepRecord)
    cells = {cell["cell"] for cell in found["cells"]}
    return found if (cells, found["seeds"]) == (set(grid.cells), _seeds(configs)) else None


def _seeds(configs: Configs) -> list[int]:
    return sorted({seed for _, seed in configs})


def _view(config: Config) -> str:
    """What the untrained model's scores depend on, besides task and seed; cells that share it share its rows."""
    return fingerprint([config.model.model_dump(), config.sampling.max_tokens, config.evaluate.model_dump()])[
        :6
    ]


def _note(into: ByItem, items: Sequence[Item], found: ItemScores) -> None:
    """Add a seed's scores, in place."""
    # Another seed may draw the same item; of a made task it then has another id.
    prints = {item.id: item_print(item) for item in items}
    for item, score in found.items():
        into.setdefault(prints[item], []).append(score)


def _averaged(by_item: ByItem) -> dict[str, float]:
    return {item: math.fsum(own) / len(own) for item, own in by_item.items()}


def compared(
    grid: Grid, students: Mapping[str, SeedScores], adapters: Mapping[str, list[str]]
) -> list[CellRecord]:
    """Each cell's score and its paired difference from the baseline's over seeds; p after Holm over all other cells."""
    others = [name for name in grid.cells if name != grid.baseline]
    gaps = {name: seed_difference(students[name], students[grid.baseline]) for name in others}
    # One that has no p was asked about as well.
    corrected = holm([1.0 if gap.p is None else gap.p for gap in gaps.values()])
    adjusted = {name: p for (name, gap), p in zip(gaps.items(), corrected, strict=True) if gap.p is not None}
    return [
        {
            "cell": name,
            "sets": list(grid.cells[name]),
            "student": over_seeds(students[name]).as_dict(),
            "difference": {**gaps[name].as_dict(), "p": adjusted.get(name)} if name in gaps else None,
            "adapters": adapters[name],
        }
        for name in grid.cells
    ]
