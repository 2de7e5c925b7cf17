"""What rows say beside their score, by hand, and that both ways are drawn as they are called."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from observers import Silent
from rich.console import Console

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import EvaluateConfig
from gepa_loop.lab import open_lab
from gepa_loop.run.files import read_jsonl
from gepa_loop.scores.card import Replies, decides, ways
from gepa_loop.scores.outcome import best_student
from gepa_loop.show.tables import compare_table, result_table, round_lines
from gepa_loop.stages.score import replying
from gepa_loop.task.prompts import NO_PROMPT


def row(item: str, sample: int, score: float, tokens: int, finish: str = "stop") -> dict[str, Any]:
    return {"item": item, "sample": sample, "score": score, "tokens": tokens, "finish_reason": finish}


def test_a_card_by_hand() -> None:
    """Two of three items have a full score among two samples; a fraction is a score and no pass."""
    rows = [
        row("a", 0, 1, 4),
        row("a", 1, 0, 6, "length"),
        row("b", 0, 0.5, 2),
        row("b", 1, 0.5, 2),
        row("c", 0, 1, 5),
        row("c", 1, 1, 2),
    ]
    card = Replies(rows).card(seed=0)
    assert (card["n"], card["samples"]) == (3, 2)
    assert card["mean"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert card["pass_at_k"] == pytest.approx(2 / 3)
    assert (card["tokens"], card["cut"]) == (3.5, pytest.approx(1 / 6))
    assert Replies(rows).scores == {"a": 0.5, "b": 0.5, "c": 1.0}


def test_which_way_decides() -> None:
    warm, greedy = EvaluateConfig(samples=8, temperature=0.7), EvaluateConfig(samples=1, temperature=0)
    assert decides(warm) == "sampled" and decides(greedy) == "greedy"
    assert ways(warm) == {"greedy": greedy, "sampled": warm}
    assert ways(greedy) == {"greedy": greedy, "sampled": EvaluateConfig(samples=4, temperature=1)}


@pytest.mark.parametrize("decided", ["evaluate.samples=3", "evaluate.temperature=0"])
def test_both_ways_are_drawn_whichever_decides(tmp_path: Path, decided: str) -> None:
    lab = open_lab(load_config("smoke", [decided, "task.splits.test=6"], env={}))
    found = replying(lab, "test", NO_PROMPT, None, tmp_path / "base.jsonl")(Silent())
    sampled, greedy = read_jsonl(tmp_path / "base.jsonl"), read_jsonl(tmp_path / "base_greedy.jsonl")
    assert list(found["sampled"].rows) == sampled and list(found["greedy"].rows) == greedy
    count = 3 if decided == "evaluate.samples=3" else 4
    assert [r["sample"] for r in sampled] == list(range(count)) * 6 and [r["sample"] for r in greedy] == [
        0
    ] * 6
    # A random model's samples of an item differ, and its greedy reply is always the same.
    assert len({r["completion"] for r in sampled}) > 6
    again = replying(lab, "test", NO_PROMPT, None, tmp_path / "again.jsonl")(Silent())
    assert [r["completion"] for r in again["greedy"].rows] == [r["completion"] for r in greedy]


def test_the_last_table_shows_both_ways_and_what_the_student_gained() -> None:
    def cards(mean: float, samples: int) -> dict[str, Any]:
        more = {"samples": samples, "pass_at_k": 0.625, "tokens": 6.5, "cut": 0.25}
        return {"n": 40, "mean": mean, "ci": [mean - 0.1, mean + 0.1], **more}

    def part(samples: int, *means: float) -> dict[str, Any]:
        found: dict[str, Any] = {
            key: cards(mean, samples)
            for key, mean in zip(("base", "prompted", "student"), means, strict=True)
        }
        gain = means[2] - means[0]
        return found | {"student_minus_base": {"mean": gain, "ci": [gain - 0.1, gain + 0.1], "p": 0.0123}}

    greedy, sampled = part(1, 0.2, 0.3, 0.4), part(4, 0.15, 0.25, 0.125)
    result = {
        "decides": "sampled",
        "test": sampled,
        "greedy": greedy,
        "sampled": sampled,
        "tokens": {"prompt": 17, "bare": 3},
        "rounds": [{"round": 0, "winner": "a"}],
        "adapter": "round_00/distill/a/adapter",
        "prompt": "round_00/optimize/prompts/a.txt",
    }
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(result))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "test, 40 items; sampled: 4 replies an item; sampled scores decide"
    assert "base greedy .200 [.100, .300] 6.5 25% 3" in lines
    assert "sampled .150 [.050, .250] .625 6.5 25% 3" in lines
    assert "base + prompt greedy .300 [.200, .400] 6.5 25% 17" in lines
    assert "student greedy .400 [.300, .500] 6.5 25% 3" in lines
    assert "sampled .125 [.025, .225] .625 6.5 25% 3" in lines
    assert "student - base, greedy: +.200 [+.100, +.300], p = .0123, paired by item" in lines
    assert "student - base, sampled: -.025 [-.125, +.075], p = .0123, paired by item" in lines


def test_without_a_winner_the_row_says_whose_prompt_it_is() -> None:
    card = {"n": 4, "mean": 0.5, "ci": [0, 1], "samples": 1, "pass_at_k": 0.5, "tokens": 2.0, "cut": 0.0}
    part = {"base": card, "prompted": card, "student": None, "student_minus_base": None}
    candidates = [{"id": "b19e56f8", "student": card}, {"id": "222e58dc", "student": {**card, "mean": 0.75}}]
    result = {
        "decides": "greedy",
        **dict.fromkeys(("test", "greedy", "sampled"), part),
        "tokens": {"prompt": 17},
        "rounds": [{"round": 0, "winner": None, "candidates": candidates, "reason": "none"}],
        "adapter": None,
        "prompt": "round_00/optimize/prompts/b19e56f8.txt",
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(result_table(result))
    assert "base + prompt b19e56f8" in console.export_text()
    assert best_student(result["rounds"]) == "round_00/distill/222e58dc/adapter"
    later = {"round": 1, "candidates": [{"id": "x", "student": None}]}
    assert best_student([*result["rounds"], later]) == "round_00/distill/222e58dc/adapter"
    assert best_student([later]) is None


def test_each_round_says_what_its_student_keeps_of_its_prompt_and_the_last_why_it_is() -> None:
    def won(number: int, gain: float, share: Any) -> dict[str, Any]:
        diff = {"mean": gain, "ci": [gain - 0.1, gain + 0.1], "p": 0.0001}
        test = {"student_minus_base": diff, "prompted_minus_base": diff}
        return {"round": number, "winner": "a", "test": test, "internalisation": share, "ended": None}

    lost = {"round": 1, "winner": None, "test": None, "internalisation": None, "ended": None}
    share = {"mean": 0.975, "ci": [0.9, 1.05]}
    rounds = [won(0, 0.2, share), lost, won(2, 0.05, None), won(3, 0.15, None)]
    rounds.append(lost | {"round": 4, "ended": "there is nothing to try"})
    small, large = "+.050 [-.050, +.150]", "+.150 [+.050, +.250]"
    assert list(round_lines({"rounds": rounds})) == [
        "round 0 on test, against base: with the prompt +.200 [+.100, +.300], the student without it "
        "+.200 [+.100, +.300], p <= .0001; it keeps .975 [.900, 1.050] of the prompt's gain",
        f"round 2 on test, against student of round 0: with the prompt {small}, the student without it "
        f"{small}, p <= .0001; what it keeps of the prompt's gain is not known, as that may be 0",
        # Where no prompt is read, nothing of one can be kept.
        f"round 3 on test, against student of round 2: with the prompt {large}, the student without it "
        f"{large}, p <= .0001",
        "no further round after round 4: there is nothing to try",
    ]
    assert len(list(round_lines({"rounds": rounds[:4]}))) == 3


@pytest.mark.parametrize("width", [24, 60, 80])
def test_a_narrow_table_loses_nothing(width: int) -> None:
    card = {
        "n": 40,
        "mean": 0.2,
        "ci": [0.1, 0.3],
        "samples": 4,
        "pass_at_k": 0.625,
        "tokens": 6.5,
        "cut": 0.25,
    }
    both = {way: {"subjects": [card, card], "difference": None} for way in ("greedy", "sampled")}
    labels = [f"base, experiments/november/candidates/{'long' * 9}-{n}.txt" for n in range(2)]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(compare_table({"split": "test", "decides": "sampled", **both}, labels))
    shown = "".join(console.export_text().partition("\u2500\n")[2].split())
    row = "greedy .200 [.100, .300] .625 6.5 25% sampled .200 [.100, .300] .625 6.5 25%"
    assert Counter(shown) == Counter("".join("".join(f"{label} {row}" for label in labels).split()))
