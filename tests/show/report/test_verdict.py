"""The sentence, the numbers and the axis that a page begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.cost.records import CostsRecord
from gepa_loop.run.files import write_json
from gepa_loop.scores.outcome import ground
from gepa_loop.scores.statistics import difference
from gepa_loop.show.report.axis import score_ticks, steps_between, top_of
from gepa_loop.show.report.read import Subject, Told
from gepa_loop.show.report.teacher import teacher_name
from gepa_loop.show.report.third import cost_and_break_even
from gepa_loop.show.report.tiles import tiles
from gepa_loop.show.report.verdict import end_of_axis, evidence, forest, parted, retention, unscored, verdict


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
    # Nothing of a prompt that training did not read.
    grpo = load_config("smoke", ["objective.type=grpo"], env={}).model_dump(mode="json")
    reward = replace(greedy(told, prompted_minus_base=none, student_minus_base=none), config=grpo)
    assert verdict(reward) == f"{scores}, which these items do not tell apart."
    level = replace(greedy(told, prompted_minus_base=none, student_minus_base=LEVEL), config=grpo)
    assert verdict(level) == f"{scores}, on every item the same."


LEVEL = gap(0.0, 0.0, 0.0, 1.0)


def test_an_interval_and_a_p_that_differ_are_explained(told: Told) -> None:
    assert parted(told) == parted(greedy(told, prompted_minus_base=LEVEL)) == ""
    # 7 items better and 1 worse of 36: of the 256 ways to flip eight signs 18 are as far from 0.
    items = [*range(36)]
    better, worse = {f"{n}": float(n < 7) for n in items}, {f"{n}": float(n == 7) for n in items}
    found: Any = difference(better, worse, 0).as_dict()
    assert found["p"] == 18 / 256 and found["ci"][0] > 0
    assert "a p above .05, or" in parted(greedy(told, prompted_minus_base=found))
    assert "a p above .05, or" in parted(greedy(told, student_minus_prompted=gap(-0.2, -0.4, 0.01, 0.04)))
    assert parted(greedy(told, student_minus_base=gap(0.1, -0.1, 0.2, 0.3))) == ""


def test_what_cannot_be_known_is_no_null_result(told: Told) -> None:
    level = greedy(told, prompted_minus_base=LEVEL, student_minus_base=LEVEL)
    known = "What these 40 items could have shown is not known: the difference is the same on each."
    assert verdict(level) == f"The prompt changes the score of no item. {known}"
    (first,) = tiles(level)
    assert (first.number, first.range) == ("+.000", "")
    assert first.notes == ("greedy, 40 items of test, no interval, as all items are alike, p = 1.0000",)
    assert next(evidence(level)).count("+.000 on every item") == 2
    few = "Whether the prompt changes anything is not known."
    for count, said in ((1, "One item is"), (5, "These 5 items are"), (6, "")):
        bare = {**card(0.0, 0.0, 0.8), "n": count}
        short = greedy(told, base=bare, prompted_minus_base=gap(0.5, -0.5, 1.0), student_minus_base=LEVEL)
        if said:
            assert verdict(short) == f"{few} {said} too few to show any difference."
        else:
            assert verdict(short).startswith("The prompt may change nothing on these items")
    assert "greedy, 1 item of test" in tiles(greedy(told, base={**card(0.0, 0.0, 0.8), "n": 1}))[0].notes[0]


def test_a_loop_without_a_student_says_whether_one_was_tested(told: Told) -> None:
    def lost(student: Any) -> Told:
        rounds = [{"winner": None, "reason": "Why not.", "candidates": [{"student": student}], "test": None}]
        result = {**told.result, "rounds": rounds, "greedy": {**GREEDY, "student_minus_base": None}}
        none: Any = {"greedy": None, "sampled": None}
        return replace(told, command="loop", adapter=None, shares=none, result=result)

    tested = "No student was significantly better than the bare model on select, so this run has none to use."
    assert verdict(lost({"mean": 0.1})) == tested
    assert verdict(lost(None)) == "No student was tested on select, so this run has none to use."
    assert tiles(lost(None)) == [] and unscored(lost(None)) == ""


def agreed(told: Told, student: float, prompted: float, behind: dict[str, Any]) -> Told:
    """A run without answers, whose greedy scores say that the prompt does everything and the student nothing."""
    greedy = {
        **GREEDY,
        "prompted": card(1.0, 0.9, 1.0),
        "prompted_minus_base": gap(1.0, 0.9, 1.0),
        "student_minus_base": LEVEL,
    }
    cards = {"student": card(student, 0.0, 0.5), "prompted": card(prompted, 0.0, 0.5)}
    sampled = {**greedy, **cards, "prompted_minus_base": LEVEL, "student_minus_prompted": behind}
    result = {**told.result, "answers": "references", "greedy": greedy, "sampled": sampled}
    return replace(told, result=result)


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_without_answers_no_score_is_an_effect(told: Told, way: Any, tmp_path: Path) -> None:
    told = replace(told, path=tmp_path, decides=way)
    itself = "of the time and the prompted model itself"
    some = agreed(told, 0.25, 0.5, gap(-0.25, -0.35, -0.1))
    said = f"Sampled, the student gives the prompted model's greedy reply .250 {itself} .500"
    assert verdict(some) == f"{said}, so the student falls behind by .350 at most (95 %)."
    assert verdict(agreed(told, 0.25, 0.5, LEVEL)) == f"{said}, on every item alike."
    (tile,) = tiles(some)
    assert (tile.number, tile.range) == (".250", "[.000, .500]")
    assert tile.notes[1:] == (
        "the prompted model itself: .500 [.000, .500]",
        "student − prompted: -.250 [-.350, -.100], p = .0123",
    )
    silent = agreed(told, 0.0, 0.0, LEVEL)
    assert verdict(silent).endswith(f"{itself} .000, so only the KL compares them.") and tiles(silent) == []
    write_json(tmp_path / "distill" / "aaaaaaaa" / "result.json", {"kl": 2.2101})
    only = f"{itself} .000, so only the KL compares them: 2.210 nats a token on held-out replies."
    assert verdict(silent).endswith(only)
    (tile,) = tiles(silent)
    assert (tile.title, tile.number) == ("nats a token from the prompted model", "2.210")
    for one in (some, silent):
        assert not {"effect", "nothing"} & set(verdict(one).replace(",", "").split())


def test_tokens_are_saved_by_a_student_that_gains_and_was_taught_the_prompt(told: Told) -> None:
    assert [one.title for one in tiles(told)][1:] == ["tokens saved at every call"]
    assert len(tiles(greedy(told, told.shares["greedy"], student_minus_base=gap(0.1, 0.0, 0.2)))) == 1
    reward = load_config("smoke", ["objective.type=grpo"], env={}).model_dump(mode="json")
    assert len(tiles(replace(told, config=reward))) == 1


def after(told: Told, *winners: str | None) -> Told:
    rounds = [{"round": n, "winner": winner, "test": None} for n, winner in enumerate(winners)]
    asked = ground(rounds)  # type: ignore[arg-type]
    name = "with the prompt" if asked == "base" else f"{asked} with the prompt"
    subjects = tuple(replace(one, name=name) if one.key == "prompted" else one for one in SUBJECTS)
    return replace(told, command="loop", result={**told.result, "rounds": rounds}, subjects=subjects)


def test_what_a_prompt_stands_on_is_named(told: Told) -> None:
    first, *_ = evidence(after(told, "aa"))
    assert "decides: prompt − bare +.550" in first and "; student − prompted -.200" in first
    assert retention(after(told, None, "bb")) == retention(told) == "(student − bare) / (prompted − bare)"
    two = after(told, "aa", None, "cc")
    on = "student of round 0"
    first, *_ = evidence(two)
    assert f"decides: {on} with the prompt − bare +.550" in first and "; student − bare +.350" in first
    assert f"; student − {on} with the prompt -.200" in first
    assert retention(two) == f"(student − {on}) / ({on} with the prompt − {on})"


def test_a_loop_says_whom_it_does_not_score(told: Told) -> None:
    why = ", as that would be another scoring of test; gepa-loop distill measures"
    assert unscored(told) == ""
    assert unscored(after(told, "aa")) == f"A loop does not score the student with the prompt{why} it."
    both = f"A loop does not score the student with the prompt, nor the bare model with it{why} both."
    assert unscored(after(told, "aa", "bb")) == both


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ([], "the same model before training"),
        (["teacher.kind=live"], "the student itself, as it is at each step"),
        (["teacher.kind=ema"], "a moving average of the student's own weights"),
        (["teacher.kind=adapter", "teacher.path=a"], "the same model with another adapter"),
        (["teacher.kind=model", "teacher.name=Big/One"], "the model Big/One"),
        (
            ["teacher.kind=server", "teacher.name=One", "teacher.url=http://x", "distill.on_policy=1"],
            "the model One on a server",
        ),
        (["objective.type=grpo"], ""),
        (["objective.teacher_tau=0", "objective.adv_tau=1"], ""),
    ],
)
def test_who_the_teacher_is(told: Told, sets: list[str], said: str) -> None:
    config = load_config("smoke", sets, env={}).model_dump(mode="json")
    assert teacher_name(replace(told, config=config)) == said


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
