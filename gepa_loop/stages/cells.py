"""How far the cells of a sweep are, as their files say, also while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gepa_loop.run.directory import in_use
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.stages.grid import FILE, GridRecord, cell_folder
from gepa_loop.training.records import DistilledRecord, MetricsRow

State = Literal["done", "running", "stopped", "owed"]
Curve = Mapping[int, float]
"""Step -> value."""


@dataclass(frozen=True)
class Cell:
    """A cell under one seed."""

    name: str
    seed: int
    state: State
    """`stopped`: it was begun, and no process is at it."""
    steps: int
    """Taken so far; fewer than were asked for where it ended early."""
    held_out: Curve
    """The student's score without a prompt on `pareto`, at checks."""
    kl: Curve
    """KL(student || teacher) of held-out replies at checks, nats a token: the same quantity whatever a cell's objective is, as the KL of its steps
    is not."""
    kept: int | None = None
    """The step whose student it is, once that is decided."""


def cells_of(run: Path) -> list[Cell]:
    """The cells of a sweep, seed by seed in the grid's order.

    Raises:
        RunDirectoryError: A file of it is not as it was written.
    """
    record = read_json(run / FILE, GridRecord)
    return [
        _cell(run / cell_folder(name, seed), name, seed, record["prompt"])
        for seed in record["seeds"]
        for name in record["cells"]
    ]


def _cell(folder: Path, name: str, seed: int, prompt: str) -> Cell:
    rows = read_jsonl(folder / "distill" / prompt / "metrics.jsonl", MetricsRow)
    held_out = {row["step"]: score for row in rows if (score := row.get("held_out_score")) is not None}
    kl = {row["step"]: value for row in rows if (value := row.get("held_out_kl")) is not None}
    result = folder / "distill" / prompt / "result.json"
    kept = read_json(result, DistilledRecord)["choice"]["step"] if result.exists() else None
    return Cell(name, seed, _state(folder, prompt), len(rows), held_out, kl, kept)


def _state(folder: Path, prompt: str) -> State:
    if (folder / "evaluate" / f"{prompt}.jsonl").exists():
        return "done"
    if not (folder / "manifest.json").exists():
        return "owed"
    return "running" if in_use(folder) else "stopped"
