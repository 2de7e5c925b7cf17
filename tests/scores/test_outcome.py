"""What a round says of itself, in numbers that agree with each other."""

import random

from gepa_loop.scores.decision import Contender, decide
from gepa_loop.scores.outcome import details, ground, missing_gain, no_student, summary, untested
from gepa_loop.scores.statistics import estimate


def test_equal_scores_have_one_interval_in_a_decision() -> None:
    draw = random.Random(0)
    base, prompted, student = ({f"i{n}": draw.random() for n in range(40)} for _ in range(3))
    contenders = [Contender("a", prompted, student, None)]
    verdict = decide(base, contenders, 0.05, 7)
    said = summary(0, verdict, contenders, None, 7) | details(verdict, base, 7)
    for scores, written in (
        (base, said["base"]),
        (prompted, said["candidates"][0]["prompted"]),
        (student, said["candidates"][0]["student"]),
    ):
        assert written == estimate(scores, 7).as_dict() != estimate(scores, 8).as_dict()
    for side in (said["base"], said["candidates"][0]["student"], said["differences"]["a"]):
        low, high = (f"{x:z.3f}".replace("0.", ".", 1) for x in side["ci"])
        assert f"[{low}, {high}]" in said["reason"]


def test_a_prompt_stands_on_the_student_of_the_winner_before_it() -> None:
    rounds = [{"round": n, "winner": winner} for n, winner in enumerate(["a", None, "b", "c"])]
    assert [ground(rounds, n) for n in range(4)] == [
        "base",
        *["student of round 0"] * 2,
        "student of round 2",
    ]
    assert ground(rounds) == "student of round 2" and ground(rounds[:1]) == ground(rounds[1:2]) == "base"


def a_round(reason: str, *students: object) -> dict[str, object]:
    return {"reason": reason, "candidates": [{"student": student} for student in students]}


def test_a_student_that_nobody_tested_was_not_worse() -> None:
    lost, skipped = (
        a_round("No student is better.", None, {"mean": 0.1}),
        a_round("Every one was skipped (a: why).", None),
    )
    none = {"student_minus_base": None}
    assert untested([skipped, lost]) == untested([lost, skipped]) == ""
    for rounds in ([lost], [lost, skipped], [skipped, lost]):
        said = "no student was significantly better than the base on select"
        assert no_student(rounds) == missing_gain(0.05, {"rounds": rounds, "test": none}) == said
    assert untested([a_round("First.", None), skipped]) == "Every one was skipped (a: why)."
    said = "no student was tested on select: every one was skipped (a: why)"
    assert no_student([skipped]) == missing_gain(0.05, {"rounds": [skipped], "test": none}) == said
