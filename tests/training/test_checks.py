"""Which check's student is kept: numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gepa_loop.training.checks import Check, Choice, choose, settled, spoilt

ITEMS = "abcdefgh"


def check(step: int, *scores: float) -> Check:
    return Check(step, dict(zip(ITEMS, scores, strict=False)))


def test_checks_are_smoothed_with_their_neighbours_but_not_with_the_untrained_student() -> None:
    """One item, so that no difference has a standard error; .5 counts twice."""
    checks = [check(0, 0.9), check(2, 0.2), check(4, 0.5), check(6, 1.0)]
    kept = choose(checks)
    # 2: (2 * .2 + .5) / 3, 4: (2 * .5 + .2 + 1) / 4, 6: (2 * 1 + .5) / 3 = .833; step 0 stays .9 and is above all.
    assert (kept.step, kept.score, kept.smoothed, kept.best) == (0, 0.9, 0.9, 0)
    assert kept.reason == "no smoothed score is above the untrained student"
    kept = choose([check(0, 0.8), *checks[1:]])
    assert (kept.step, kept.score, kept.best) == (6, 1.0, 6)
    assert kept.smoothed == pytest.approx(2.5 / 3)
    assert kept.reason == "the highest score, smoothed over neighbouring checks"
    spike = choose([check(0, 0.0), check(1, 0.1), check(2, 0.6), check(3, 0.1), check(4, 0.4), check(5, 0.5)])
    assert (spike.step, spike.score) == (5, 0.5)  # not the lucky .6, which is .35 beside its neighbours


def test_the_earliest_within_one_standard_error_is_kept() -> None:
    """Four items of 0 and 1, two checks: smoothed they are (2 a + b) / 3 and (2 b + a) / 3, so gaps are (b - a) / 3."""
    zero = check(0, 0, 0, 0, 0)
    early, late = check(1, 1, 0, 1, 0), check(2, 1, 1, 0, 1)
    # Gaps 0, 1/3, -1/3, 1/3: mean 1/12, variance (1/144 + 1/16 + 25/144 + 1/16) / 3 = .1019, error .1596.
    kept = choose([zero, early, late])
    assert (kept.step, kept.score, kept.best) == (1, 0.5, 2)
    assert kept.difference == pytest.approx(1 / 12)
    assert kept.standard_error == pytest.approx(math.sqrt((1 / 144 + 2 / 16 + 25 / 144) / 3 / 4))
    assert kept.smoothed == pytest.approx(0.5 + 1 / 12)
    assert kept.reason == (
        "the earliest within one standard error (0.160) of the best smoothed score (0.667 at step 2, here 0.583)"
    )
    # Gaps 1/3, 1/3, 0, 1/3: mean .25, error sqrt((3 / 144 + 1 / 16) / 3 / 4) = .0833.
    kept = choose([zero, check(1, 0, 0, 1, 0), check(2, 1, 1, 1, 1)])
    assert (kept.step, kept.best, kept.difference) == (2, 2, 0.0)


def test_of_those_that_scores_cannot_tell_the_nearest_to_the_teacher_is_kept() -> None:
    """The scores of the test above; a fourth check is below by more than an error, and nearest of all."""
    scores = [(1, 0, 1, 0), (1, 1, 0, 1), (1, 0, 1, 0)]

    def kept(*kl: float) -> Choice:
        read = [
            replace(check(step, *own), kl=dict(zip(ITEMS, [2 * nats, 0, nats, nats], strict=False)))
            for step, (own, nats) in enumerate(zip([*scores, (0, 0, 0, 0)], kl, strict=True), 1)
        ]
        return choose([check(0, 0, 0, 0, 0), *read])

    # Smoothed, 1 is (1, 1/3, 2/3, 1/3) and 2 (1, .5, .5, .5): gaps 0, 1/6, -1/6, 1/6, error sqrt((1 + 9 + 9 + 25) / 576 / 3 / 4) = .0798.
    assert kept(0.2, 0.3, 0.4, 0.1).reason == (
        "the nearest to the teacher (KL 0.200) within one standard error (0.080) of the best smoothed score (0.625 at step 2, here 0.583)"
    )
    assert (kept(0.2, 0.3, 0.4, 0.1).step, kept(0.2, 0.1, 0.4, 0.1).step) == (1, 2)
    assert kept(0.2, 0.1, 0.4, 0.1).reason == "the highest score, smoothed over neighbouring checks"
    assert kept(0.2, 0.2, 0.4, 0.1).step == 1  # the earlier of equals


def test_scores_that_are_all_alike_leave_it_to_the_teacher() -> None:
    far, near = (replace(check(step, 0, 0), kl={"a": nats, "b": 0.0}) for step, nats in ((2, 0.4), (4, 0.2)))
    assert choose([check(0, 0, 0), far, near]).step == 4
    assert choose([check(0, 0, 0), far, near]).reason == (
        "the nearest to the teacher (KL 0.100), as all checks score the same on every item"
    )
    assert choose([check(0, 0, 0), replace(near, step=2), replace(far, step=4)]).step == 2
    # Where one was not read none is compared.
    assert choose([check(0, 0, 0), replace(near, step=2), replace(near, step=4, kl={})]).step == 4


def test_what_differs_on_every_item_alike_has_no_error() -> None:
    """The pairing: means of .5 and .6 over items far apart would be within an unpaired error."""
    kept = choose([check(0, 0, 0), check(1, 0.1, 0.9), check(2, 0.4, 1.2)])
    assert (kept.step, kept.standard_error) == (2, 0.0)


def test_an_untrained_student_is_not_kept_for_being_near() -> None:
    kept = choose([check(0, 1, 0, 0, 0), check(1, 1, 1, 0, 0), check(2, 1, 1, 1, 0)])
    assert kept.step in (1, 2)
    tied = choose([check(0, 1, 0), check(1, 0, 1)])
    assert (tied.step, tied.best) == (1, 1)


def test_checks_that_say_nothing_keep_the_last() -> None:
    kept = choose([check(0, 0, 0), check(2, 0, 0), check(4, 0, 0)])
    assert kept.step == 4 and kept.reason == "all checks score the same on every item, so it is the last one"
    assert choose([check(0, 0, 0), check(2, 1, 0)]).reason.startswith("the highest score")
    assert choose([check(0, 1, 1), check(2, 0, 0), check(4, 0, 0)]).step == 0
    assert choose([check(0, 1, 0)]).step == 0
    # And where only some are equal, the first of those.
    assert choose([check(0, 0, 0), check(1, 0, 0), check(2, 1, 1), check(3, 1, 1), check(4, 1, 1)]).step == 3


def test_a_plateau_is_a_stretch_that_is_not_above_the_one_before_it() -> None:
    """One item, so that no difference has an error: what counts is the mean of two checks and of the two before."""
    flat = [check(0, 0.0), check(1, 0.3), check(2, 0.2), check(3, 0.1), check(4, 0.4)]
    assert settled(flat, 2) and not settled(flat, 0)
    assert not settled(flat[:4], 2), "too few"
    assert not settled([*flat, check(5, 0.5)], 2)  # .45 against .15
    assert not settled(flat, 3)
    # The untrained student is none of them: .3 and .3 are not above .3 and .3, and would be above 0 and .3.
    assert settled([check(0, 0.0), *(check(step, 0.3) for step in (1, 2, 3, 4))], 2)


def test_a_rise_within_its_noise_is_none() -> None:
    """Gaps of .2 and -.1: mean .05, standard error .15. Gaps of .05 twice have no error."""
    before = [check(0, 0, 0), check(1, 0.3, 0.6)]
    assert settled([*before, check(2, 0.5, 0.5)], 1)
    assert not settled([*before, check(2, 0.35, 0.65)], 1)


def test_a_warm_start_is_no_plateau() -> None:
    warm = [Check(step, {"a": 0.0}, warm=True) for step in range(5)]
    assert not settled(warm, 1)
    cold = [check(5, 0.1), check(6, 0.1)]
    assert not settled([*warm, cold[0]], 1) and settled([*warm, *cold], 1)


def test_a_divergence_that_rises_beyond_noise_and_threefold_is_harm() -> None:
    def kl(step: int, *nats: float, warm: bool = False) -> Check:
        return Check(step, dict.fromkeys(ITEMS[: len(nats)], 0.5), warm, dict(zip(ITEMS, nats, strict=False)))

    near = kl(1, 0.1, 0.1, 0.1, 0.1)
    assert spoilt([kl(0, 9, 9, 9, 9), near, kl(2, 0.5, 0.5, 0.4, 0.6)]) == (
        "the held-out KL(student || teacher) was 0.100 at step 1 and is 0.500 at step 2"
    )
    assert not spoilt([near, kl(2, 0.29, 0.29, 0.3, 0.3)]), "below threefold"
    assert not spoilt([kl(1, 0.01, 0.01), kl(2, 0.05, 0.05)]) and spoilt(
        [kl(1, 0.01, 0.01), kl(2, 0.051, 0.051)]
    )
    assert not spoilt([near, kl(2, 0.0, 0.0, 0.0, 2.0)]), "one item"
    assert spoilt([near, kl(2, 0.2, 0.2, 0.2, 0.2), kl(3, 0.4, 0.4, 0.4, 0.4)]), "the lowest, not the last"
    assert spoilt([kl(1, 0.1, 0.1, warm=True), kl(2, 0.5, 0.5, warm=True)]) and not spoilt(
        [near, check(2, 0.5, 0.5, 0.5, 0.5)]
    )


def test_a_warm_start_that_leads_away_is_harm_from_its_first_stretch_on() -> None:
    """The second half of a stretch, here of three steps two, beside the nearest step before it."""

    def warm(step: int, *losses: float) -> Check:
        return Check(step, {"a": 0.0}, True, warm_losses=losses)

    assert spoilt([check(0, 0.0), warm(3, 4.0, 12.0, 13.0)]) == (
        "KL(teacher || student) of the teacher's own replies was 4.000 and is 12.500 at step 3"
    )
    assert not spoilt([check(0, 0.0), warm(3, 4.0, 12.0, 12.0)]), "threefold, not above"
    assert not spoilt([check(0, 0.0), warm(3, 12.0, 4.0, 4.0)]), (
        "nearer, and its first step is no part of what is judged"
    )
    assert not spoilt([check(0, 0.0), warm(1, 4.0)]) and spoilt([check(0, 0.0), warm(1, 4.0), warm(2, 13.0)])
    assert spoilt([warm(2, 4.0, 1.0), warm(4, 2.0, 3.5)]), "the nearest of all, not of this stretch"
    assert not spoilt([warm(2, 0.01, 0.01), warm(4, 0.04, 0.05)]), "still near"
    assert not spoilt([warm(2, 4.0, 13.0), check(4, 0.0)]), "it was judged before"


def test_a_fall_is_more_than_noise_and_more_than_half() -> None:
    """Four items; the gap of 1, 1, 1, 0 has the mean .75 and the error .25, and three of those are .75."""
    best = check(1, 1, 1, 1, 1)
    assert not spoilt([check(0, 0, 0, 0, 0), best, check(2, 0, 0, 0, 1)])
    assert spoilt([check(0, 0, 0, 0, 0), best, check(2, 0, 0, 0, 0)]) == (
        "the held-out score was 1.000 at step 1 and is 0.000 at step 2"
    )
    assert not spoilt([best, check(2, 0.5, 0.5, 0.5, 0.5)]) and spoilt([best, check(2, 0.4, 0.4, 0.4, 0.4)])
    assert spoilt([best, check(2, 0.9, 0.9, 0.9, 0.9), check(3, 0.4, 0.4, 0.4, 0.4)]).endswith(
        "0.400 at step 3"
    )
    assert not spoilt([check(0, 0, 0), check(1, 0, 0)])
    # Below the untrained student, or during a warm start: that is no fall.
    assert not spoilt([check(0, 1, 1), check(1, 0, 0)])
    warm = [Check(step, {"a": score}, warm=True) for step, score in ((1, 1.0), (2, 0.0))]
    assert not spoilt(warm) and not spoilt([*warm, check(3, 0.0)])
