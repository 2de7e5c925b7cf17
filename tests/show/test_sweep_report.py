"""The page of a sweep: what it claims, and its curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import opened, overflow

from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import read_json, write_json, write_jsonl, write_record
from gepa_loop.show.sweep_report import charts, mean_curve, verdict, write_sweep_report
from gepa_loop.stages.cells import cells_of

CELLS = ("low", "<i>high", "mid")


def over(mean: float, seeds: int, p: float | None = None) -> dict[str, Any]:
    ci = [mean - 0.1, mean + 0.1] if seeds > 2 else None
    return {"mean": mean, "by_seed": [mean] * seeds, "sd": 0.1, "ci": ci, "p": p}


def sweep_record(seeds: int, ps: tuple[float | None, float | None]) -> dict[str, Any]:
    estimate = {"n": 8, "mean": 0.25, "ci": [0.1, 0.4]}
    cells = [
        {"cell": name, "sets": [f"x={n}"], "student": over(0.5, seeds), "difference": None, "adapters": []}
        for n, name in enumerate(CELLS)
    ]
    cells[1]["difference"], cells[2]["difference"] = over(0.25, seeds, ps[0]), over(-0.125, seeds, ps[1])
    untrained = [{"cells": list(CELLS), "base": estimate, "prompted": {**estimate, "mean": 0.75}}]
    head = {"grid": "g", "split": "select", "items": 24, "seeds": list(range(seeds)), "baseline": "low"}
    return {**head, "untrained": untrained, "cells": cells}


@pytest.mark.parametrize(
    ("seeds", "ps", "said"),
    [
        (1, (None, None), "Nothing is claimed: 1 training seed cannot tell recipes apart"),
        (2, (0.001, 0.001), "Nothing is claimed: 2 training seeds cannot tell recipes apart"),
        (3, (0.05, None), "No cell can be told from low by 3 training seeds"),
        (3, (0.0123, 0.6), "<i>high is better than low (+.250, p .0123)"),
        (
            4,
            (0.04, 0.01),
            "<i>high is better than low (+.250, p .0400); mid is worse than low (-.125, p .0100)",
        ),
    ],
)
def test_what_is_claimed(seeds: int, ps: tuple[float | None, float | None], said: str) -> None:
    assert verdict(sweep_record(seeds, ps)) == said  # type: ignore[arg-type]


def test_a_mean_stands_where_all_seeds_have_a_value() -> None:
    assert mean_curve([{1: 0.0, 2: 0.5, 3: 1.0}, {2: 0.25, 3: 0.5, 4: 9.0}]) == {2: 0.375, 3: 0.75}
    assert mean_curve([]) == {} and mean_curve([{1: 1.0}, {}]) == {}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sweep of three cells and three seeds; a score is 0 at step 1 and (cell + seed) / 8 at step 2."""
    folder = tmp_path / "sw"
    grid = {"grid": "g", "baseline": "low", "cells": {name: [] for name in CELLS}, "seeds": [0, 1, 2]}
    write_json(folder / "grid.json", {**grid, "prompt": "p1"})
    write_json(folder / "config.json", {"seed": 0, "note": "</script><b>bold</b>"})
    write_record(folder / "result.json", sweep_record(3, (0.01, 0.5)))
    for n, name in enumerate(CELLS):
        for seed in range(3):
            rows = [
                {"step": 1, "reverse_kl": 2.0, "held_out_score": 0.0},
                {"step": 2, "reverse_kl": 1.0, "held_out_score": (n + seed) / 8},
            ]
            write_jsonl(folder / f"{name}_seed{seed}/distill/p1/metrics.jsonl", rows)
    return folder


def test_the_curves(run: Path) -> None:
    low, low_kl, *_, mid, _ = charts(sweep_record(3, (None, None)), cells_of(run))  # type: ignore[arg-type]
    assert (low.title, low_kl.title) == ("low: held-out score", "low: KL(student || teacher)")
    assert low.head == ["step", "mean", "seed 0", "seed 1", "seed 2"]
    assert low.rows == [["1", *["0.000"] * 4], ["2", "0.125", "0.000", "0.125", "0.250"]]
    assert mid.rows[1] == ["2", "0.375", "0.250", "0.375", "0.500"]
    own, other = json.loads(low.figure), json.loads(mid.figure)
    assert [trace["name"] for trace in own["data"]] == ["seed 0", "seed 1", "seed 2", "mean over seeds"]
    *_, baseline, mean = other["data"]
    assert (baseline["name"], baseline["y"], mean["y"]) == ("baseline, mean", [0.0, 0.125], [0.0, 0.375])
    # Curves of one kind have one axis.
    assert own["layout"]["yaxis"]["range"] == other["layout"]["yaxis"]["range"] == [-0.015, 0.52]


def test_a_sweep_that_goes_on_shows_what_it_had(run: Path, tmp_path: Path) -> None:
    before = write_sweep_report(run).read_text()
    grid = read_json(run / "grid.json", dict[str, Any])
    write_json(run / "grid.json", {**grid, "seeds": [0, 1, 2, 3], "cells": {**grid["cells"], "more": []}})
    assert write_sweep_report(run).read_text() == before
    write_json(tmp_path / "new" / "grid.json", grid)
    with pytest.raises(RunDirectoryError, match="new is not finished"):
        write_sweep_report(tmp_path / "new")


def test_the_page_in_a_browser(run: Path, browser: Any) -> None:
    page = write_sweep_report(run)
    assert page == run / "report.html"
    with opened(browser, page) as seen:
        seen.page.wait_for_selector(".area .main-svg")
        assert not seen.faults and not seen.asked
        assert seen.page.title() == "sw · gepa-loop"
        assert seen.page.inner_text("h1") == "<i>high is better than low (+.250, p .0100)."
        table = seen.page.inner_text("table")
        assert ".500 [.400, .600]" in table and "+.250 [+.150, +.350]" in table
        assert seen.page.locator("#curves figure").count() == 6
        assert "Before training: .250 without the prompt, .750 with it." in seen.page.inner_text("main")
        assert "</script><b>bold</b>" in str(seen.page.text_content("#run pre"))
    with opened(browser, page, width=390) as seen:
        assert overflow(seen.page) <= 0
