"""How far a sweep is, by its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from swept import make_sweep

from gepa_loop.cli import run as gepa_loop
from gepa_loop.config.grids import Grid
from gepa_loop.config.load import load_config
from gepa_loop.run.files import append_jsonl, write_json, write_jsonl, write_text
from gepa_loop.stages.cells import Cell, cells_of
from gepa_loop.stages.grid import go_on_with


def test_states_and_curves(tmp_path: Path) -> None:
    grid = {"grid": "g", "baseline": "a", "cells": {"a": [], "b": ["x=1"]}, "seeds": [3, 4], "prompt": "p1"}
    write_json(tmp_path / "grid.json", grid)
    rows = [
        {"step": 1, "reverse_kl": 9.0},
        {"step": 2, "reverse_kl": None, "held_out_kl": 2.0, "held_out_score": 0.25},
        {"step": 3, "reverse_kl": 0.1, "held_out_kl": 0.5, "held_out_score": 0.0},
    ]
    write_json(tmp_path / "a_seed3" / "distill" / "p1" / "result.json", {"choice": {"step": 2}})
    write_jsonl(tmp_path / "a_seed3" / "distill" / "p1" / "metrics.jsonl", rows)
    write_text(tmp_path / "a_seed3" / "evaluate" / "p1.jsonl", "")
    for name in ("b_seed3", "a_seed4"):
        write_json(tmp_path / name / "manifest.json", {})
    with FileLock(tmp_path / "b_seed3" / ".lock"):
        found = cells_of(tmp_path)
    assert found == [
        Cell("a", 3, "done", 3, {2: 0.25, 3: 0.0}, {2: 2.0, 3: 0.5}, 2),
        Cell("b", 3, "running", 0, {}, {}),
        Cell("a", 4, "stopped", 0, {}, {}),
        Cell("b", 4, "owed", 0, {}, {}),
    ]


def test_a_run_that_is_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "runs" / "r" / "manifest.json", {"birth": "b", "identity": {"command": "loop"}})
    assert gepa_loop(["runs", "cells", "r"]) == 2
    assert "r: no sweep" in capsys.readouterr().err
    assert gepa_loop(["runs", "cells", "last"]) == 2


def test_what_is_owed_is_gone_on_with_by_the_command_that_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep that was extended, and stopped: its outcome is the earlier one."""
    monkeypatch.chdir(tmp_path)
    folder = make_sweep(tmp_path / "runs" / "s")
    for name in ("low", "<i>high", "mid"):
        for seed in range(3):
            write_text(folder / f"{name}_seed{seed}" / "evaluate" / "p1.jsonl", "")
    assert gepa_loop(["runs", "cells", "s"]) == 0
    assert capsys.readouterr().out.endswith("\nnext: gepa-loop report s\n")
    cells = {name: [] for name in ("low", "<i>high", "mid")}
    config = load_config("smoke", (), env={})
    configs = {(name, seed): config for name in cells for seed in range(4)}
    typed = "gepa-loop sweep --grid 'x=[0, 8],1'"
    append_jsonl(folder / "events.jsonl", [{"event": "start", "typed": typed}])
    go_on_with(folder, Grid("g", None, "low", dict.fromkeys(cells, ())), configs, "p1")
    assert gepa_loop(["runs", "cells", "s"]) == 0
    *_, owed, said = capsys.readouterr().out.splitlines()
    assert owed == "12 students: 9 done, 3 owed"
    assert said == f"next: {typed}"
    with FileLock(folder / ".lock"):
        assert gepa_loop(["runs", "cells", "s"]) == 0
    assert "next:" not in capsys.readouterr().out
    # All students are there, and no outcome has them yet.
    for name in cells:
        write_text(folder / f"{name}_seed3" / "evaluate" / "p1.jsonl", "")
    assert gepa_loop(["runs", "cells", "s"]) == 0
    assert "next: gepa-loop sweep" in capsys.readouterr().out
