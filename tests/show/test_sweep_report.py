"""The page of a sweep: what it claims, and its curves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from browser import opened, overflow
from hostile import HOSTILE
from swept import make_sweep, sweep_record

from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import read_json, write_json, write_record
from gepa_loop.show.sweep_report import charts, level_of, mean_curve, sweep_page, verdict, write_sweep_report
from gepa_loop.stages.cells import cells_of


@pytest.mark.parametrize(
    ("seeds", "ps", "said"),
    [
        (1, (None, None), "Nothing is claimed: 1 training seed cannot tell recipes apart"),
        (2, (0.001, 0.001), "Nothing is claimed: 2 training seeds cannot tell recipes apart"),
        (3, (0.05, None), "No cell can be told from low by 3 training seeds"),
        (3, (0.0123, 0.6), "<i>high is better than low (+.250, p = .0123)"),
        (
            4,
            (0.04, 0.01),
            "<i>high is better than low (+.250, p = .0400); mid is worse than low (-.125, p = .0100)",
        ),
    ],
)
def test_what_is_claimed(seeds: int, ps: tuple[float | None, float | None], said: str) -> None:
    assert verdict(sweep_record(seeds, ps), 0.05) == said  # type: ignore[arg-type]


def test_claims_are_at_the_level_of_the_configuration(tmp_path: Path) -> None:
    strict, loose = make_sweep(tmp_path / "strict", alpha=0.01), make_sweep(tmp_path / "loose", alpha=0.011)
    assert (level_of(strict), level_of(loose)) == (0.01, 0.011)
    assert "No cell can be told from low by 3 training seeds." in sweep_page(strict)
    assert "high is better than low (+.250, p = .0100)." in sweep_page(loose)


def test_a_mean_stands_where_all_seeds_have_a_value() -> None:
    assert mean_curve([{1: 0.0, 2: 0.5, 3: 1.0}, {2: 0.25, 3: 0.5, 4: 9.0}]) == {2: 0.375, 3: 0.75}
    assert mean_curve([]) == {} and mean_curve([{1: 1.0}, {}]) == {}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_sweep(tmp_path / "sw")


def test_the_curves(run: Path) -> None:
    low, low_kl, *_, mid, _ = charts(sweep_record(3, (None, None)), cells_of(run))  # type: ignore[arg-type]
    assert (low.title, low_kl.title) == (
        "low: held-out score",
        "low: KL(student || teacher) of held-out replies",
    )
    assert low.head == ("step", "mean", "seed 0", "seed 1", "seed 2")
    # Numbers as tables print them: scores without a leading zero, nats with it.
    assert low.rows == (("1", *[".000"] * 4), ("2", ".125", ".000", ".125", ".250"))
    assert mid.rows[1] == ("2", ".375", ".250", ".375", ".500") and low_kl.rows[1][1] == "1.000"
    own, other = json.loads(low.figure), json.loads(mid.figure)
    assert [trace["name"] for trace in own["data"]] == ["seed 0", "seed 1", "seed 2", "mean over seeds"]
    assert own["data"][1]["text"] == [".000", ".125"]
    assert [trace["line"]["dash"] for trace in own["data"]] == ["dot", "dot", "dot", "solid"]
    *_, baseline, mean = other["data"]
    assert (baseline["name"], baseline["y"], mean["y"]) == ("baseline, mean", [0.0, 0.125], [0.0, 0.375])
    # Curves of one kind have one axis.
    assert own["layout"]["yaxis"]["range"] == other["layout"]["yaxis"]["range"] == [-0.015, 0.52]
    nats = json.loads(low_kl.figure)["layout"]["yaxis"]
    assert nats["range"] == [-0.06, 2.08] and nats["title"]["text"] == "nats a token"


def test_a_sweep_that_goes_on_shows_what_it_had(run: Path, tmp_path: Path) -> None:
    before = write_sweep_report(run).read_text()
    grid = read_json(run / "grid.json", dict[str, Any])
    write_json(run / "grid.json", {**grid, "seeds": [0, 1, 2, 3], "cells": {**grid["cells"], "more": []}})
    lines = write_sweep_report(run).read_text().splitlines()
    (said,) = (line for line in lines if line not in before.splitlines())
    owed = ("low_seed3", "mid_seed3", *(f"more_seed{n}" for n in range(4)))
    assert all(name in said for name in owed) and "low_seed0" not in said
    assert "are not in what stands here. <code>gepa-loop runs cells sw</code>" in said
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
        assert seen.page.inner_text("h1") == "<i>high is better than low (+.250, p = .0100)."
        table = seen.page.inner_text("table")
        assert ".500 [.400, .600]" in table and "+.250 [+.150, +.350]" in table
        assert seen.page.locator("#curves figure").count() == 6
        assert "Before training: .250 without the prompt, .750 with it." in seen.page.inner_text("main")
        assert "</script><b>bold</b>" in str(seen.page.text_content("#run pre"))
    with opened(browser, page, width=390) as seen:
        assert overflow(seen.page) <= 0


def test_hostile_texts_are_texts(tmp_path: Path, browser: Any) -> None:
    # A cell's name is that of folders, and has no slash.
    odd = HOSTILE.replace("/", "\\")
    names = [f"{n} {odd}"[:100] for n in range(3)]
    folder = make_sweep(tmp_path / "<img src=x onerror=alert(0)>", names)
    result = sweep_record(3, (0.01, 0.5), names)
    result["grid"] = result["split"] = HOSTILE
    for cell in result["cells"]:
        cell["sets"] = [f"task.name={HOSTILE}"]
    result["untrained"].append({**result["untrained"][0], "cells": [HOSTILE]})
    write_record(folder / "result.json", result)
    config = {"loop": {"alpha": 0.05}, "task": {"name": HOSTILE}, HOSTILE: "key"}
    write_json(folder / "config.json", config)
    clean = write_sweep_report(make_sweep(tmp_path / "clean"))
    with opened(browser, write_sweep_report(folder), 400) as seen, opened(browser, clean, 400) as usual:
        count = "document.querySelectorAll('script, style, iframe, object, embed, base, link').length"
        for page in (seen.page, usual.page):
            page.wait_for_selector(".area .main-svg")
            for summary in page.query_selector_all("summary"):
                summary.click()
        assert not seen.faults and not seen.asked and overflow(seen.page) <= 0
        assert seen.page.evaluate(count) == usual.page.evaluate(count)
        assert not seen.page.query_selector_all("img, [onerror], [onload], b")
        text = seen.page.evaluate("document.body.textContent")
        assert text.count(HOSTILE) == 7 and text.count(names[1]) >= 6
        assert seen.page.title() == "<img src=x onerror=alert(0)> · gepa-loop"


def test_what_is_no_text_of_unicode_is_replaced(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / os.fsdecode(b"r\xff"))
    assert "<title>r? · gepa-loop</title>" in write_sweep_report(folder).read_text()
