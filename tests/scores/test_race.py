"""Who trains on after a rung, by hand."""

import math

import pytest

from gepa_loop.scores.race import Rung, rung


def items(*scores: float) -> dict[str, float]:
    return {str(n): score for n, score in enumerate(scores)}


BEST, NEAR, FAR = items(1, 1, 1, 1, 0, 0), items(1, 1, 1, 0, 0, 0), items(0, 0, 0, 0, 0, 0)


def test_who_is_behind_by_more_than_luck_goes_first() -> None:
    # FAR lacks 4 of 6: mean 2/3, variance of the differences 4/15, error sqrt(4/15 / 6) = .211: 3.2 errors.
    found = rung({"far": FAR, "best": BEST, "near": NEAR}, behind=1.5, keep=1.0)
    assert found.living == ("best", "near")
    [gone] = found.dropped
    assert (gone.id, gone.behind) == ("far", pytest.approx(2 / 3))
    assert gone.error == pytest.approx(math.sqrt(4 / 15 / 6))
    assert gone.reason == ".667 behind best on 6 items, more than 1.5 standard errors of .211"
    # NEAR lacks 1 of 6: mean 1/6, error sqrt(1/6 / 6) = 1/6: one error.
    assert rung({"best": BEST, "near": NEAR}, behind=0.99, keep=1.0).living == ("best",)
    assert rung({"best": BEST, "near": NEAR}, behind=1.01, keep=1.0).living == ("best", "near")


def test_half_go_on_and_two_at_least() -> None:
    five = {"a": BEST, **dict.fromkeys("bcde", NEAR)}
    assert rung(five, behind=9, keep=0.5).living == ("a", "b", "c")
    assert rung(dict(list(five.items())[:3]), behind=9, keep=0.5).living == ("a", "b")
    assert rung({"a": BEST, "b": NEAR}, behind=9, keep=0.5).living == ("a", "b")
    last = rung(five, behind=9, keep=0.5).dropped
    assert [one.id for one in last] == ["d", "e"]
    assert last[0].reason == ".167 behind a on 6 items, and 3 of 5 train on"


def test_a_rung_that_tells_nothing_drops_nobody() -> None:
    assert rung(dict.fromkeys("abcde", FAR), behind=2, keep=0.5) == Rung(tuple("abcde"), ())
    # As many right, but not the same ones: that is a difference.
    other = items(0, 0, 1, 1, 1, 1)
    assert rung({"a": BEST, "b": BEST, "c": other}, behind=9, keep=0.5).living == ("a", "b")
    three = {**dict.fromkeys("abc", BEST), "d": NEAR}
    assert rung(three, behind=9, keep=0.5).living == ("a", "b", "c")


def test_equal_scores_go_by_the_order_given_and_one_may_be_left() -> None:
    assert rung({"b": NEAR, "a": NEAR, "c": BEST}, behind=9, keep=0.5).living == ("c", "b")
    assert rung({"a": FAR, "b": items(1, 1, 1, 1, 1, 1)}, behind=1.5, keep=0.5).living == ("b",)
    assert rung({"a": FAR}, behind=1.5, keep=0.5).living == ("a",)


def test_scores_of_other_items_cannot_race() -> None:
    with pytest.raises(ValueError, match="different items"):
        rung({"a": BEST, "b": items(1, 1)}, behind=1.5, keep=0.5)
