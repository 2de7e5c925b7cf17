"""The sentence, the numbers and the axis that a page begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.cost.records import CostsRecord
from gepa_loop.run.files import write_json
from gepa_loop.show.report.axis import score_ticks, steps_between, top_of
from gepa_loop.show.report.read import Subject, Told
from gepa_loop.show.report.third import cost_and_break_even
from gepa_loop.show.report.verdict import end_of_axis, evidence, forest, tiles, verdict


def card(mean: float, low: float, high: float, tokens: float = 9.5) -> dict[str, Any]:
    return {"n": 40, "mean": mean, "ci": [low, high], "samples": 1, "tokens": tokens, "cut": 0.0}


def gap(mean: float, low: float, high: float, p: float = 0.0123) -> dict[str, Any]:
    return {"mean": mean, "ci": [low, high], "p": p}


GREEDY = {
    "base": card(0.0, 0.0, 0.088),
    "prompted": card(0.55, 0.4, 0.7, 12.34),
    "student": card(0.35, 0.225, 0.5),
    "prompted_minus_base": gap(0.55, 0.4, 0.7),
    "student_minus_base": gap(0.35, 0.225, 0.5),
    "student_minus_prompted": gap(-0.2, -0.35, -0.075),
}
SAMPLED = {**GREEDY, "student": card(0.25, 0.2, 0.3)}
SUBJECTS = tuple(
    Subject(key, name, key)  # type: ignore[arg-type]
    for key, name in (("base", "bare model"), ("prompted", "with the prompt"), ("student", "student"))
)


@pytest.fixture
def told() -> Told:
    result = {"greedy": GREEDY, "sampled": SAMPLED, "tokens": {"prompt": 1412, "bare": 12}}
    shares: Any = {
        "greedy": {"mean": 0.636, "ci": [0.412, 0.875]},
        "sampled": {"mean": 1.1, "ci": [0.69, 1.71]},
    }
    prompt = Path("prompts/aaaaaaaa.txt")
    return Told(
        Path("r"),
        "distill",
        result,
        {},
        {},
        {},
        "greedy",
        SUBJECTS,
        prompt,
        "distill/aaaaaaaa/adapter",
        shares,
    )


def greedy(told: Told, share: Any = None, **values: Any) -> Told:
    result = {**told.result, "greedy": {**GREEDY, **values}}
    return replace(told, result=result, shares={**told.shares, "greedy": share})


def test_what_is_kept_is_the_sentence(told: Told) -> None:
    kept = "The student keeps .636 of the prompt's effect without its 1,400 tokens"
    assert verdict(told) == f"{kept}, and scores below the prompted model."
    share = told.shares["greedy"]
    assert verdict(greedy(told, share, student_minus_prompted=gap(0.1, -0.1, 0.2))) == f"{kept}."
    above = greedy(told, share, student_minus_prompted=gap(0.1, 0.01, 0.2))
    assert verdict(above) == f"{kept}, and scores above the prompted model."
    nothing = greedy(told, {"mean": 0.1, "ci": [-0.1, 0.3]})
    assert verdict(nothing) == "What the student keeps of the prompt's effect, .100, may be nothing."


def test_without_a_share_it_says_what_is_known(told: Told) -> None:
    none = gap(0.02, -0.1, 0.2)
    assert "so there is no effect" in verdict(greedy(told, prompted_minus_base=none, student_minus_base=none))
    scores = "Without a prompt, the student scores .350 where the bare model scores .000"
    gained = greedy(told, prompted_minus_base=none)
    assert (
        verdict(gained)
        == f"{scores}; what it keeps of its prompt's effect is not known, as that may be nothing."
    )
    # An objective that reads no prompt.
    assert verdict(greedy(told)) == f"{scores}."
    assert verdict(greedy(told, student_minus_base=none)) == f"{scores}, which these items do not tell apart."
    lost = replace(told, adapter=None, shares={"greedy": None, "sampled": None})
    lost = replace(lost, result={**told.result, "greedy": {**GREEDY, "student_minus_base": None}})
    assert verdict(lost).startswith("No student was significantly better than the bare model on select")
    assert tiles(lost) == []


def test_the_numbers_are_printed_as_in_the_terminal(told: Told) -> None:
    kept, saved = tiles(told)
    assert (kept.number, kept.range) == (".636", "[.412, .875]")
    assert kept.notes == ("greedy, 40 items of test, 95 % interval", "sampled: 1.100 [.690, 1.710]")
    assert (saved.number, saved.range) == ("1,400", "")
    assert saved.notes[0] == "system turn: 1,412 tokens with the prompt, 12 without"
    assert saved.notes[1] == "replies: 12.3 tokens with the prompt, 9.5 by the student"
    first, _ = tiles(greedy(told))
    assert (first.number, first.range) == ("+.350", "[+.225, +.500]") and "p = .0123" in first.notes[0]
    lines = list(evidence(told))
    assert lines[0].startswith("Greedy, which decides: prompt − bare +.550 [+.400, +.700], p = .0123; ")
    assert "student − prompted -.200 [-.350, -.075], p = .0123." in lines[0] and lines[1].startswith(
        "Sampled: "
    )


COSTS: CostsRecord = {
    "device": "a GPU",
    "seconds": {"training": 60.0, "test": 30.0},
    "peak_gib": 2.0,
    "usd": {"gpu": 0.05, "reflection": 0.0, "judge": 0.0, "total": 0.05},
    "tokens_per_second": 1000.0,
    "worth": {
        "now": {"system": 1412, "question": 20.0, "reply": 12.3},
        "after": {"system": 12, "question": 20.0, "reply": 9.5},
        "saved": 1400,
        "price": 0.5,
        "calls": None,
        "anew": {"usd": 0.0007, "month": None, "break_even": 72},
        "cached": {"usd": 0.0, "month": None, "break_even": None},
    },
}


def test_the_third_number_is_when_tokens_have_paid(told: Told, tmp_path: Path) -> None:
    told = replace(told, path=tmp_path)
    assert cost_and_break_even(told) is None, "a run of an earlier version has no costs"
    write_json(tmp_path / "costs.json", COSTS)
    tile = cost_and_break_even(told)
    assert tile is not None and (tile.title, tile.number) == ("calls until its tokens have paid for it", "72")
    assert tile.notes == (
        "it took 1.5 minutes on a GPU, machine $0.050",
        "where each call reads the prompt: the tokens that it does not read have paid for it after 72 calls",
        "with a prefix cache: reading less saves nothing, so it never pays",
    )
    write_json(tmp_path / "costs.json", {**COSTS, "worth": None})
    tile = cost_and_break_even(told)
    assert tile is not None and (tile.title, tile.number) == ("minutes that it took", "1.5")
    assert len(tile.notes) == 1, "a student that may do nothing pays for nothing"


def test_all_scores_lie_on_one_axis(told: Told) -> None:
    assert end_of_axis(told) == 0.8
    whole = forest(told, 0.8)
    assert whole.ticks == ((0.0, "0"), (25.0, ".2"), (50.0, ".4"), (75.0, ".6"), (100.0, ".8"))
    assert [(bar.name, bar.way) for bar in whole.bars[:3]] == [
        ("bare model", "greedy"),
        ("", "sampled"),
        ("with the prompt", "greedy"),
    ]
    prompted, student = whole.bars[2], whole.bars[4]
    assert (prompted.left, prompted.width, prompted.dot) == (50.0, 37.5, 68.75)
    assert (student.score, student.interval, student.key) == (".350", "[.225, .500]", "student")


def test_where_axes_end() -> None:
    assert [top_of(score) for score in (0.0, 0.1, 0.11, 0.45, 0.81, 1.0)] == [0.1, 0.1, 0.2, 0.5, 1.0, 1.0]
    assert [text for _, text in score_ticks(0.5)] == ["0", ".1", ".2", ".3", ".4", ".5"]
    assert [text for _, text in score_ticks(1.0)] == ["0", ".2", ".4", ".6", ".8", "1"]
    assert [steps_between(last) for last in (1, 8, 9, 17, 40, 41, 300)] == [1, 1, 2, 5, 5, 10, 50]
