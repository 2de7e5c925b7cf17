"""Whose rows and numbers a page has: those of the files and of the terminal's own output."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gepa_loop.run.files import read_jsonl
from gepa_loop.scores.card import WAYS
from gepa_loop.scores.results import LoopRecord
from gepa_loop.scores.statistics import item_scores
from gepa_loop.show.report.read import read_told
from gepa_loop.show.report.tiles import tiles
from gepa_loop.show.report.verdict import evidence, forest
from gepa_loop.show.tables import result_table

FILES = {
    "l": {"base": "base", "prompted": "round_01_prompted", "student": "round_01_student"},
    "d": {
        "base": "base",
        "prompted": "prompted",
        "student": "student",
        "student_prompted": "student_prompted",
    },
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_of_their_subjects(made: Path, name: str) -> None:
    """Each file is another one, so that no two subjects can stand for each other."""
    told, seen = read_told(made / name), []
    assert [one.key for one in told.subjects] == list(FILES[name])
    for one in told.subjects:
        for way, end in (("greedy", "_greedy"), ("sampled", "")):
            rows = read_jsonl(made / name / "test" / f"{FILES[name][one.key]}{end}.jsonl")
            assert told.rows(one, way) == rows and rows not in seen, (one.key, way)  # type: ignore[arg-type]
            seen.append(rows)
            scores = item_scores(rows)
            assert told.card(one.key, way)["mean"] == pytest.approx(sum(scores.values()) / len(scores))  # type: ignore[arg-type]
    if name == "l":
        assert [one["winner"] is not None for one in told.rounds] == [True, True], "or this test says nothing"


def test_what_decides_is_read_of_the_run(made: Path, odd: Path) -> None:
    greedy, sampled = read_told(made / "d"), read_told(odd / "sampled")
    assert (greedy.decides, sampled.decides) == ("greedy", "sampled")
    cards = sampled.gains("greedy"), sampled.gains("sampled")
    assert cards[0]["student_minus_base"] != cards[1]["student_minus_base"], "or this test says nothing"
    assert next(evidence(sampled)).startswith("Sampled, which decides: ")
    assert "mean scores, sampled" in (odd / "sampled" / "report.html").read_text()
    assert tiles(sampled)[0].notes[0].startswith("sampled, 32 items of test")


def cells(text: str) -> Iterator[tuple[str, str, str]]:
    """Way, score and interval of each row of a table that the terminal printed."""
    for line in text.splitlines():
        if found := re.search(r"(greedy|sampled) +([.\d]+) +(\[.*?\])", line):
            yield found.group(1), found.group(2), found.group(3)


def gaps(text: str) -> dict[str, str]:
    """What the student gains, each way, as the terminal printed it."""
    return dict(re.findall(r"student - base, (greedy|sampled): (.*), paired by item", text))


@pytest.mark.parametrize("name", ["sampled", "unanswered", "single", "reward", "excluded"])
def test_a_page_has_the_numbers_of_the_terminal(odd: Path, name: str) -> None:
    told, printed = read_told(odd / name), (odd.parent / f"{name}.txt").read_text()
    bars = [(bar.way, bar.score, bar.interval) for bar in forest(told, 1.0).bars]
    assert list(cells(printed)) == bars and len(bars) == 2 * len(told.subjects)
    page = (odd / name / "report.html").read_text()
    said = gaps(printed)
    assert set(said) == (set() if name == "excluded" else set(WAYS))
    for one in said.values():
        assert f"student − bare {one}".replace("<", "&lt;") in page
    assert all(f">{score}<" in page and f">{interval}<" in page for _, score, interval in bars)


def test_a_loop_has_the_numbers_of_the_terminal(made: Path) -> None:
    told = read_told(made / "l")
    console = Console(width=200, file=io.StringIO(), record=True)
    result: LoopRecord = told.result  # type: ignore[assignment]
    console.print(result_table(result))
    printed = console.export_text()
    assert list(cells(printed)) == [(bar.way, bar.score, bar.interval) for bar in forest(told, 1.0).bars]
    (own,) = (line for line in evidence(told) if line.startswith("Greedy"))
    assert f"; student − bare {gaps(printed)['greedy']}; " in own
    assert "Greedy, which decides: student of round 0 with the prompt − bare " in own
