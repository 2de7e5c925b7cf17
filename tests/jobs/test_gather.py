"""A sweep whose cells are made by processes of their own, one after the other or at the same time, and what they come to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import start
from recorded import recorded

from gepa_loop.cli import run
from gepa_loop.errors import RunDirectoryError
from gepa_loop.jobs.gather import gather_sweep
from gepa_loop.run.directory import open_part
from gepa_loop.run.files import read_json, read_jsonl, write_json

CELLS = ("lr=1e-3_seed0", "lr=1e-2_seed0", "lr=1e-3_seed1", "lr=1e-2_seed1")
SWEEP = ["sweep", "--config", "smoke", "--prompt", "p.txt", "--set", "distill.steps=2", "--seeds", "2"]
GRID = ["--grid", "distill.lr=1e-3,1e-2"]


def _result(sweep: Path) -> dict[str, Any]:
    return read_json(sweep / "result.json", dict[str, Any])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep made by one process, `whole`, and the same one made cell by cell, two at a time, `cells`."""
    cwd = tmp_path_factory.mktemp("gathered")
    (cwd / "p.txt").write_text("Answer with one number.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        assert run([*SWEEP, *GRID, "--run-name", "whole", "--quiet"]) == 0
    for pair in (CELLS[:2], CELLS[2:]):
        begun = [start(cwd, *SWEEP, *GRID, "--run-name", "cells", "--quiet", "--cell", cell) for cell in pair]
        for process in begun:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0 and "made: runs/cells/lr=" in out, err
    return cwd


@pytest.fixture
def cells(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That sweep, to be changed."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(place / "p.txt", tmp_path)
    shutil.copytree(place / "runs" / "cells", tmp_path / "runs" / "cells")
    return tmp_path / "runs" / "cells"


def test_cells_made_apart_come_to_the_same(place: Path, cells: Path) -> None:
    assert not (cells / "result.json").exists()
    found = gather_sweep(cells)
    whole = _result(place / "runs" / "whole")
    for result in (whole, written := _result(cells)):
        result.pop("files")
    assert found == written == whole
    # Each score is made once, by one of the cells.
    rows = [path.relative_to(cells) for path in cells.glob("evaluate/*")]
    assert len(rows) == 4
    for number, cell in enumerate(CELLS):
        stages = {row["stage"] for row in read_jsonl(cells / cell / "stages.jsonl", dict[str, Any])}
        # A stage of a moment is not written, so those that scored the untrained model need not show it.
        assert number in (0, 2) or not {"base", "prompted"} & stages, stages
    for row in [*rows, *(path.relative_to(cells) for path in cells.glob("*_seed*/evaluate/*.jsonl"))]:
        assert (cells / row).read_bytes() == (place / "runs" / "whole" / row).read_bytes(), row
    titles = {"grid.json", "events.jsonl", "stages.jsonl", "result.json of `sweep`", "Score rows"}
    assert titles <= recorded(cells.parent)
    assert run(["report", "cells"]) == 0 and "lr=1e-2" in (cells / "report.html").read_text()
    for cell in CELLS:  # as the other commands' runs, each by the command that continues it
        (event,) = (json.loads(line) for line in (cells / cell / "events.jsonl").read_text().splitlines())
        assert event["typed"].endswith(f"--cell {cell}")


def test_what_is_left_is_made_by_the_sweep_itself(cells: Path, place: Path) -> None:
    shutil.rmtree(cells / CELLS[3])
    before = (cells / CELLS[0] / "distill").stat().st_mtime_ns
    with pytest.raises(RunDirectoryError, match=rf"not finished: {CELLS[3]} is owed"):
        gather_sweep(cells)
    assert run([*SWEEP, *GRID, "--run-name", "cells", "--quiet"]) == 0
    assert _result(cells)["cells"] == _result(place / "runs" / "whole")["cells"]
    assert (cells / CELLS[0] / "distill").stat().st_mtime_ns == before


def test_a_cell_is_not_begun_twice_or_otherwise(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [*SWEEP, *GRID, "--run-name", "cells", "--quiet"]
    assert run([*made, "--cell", CELLS[0]]) == 0  # done already
    for words, code, said in (
        ([*made, "--cell", "lr=5_seed0"], 2, "cell 'lr=5_seed0': the sweep has none of this name"),
        ([*made, "--cell", CELLS[0], "--fresh"], 2, "--fresh would delete what others make"),
        ([*made[:-3], "--cell", CELLS[0]], 2, "the sweep has no name"),
        ([*made, "--cell", CELLS[0], "--set", "distill.steps=3"], 6, "distill.steps: 2 in the run, now 3"),
    ):
        capsys.readouterr()
        assert run(words) == code
        assert said in " ".join(capsys.readouterr().err.split())
    identity = read_json(cells / "manifest.json", dict[str, Any])["identity"]
    own = read_json(cells / CELLS[1] / "manifest.json", dict[str, Any])["identity"]
    with open_part(cells / CELLS[1], own, identity):
        assert run(["runs", "remove", "cells", "--yes"]) == 6 and (cells / "grid.json").exists()
        capsys.readouterr()
        assert run(["runs"]) == 0 and "running" in capsys.readouterr().out
        assert run(made) == 6


def test_what_was_not_begun_and_other_items(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no cell was begun"):
        gather_sweep(tmp_path / "runs" / "nothing")
    manifest = read_json(cells / CELLS[0] / "manifest.json", dict[str, Any])
    manifest.pop("schema_version", None)
    manifest["identity"]["task.fingerprint"] = "other"
    write_json(cells / CELLS[0] / "manifest.json", manifest)
    with pytest.raises(RunDirectoryError, match="was scored on other items than task lcm has now"):
        gather_sweep(cells)
    assert not (cells / "result.json").exists()
