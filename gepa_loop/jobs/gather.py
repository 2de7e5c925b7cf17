"""What the tasks of a job come to: a sweep's result from its cells, or means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gepa_loop.config.grids import Grid
from gepa_loop.config.whole import Config
from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.run.identity import read_manifest
from gepa_loop.scores.over_seeds import OverSeeds, gaps_over_seeds, means_over_seeds
from gepa_loop.search.records import FrontRow
from gepa_loop.stages.cells import cells_of
from gepa_loop.stages.grid import FILE, GridRecord, cell_folder, is_sweep
from gepa_loop.sweep import SPLIT, SweepRecord, gathered
from gepa_loop.task.items import Item, load_task


def gather_sweep(path: Path) -> SweepRecord:
    """Write result.json of a sweep whose cells were made one by one. The task is loaded for its items, and no model.

    Raises:
        RunDirectoryError: A cell is not done, or the task has other items than it was made with.
    """
    if not is_sweep(path):
        raise RunDirectoryError(
            f"{path}: no cell was begun", "Its jobs wait in the queue, or ended before that."
        )
    record = read_json(path / FILE, GridRecord)
    if owed := [
        f"{cell_folder(one.name, one.seed)} is {one.state}" for one in cells_of(path) if one.state != "done"
    ]:
        raise RunDirectoryError(
            f"sweep {path.name} is not finished: {', '.join(owed)}",
            "Submit the same again for those whose jobs have ended; they go on where they stopped.",
        )
    configs = {
        (cell, seed): _config(path / cell_folder(cell, seed))
        for seed in record["seeds"]
        for cell in record["cells"]
    }
    items: dict[int, Sequence[Item]] = {}
    for (cell, seed), config in configs.items():
        if seed not in items:
            items[seed] = _items(path / cell_folder(cell, seed), config)
    cells = {name: tuple(sets) for name, sets in record["cells"].items()}
    grid = Grid(record["grid"], None, record["baseline"], cells)
    return gathered(path, grid, configs, record["prompt"], items)


def _config(cell: Path) -> Config:
    values = read_json(cell / "config.json", dict[str, Any])
    return Config.model_validate(values)


def _items(cell: Path, config: Config) -> Sequence[Item]:
    task = load_task(config.task, config.seed, config.loop.rounds)
    if task.fingerprint != read_manifest(cell)["identity"]["task.fingerprint"]:
        raise RunDirectoryError(
            f"{cell} was scored on other items than task {task.name} has now",
            "Put its data back as they were.",
        )
    return task.splits[SPLIT]


def over_runs(command: str, runs: Mapping[int, Path]) -> dict[str, OverSeeds]:
    """What finished runs of several seeds found: each score and difference by its name, over the seeds that have it.

    Args:
        command: Which made them: `loop`, `distill`, `optimize` or `evaluate`.
        runs: Seed -> folder.

    Raises:
        RunDirectoryError: A result is not as it was written.
    """
    scores: dict[str, list[float]] = {}
    gaps: dict[str, list[float]] = {}
    for seed in sorted(runs):
        own, between = _numbers(command, runs[seed])
        for name, mean in own.items():
            scores.setdefault(name, []).append(mean)
        for name, mean in between.items():
            gaps.setdefault(name, []).append(mean)
    return {
        **{name: means_over_seeds(values) for name, values in scores.items()},
        **{name: gaps_over_seeds(values) for name, values in gaps.items()},
    }


def result_file(command: str, run: Path) -> Path:
    """What is there once a run is finished."""
    return run / ("optimize/result.json" if command == "optimize" else "result.json")


def _numbers(command: str, run: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The means of a run's scores, and of its differences."""
    result = read_json(result_file(command, run), dict[str, Any])
    if command == "evaluate":
        names = ["first", "second"][: len(result["subjects"])]
        scores = {
            f"{name}: {one['name']}": one["mean"] for name, one in zip(names, result["subjects"], strict=True)
        }
        return scores, {"first - second": result["difference"]["mean"]} if result["difference"] else {}
    if command == "optimize":
        # Chosen on the items that it is scored on, and called so.
        best = read_jsonl(run / "optimize" / "front.jsonl", FrontRow, at_least=1)[0]
        return _means({"best prompt, on the items of select that chose it": best["select"]}), _means(
            {"best prompt - seed prompt, there": best["against_seed"]}
        )
    cards = result["test"] if command == "loop" else result[result["decides"]]
    scores = {key: cards[key] for key in ("base", "prompted", "student")}
    gaps = {
        f"{a} - {b}": cards[f"{a}_minus_{b}"]
        for a, b in (("prompted", "base"), ("student", "base"), ("student", "prompted"))
    }
    return _means(scores), _means(gaps)


def _means(cards: Mapping[str, Any]) -> dict[str, float]:
    return {name: card["mean"] for name, card in cards.items() if card is not None}
