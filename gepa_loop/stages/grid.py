"""The cells that a sweep has, which may become more: what is there is kept, as long as it is what would be made now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from gepa_loop.config.grids import Grid
from gepa_loop.config.whole import Config
from gepa_loop.errors import RunDirectoryError
from gepa_loop.lab import without_limits
from gepa_loop.run.files import read_json, write_json
from gepa_loop.run.identity import flatten

FILE = "grid.json"

Configs = Mapping[tuple[str, int], Config]
"""(cell, seed) -> its configuration."""


class GridRecord(TypedDict):
    """What a sweep was asked for last."""

    grid: str
    """The grid's name."""
    baseline: str
    """The cell that the others are compared with."""
    cells: dict[str, list[str]]
    """Cell -> what it sets."""
    seeds: list[int]
    """Training seeds."""
    prompt: str
    """The prompt's id."""


def cell_folder(cell: str, seed: int) -> str:
    """The name of the folder of a cell and seed, in that of its sweep."""
    return f"{cell}_seed{seed}"


def is_sweep(run: Path) -> bool:
    """Whether a run is a sweep, begun."""
    return (run / FILE).exists()


def go_on_with(path: Path, grid: Grid, configs: Configs, prompt: str) -> None:
    """Take note of the cells that a sweep is asked for, in grid.json, if it has no others and none of them was another.

    Raises:
        RunDirectoryError: One that was begun is not asked for, or has other values; they are named.
    """
    asked = {cell_folder(*which) for which in configs}
    if is_sweep(path):
        before = read_json(path / FILE, GridRecord)
        known = [cell_folder(cell, seed) for seed in before["seeds"] for cell in before["cells"]]
        left = [name for name in known if name not in asked and _begun(path / name)]
        if left:
            raise RunDirectoryError(
                f"{path} has {', '.join(left)}, and neither the grid nor --seeds asks for it",
                "A sweep only grows: ask for the cells and seeds that it has and more, or choose another --run-name.",
            )
    for (cell, seed), config in configs.items():
        if _begun(folder := path / cell_folder(cell, seed)):
            _refuse_other(folder, config)
    record: GridRecord = {
        "grid": grid.name,
        "baseline": grid.baseline,
        "cells": {name: list(sets) for name, sets in grid.cells.items()},
        "seeds": sorted({seed for _, seed in configs}),
        "prompt": prompt,
    }
    write_json(path / FILE, record)


def left_out(run: Path, result: Mapping[str, Any]) -> list[str]:
    """The folders of the cells and seeds that a sweep was asked for and that its outcome does not have."""
    asked = read_json(run / FILE, GridRecord)
    had = {cell_folder(cell["cell"], seed) for cell in result["cells"] for seed in result["seeds"]}
    folders = [cell_folder(cell, seed) for seed in asked["seeds"] for cell in asked["cells"]]
    return [folder for folder in folders if folder not in had]


def is_whole(run: Path) -> bool:
    """Whether a sweep has an outcome, and that all that it was asked for."""
    return (run / "result.json").exists() and not left_out(run, read_json(run / "result.json"))


def _begun(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def _refuse_other(folder: Path, config: Config) -> None:
    """Before a model is loaded for it: what else its identity holds is compared when it is opened."""
    if not (folder / "config.json").exists():  # it was killed before anything was made
        return
    was = flatten(without_limits(read_json(folder / "config.json", dict[str, Any])))
    now = flatten(without_limits(config.model_dump(mode="json")))
    changed = [
        f"  {key}: {was.get(key, '(absent)')!r} in the cell, now {now.get(key, '(absent)')!r}"
        for key in sorted({*was, *now} - {"schema_version"})
        if key not in was or key not in now or was[key] != now[key]
    ]
    if changed:
        raise RunDirectoryError(
            f"{folder} was made with other values:\n" + "\n".join(changed),
            "Give a cell with other values another name, choose another --run-name, or start again with --fresh.",
        )
