"""Finished sweeps, as records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gepa_loop.run.files import write_json, write_jsonl, write_record

CELLS = ("low", "<i>high", "mid")


def over(mean: float, seeds: int, p: float | None = None) -> dict[str, Any]:
    ci = [mean - 0.1, mean + 0.1] if seeds > 2 else None
    return {"mean": mean, "by_seed": [mean] * seeds, "sd": 0.1, "ci": ci, "p": p}


def sweep_record(
    seeds: int, ps: tuple[float | None, float | None], names: Sequence[str] = CELLS
) -> dict[str, Any]:
    """The record of three cells, the first of them the baseline; the others are better by .25 and worse by .125, with these p."""
    estimate = {"n": 8, "mean": 0.25, "ci": [0.1, 0.4]}
    cells = [
        {"cell": name, "sets": [f"x={n}"], "student": over(0.5, seeds), "difference": None, "adapters": []}
        for n, name in enumerate(names)
    ]
    cells[1]["difference"], cells[2]["difference"] = over(0.25, seeds, ps[0]), over(-0.125, seeds, ps[1])
    untrained = [{"cells": list(names), "base": estimate, "prompted": {**estimate, "mean": 0.75}}]
    head = {"grid": "g", "split": "select", "items": 24, "seeds": list(range(seeds)), "baseline": names[0]}
    return {**head, "untrained": untrained, "cells": cells}


def make_sweep(folder: Path, names: Sequence[str] = CELLS, alpha: float = 0.05) -> Path:
    """A sweep of three cells and three seeds, in a folder; a score is 0 at step 1 and (cell + seed) / 8 at step 2."""
    grid = {"grid": "g", "baseline": names[0], "cells": {name: [] for name in names}, "seeds": [0, 1, 2]}
    identity = {"command": "sweep", "model.name": "tiny", "task.name": "lcm", "task.fingerprint": "f00d"}
    write_json(folder / "manifest.json", {"birth": "b", "identity": identity})
    write_json(folder / "grid.json", {**grid, "prompt": "p1"})
    write_json(folder / "config.json", {"seed": 0, "loop": {"alpha": alpha}, "note": "</script><b>bold</b>"})
    write_record(folder / "result.json", sweep_record(3, (0.01, 0.5), names))
    for n, name in enumerate(names):
        for seed in range(3):
            rows = [
                {"step": 1, "reverse_kl": 9.0, "held_out_kl": 2.0, "held_out_score": 0.0},
                {"step": 2, "reverse_kl": 9.0, "held_out_kl": 1.0, "held_out_score": (n + seed) / 8},
            ]
            write_jsonl(folder / f"{name}_seed{seed}/distill/p1/metrics.jsonl", rows)
    return folder
