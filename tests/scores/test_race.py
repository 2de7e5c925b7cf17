"""Who trains on after a rung, by hand."""

import math

import pytest

from gepa_loop.scores.race import Rung, rung


def items(*scores: float) -> dict[str, float]:
    return {str(n): score for n, score in enumerate(scores)}


def drop(students: dict[str, dict[str, float]], behind: float, keep: float) -> Rung:
    """By the students alone."""
    return rung(students, {}, 0.0, behind, keep)


BEST, NEAR, FAR = items(1, 1, 1, 1, 0, 0), items(1, 1, 1, 0, 0, 0), items(0, 0, 0, 0, 0, 0)


def test_who_is_behind_by_more_than_luck_goes_first() -> None:
    # FAR lacks 4 of 6: mean 2/3, variance of the differences 4/15, error sqrt(4/15 / 6) = .211: 3.2 errors.
    found = drop({"far": FAR, "best": BEST, "near": NEAR}, behind=1.5, keep=1.0)
    assert found.living == ("best", "near")
    [gone] = found.dropped
    assert (gone.id, gone.behind) == ("far", pytest.approx(2 / 3))
    assert gone.error == pytest.approx(math.sqrt(4 / 15 / 6))
    assert gone.reason == ".667 behind best on 6 items, more than 1.5 standard errors of .211"
    # NEAR lacks 1 of 6: mean 1/6, error sqrt(1/6 / 6) = 1/6: one error.
    assert drop({"best": BEST, "near": NEAR}, behind=0.99, keep=1.0).living == ("best",)
    assert drop({"best": BEST, "near": NEAR}, behind=1.01, keep=1.0).living == ("best", "near")


def test_half_go_on_and_two_at_least() -> None:
    five = {"a": BEST, **dict.fromkeys("bcde", NEAR)}
    assert drop(five, behind=9, keep=0.5).living == ("a", "b", "c")
    assert drop(dict(list(five.items())[:3]), behind=9, keep=0.5).living == ("a", "b")
    assert drop({"a": BEST, "b": NEAR}, behind=9, keep=0.5).living == ("a", "b")
    last = drop(five, behind=9, keep=0.5).dropped
    assert [one.id for one in last] == ["d", "e"]
    assert last[0].reason == ".167 behind a on 6 items, and 3 of 5 train on"


def test_a_rung_that_tells_nothing_drops_nobody() -> None:
    assert drop(dict.fromkeys("abcde", FAR), behind=2, keep=0.5) == Rung(tuple("abcde"), ())
    # As many right, but not the same ones: that is a difference.
    other = items(0, 0, 1, 1, 1, 1)
    assert drop({"a": BEST, "b": BEST, "c": other}, behind=9, keep=0.5).living == ("a", "b")
    three = {**dict.fromkeys("abc", BEST), "d": NEAR}
    assert drop(three, behind=9, keep=0.5).living == ("a", "b", "c")


def test_equal_scores_go_by_the_order_given_and_one_may_be_left() -> None:
    assert drop({"b": NEAR, "a": NEAR, "c": BEST}, behind=9, keep=0.5).living == ("c", "b")
    assert drop({"a": FAR, "b": items(1, 1, 1, 1, 1, 1)}, behind=1.5, keep=0.5).living == ("b",)
    assert drop({"a": FAR}, behind=1.5, keep=0.5).living == ("a",)


def test_prompts_weigh_in_item_by_item() -> None:
    # The students lead by one item of six either way; of their prompts only that of b solves all.
    students = {"a": BEST, "b": NEAR}
    prompts = {"a": FAR, "b": items(1, 1, 1, 1, 1, 1), "c": BEST}
    assert rung(students, prompts, 0.0, 9, 1.0).living == ("a", "b")
    # a has .7 of 4 items and b .7 of 3 and .3 of 6: means .467 and .65.
    assert rung(students, prompts, 0.3, 9, 1.0).living == ("b", "a")
    # Item by item b has .3 more where both students are right or both wrong (5 items), and .4 less on one.
    [gone] = rung(students, prompts, 0.3, 0.5, 1.0).dropped
    assert gone.id == "a" and gone.behind == pytest.approx((5 * 0.3 - 0.4) / 6)
    spread = 5 * (0.3 - gone.behind) ** 2 + (-0.4 - gone.behind) ** 2
    assert gone.error == pytest.approx(math.sqrt(spread / 5 / 6))
    assert gone.reason == (
        ".183 behind b on 6 items (.700 student + .300 prompt), more than 0.5 standard errors of .117"
    )
    # 1: prompts alone; b and c have the same students.
    three = {"a": BEST, "b": NEAR, "c": NEAR}
    assert rung(three, prompts, 1.0, 9, 0.5).living == ("b", "c")


def test_students_with_nothing_yet_are_told_apart_by_their_prompts_alone() -> None:
    nothing = dict.fromkeys("abc", FAR)
    assert rung(nothing, dict.fromkeys("abc", BEST), 0.3, 2, 0.5).living == ("a", "b", "c")
    assert rung(nothing, {"a": FAR, "b": NEAR, "c": BEST}, 0.3, 9, 0.5).living == ("c", "b")


def test_a_prompt_of_other_items_cannot_weigh_in() -> None:
    with pytest.raises(ValueError, match="on different items"):
        rung({"a": BEST}, {"a": items(1, 1)}, 0.3, 2, 0.5)


def test_scores_of_other_items_cannot_race() -> None:
    with pytest.raises(ValueError, match="different items"):
        drop({"a": BEST, "b": items(1, 1)}, behind=1.5, keep=0.5)
