"""`select`: intervals, tests and the decision, against hand-made numbers, brute force and scipy itself."""

from __future__ import annotations

import itertools
import json
import math
import random
import time

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, nct, t

from gepa_loop.scores.decision import Contender, best_prompt, decide, level_of_round
from gepa_loop.scores.numbers import decimal, p_sentence, p_text
from gepa_loop.scores.statistics import (
    Difference,
    Estimate,
    detectable,
    difference,
    estimate,
    flips_for,
    holm,
    internalisation,
    item_scores,
)

pytestmark = pytest.mark.filterwarnings("error")  # no warning of scipy or numpy may escape


def scored(values):
    return {f"item-{i:03d}": float(value) for i, value in enumerate(values)}


def ones(hits, n):
    """`n` items of which those in `hits` score 1."""
    return scored(float(i in hits) for i in range(n))


def draws(seed, n, rate):
    return scored(np.random.default_rng(seed).random(n) < rate)


def contender(id_, student, prompted=None):
    return Contender(id_, prompted or student, student, None)


def decided(base, contenders, alpha):
    return decide(base, contenders, alpha, 0)


def test_item_scores_averages_the_samples_of_each_item():
    rows = [{"item": "a", "score": 1.0}, {"item": "b", "score": 0}, {"item": "a", "score": 0.0}]
    assert item_scores(rows) == {"a": 0.5, "b": 0.0}
    assert item_scores([]) == {}


def test_estimate_is_scipys_bca_interval_over_items():
    scores = draws(1, 80, 0.2)
    expected = bootstrap(
        (np.array(list(scores.values())),),
        np.mean,
        method="BCa",
        n_resamples=9999,
        rng=np.random.default_rng(3),
    ).confidence_interval
    found = estimate(scores, seed=3)
    assert (found.n, found.mean) == (80, sum(scores.values()) / 80)
    assert found.ci == pytest.approx((expected.low, expected.high))
    assert expected.low < found.mean < expected.high


@pytest.mark.parametrize(("value", "n"), [(0.0, 10), (1.0, 10), (0.5, 8), (1.0, 1)])
def test_equal_scores_get_a_wilson_interval(value, n):
    z2 = 1.959963984540054**2
    centre = (value * n + z2 / 2) / (n + z2)
    half = math.sqrt(z2) / (n + z2) * math.sqrt(n * value * (1 - value) + z2 / 4)
    found = estimate(scored([value] * n), seed=0)
    assert (found.n, found.mean) == (n, value)
    assert found.ci == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_every_small_binary_pattern_has_a_finite_interval():
    for n in (1, 2, 3, 4):
        for bits in itertools.product((0, 1), repeat=n):
            low, high = estimate(scored(bits), seed=0).ci
            assert 0 <= low <= sum(bits) / n <= high <= 1


def test_difference_is_paired():
    a, b = scored([1, 1, 0, 1, 0, 1]), scored([0, 1, 0, 0, 0, 1])
    found = difference(a, b, seed=0)
    expected = bootstrap(
        (np.array([1.0, 0, 0, 1, 0, 0]),),
        np.mean,
        method="BCa",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.mean == pytest.approx(2 / 6)
    assert found.ci == pytest.approx((expected.low, expected.high))
    assert found.p == 0.5  # both items that differ are won: 2 / 2^2


@pytest.mark.parametrize("seed", range(6))
def test_small_p_is_exact(seed):
    rng = random.Random(seed)
    a = [rng.randint(0, 4) / 4 for _ in range(10)]
    b = [rng.randint(0, 4) / 4 for _ in range(10)]
    d = [x - y for x, y in zip(a, b, strict=True)]  # quarters: these sums have no rounding
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True)))
        for signs in itertools.product((1, -1), repeat=10)
    ]
    expected = sum(s >= abs(sum(d)) for s in sums) / 1024
    assert difference(scored(a), scored(b), seed=0).p == pytest.approx(expected, abs=1e-12)


def test_p_counts_ties_that_rounding_hides():
    # The sum is 0 in decimals, 2.8e-17 in floats; flips that also sum to 0 come out smaller.
    assert difference(scored([0, 0.2, 0, 0.2, 0, 0.2]), scored([0.3, 0, 0.1, 0, 0.2, 0]), seed=0).p == 1.0


def test_p_is_exact_when_few_of_many_items_differ():
    a, b = ones(range(11), 200), ones({199}, 200)  # 11 won, 1 lost, 188 equal
    assert difference(a, b, seed=0).p == pytest.approx(binomtest(11, 12).pvalue, abs=1e-12)


def test_sampled_p_is_close_to_the_exact_sign_test():
    a, b = ones(range(40), 200), ones(range(30, 50), 200)  # 30 won, 10 lost
    assert difference(a, b, seed=0).p == pytest.approx(binomtest(30, 40).pvalue, abs=0.002)


def test_identical_scores_do_not_differ():
    scores = draws(0, 20, 0.5)
    assert difference(scores, dict(scores), seed=0) == Difference(0.0, (0.0, 0.0), 1.0)


def test_a_constant_difference_keeps_an_interval():
    found = difference(scored([1] * 5), scored([0] * 5), seed=0)
    assert (found.mean, found.p) == (1.0, 2 / 2**5)
    assert found.ci == pytest.approx((2 * 5 / (5 + 1.959963984540054**2) - 1, 1.0))  # Wilson of 5 in 5
    half = difference(scored([0.5] * 4), scored([0] * 4), seed=0)
    assert half.mean == 0.5
    z2 = 1.959963984540054**2  # Wilson of 3 in 4, on a scale twice as long
    assert half.ci[1] - half.ci[0] == pytest.approx(4 * math.sqrt(z2) / (4 + z2) * math.sqrt(3 / 4 + z2 / 4))
    one = difference(scored([1]), scored([0]), seed=0)
    assert one.p == 1.0
    assert one.ci[0] < 0 < one.ci[1]


def test_differences_that_only_rounding_tells_apart_are_equal():
    assert 0.3 - 0.2 != 0.2 - 0.1
    assert difference(scored([0.3, 0.2]), scored([0.2, 0.1]), seed=0) == difference(
        scored([0.1, 0.1]), scored([0, 0]), seed=0
    )


def test_difference_swaps_sign_with_its_arguments():
    a, b = draws(1, 60, 0.4), draws(2, 60, 0.2)
    there, back = difference(a, b, seed=0), difference(b, a, seed=0)
    assert there.mean == -back.mean
    assert there.p == pytest.approx(back.p, abs=0.01)


def test_item_order_and_call_order_change_nothing():
    a, b = draws(1, 60, 0.4), draws(2, 60, 0.2)
    shuffled = dict(random.Random(0).sample(list(a.items()), len(a)))
    assert list(shuffled) != list(a)
    assert difference(shuffled, b, seed=5) == difference(a, b, seed=5)
    assert estimate(shuffled, seed=5) == estimate(a, seed=5)
    assert difference(a, b, seed=5) != difference(a, b, seed=6)


@pytest.mark.parametrize(
    "function", [lambda a, b: difference(a, b, seed=0), lambda a, b: detectable(a, b, 0.8, 0.05)]
)
def test_different_items_cannot_be_paired(function):
    with pytest.raises(ValueError, match=r"1 on one side only, e\.g\. \['item-002'\]"):
        function(scored([1, 0]), scored([1, 0, 0]))


@pytest.mark.parametrize(
    ("scores", "message"),
    [({}, "no items"), ({"x": 1.5}, "item x scores 1.5"), ({"x": math.nan}, "item x scores nan")],
)
def test_scores_that_are_none_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        estimate(scores, seed=0)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1, then never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([0.7, 0.6]) == (1.0, 1.0)
    assert holm([0.3]) == (0.3,)
    assert holm([]) == ()


def test_internalisation_is_the_share_of_the_gap():
    base, prompted, student = ones(range(10), 100), ones(range(50), 100), ones(range(40), 100)
    found = internalisation(student, base, prompted, seed=0)
    assert found is not None
    assert found.mean == pytest.approx(30 / 40)
    # Given 40 items of the gap, the share is a binomial proportion of 30 in 40, give or take its size.
    assert found.ci == pytest.approx((0.6, 0.88), abs=0.04)
    assert internalisation(student, base, prompted, seed=0) == found


def test_internalisation_of_the_teacher_itself_is_one():
    base, prompted = draws(3, 60, 0.1), draws(4, 60, 0.6)
    found = internalisation(prompted, base, prompted, seed=0)
    assert found is not None
    assert (found.mean, *found.ci) == (1.0, 1.0, 1.0)


def test_internalisation_of_a_prompt_that_hurts():
    base, prompted, student = ones(range(50), 100), ones(range(10), 100), ones(range(30), 100)
    found = internalisation(student, base, prompted, seed=0)
    assert found is not None
    assert found.mean == 0.5
    assert 0 < found.ci[0] < 0.5 < found.ci[1] < 1


def test_internalisation_is_left_out_without_a_gap():
    base, student = ones(range(10), 100), ones(range(5, 25), 100)
    prompted = ones(range(5, 17), 100)  # 7 won, 5 lost
    low, high = difference(prompted, base, seed=0).ci
    assert low < 0 < high
    assert internalisation(student, base, prompted, seed=0) is None
    assert internalisation(student, base, base, seed=0) is None


def test_internalisation_without_an_upper_bound_is_left_out():
    # The gap is 0 in (9 / 12)^12 = 3.2 % of the resamples: more than the 2.5 % above the interval.
    base, prompted = scored([0] * 12), ones({0, 1, 2}, 12)
    assert difference(prompted, base, seed=0).ci[0] > 0
    assert internalisation(ones({0, 5}, 12), base, prompted, seed=0) is None


def test_the_detectable_difference_is_the_paired_t_tests():
    # 17 won, 1 lost of 64: sd = sqrt((18 - 64 / 16) / 63) = .4714; the normal approximation is
    # (1.96 + .8416) sd / sqrt(n) = .165, and the t test's a little more.
    a, b = ones(range(17), 64), ones({63}, 64)
    least = detectable(a, b, 0.8, 0.05)
    assert least == pytest.approx((1.95996 + 0.84162) * 0.4714 / 8, rel=0.03)
    edge, beyond = t.isf(0.025, 63), least / 0.4714 * 8
    power = nct.sf(edge, 63, beyond) + nct.cdf(-edge, 63, beyond)
    assert power == pytest.approx(0.8, abs=1e-3)
    assert detectable(a, b, 0.9, 0.05) > least < detectable(a, b, 0.8, 0.01)
    # The observed mean changes nothing.
    assert detectable(b, a, 0.8, 0.05) == pytest.approx(least)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.0125, 0.00625])
def test_the_detectable_difference_falls_with_the_items(alpha: float):
    """Also for 73 items, where a solver that looks for it may end at a negative one."""
    last = math.inf
    for n in (10, 12, 51, 64, 73, 79, 83, 128, 300, 2000):
        d = {f"{i:04}": i % 2 for i in range(n)}
        least = detectable(d, dict.fromkeys(d, 0), 0.8, alpha)
        assert least is not None and 0 < least < last
        last = least


@pytest.mark.parametrize(("alpha", "n"), [(1e-3, 20), (1e-5, 64), (1e-7, 300), (1e-9, 2000)])
def test_the_detectable_difference_is_right_at_small_levels(alpha: float, n: int):
    """By simulated t tests, of which four in five find it."""
    d = {f"{i:04}": float(i % 2) for i in range(n)}
    least = detectable(d, dict.fromkeys(d, 0.0), 0.8, alpha)
    rng = np.random.default_rng(0)
    sd = np.std(list(d.values()), ddof=1)
    mean = least / sd + rng.normal(size=20_000) / math.sqrt(n)
    spread = np.sqrt(rng.chisquare(n - 1, size=20_000) / (n - 1))
    power = np.mean(mean / spread * math.sqrt(n) > t.isf(alpha / 2, n - 1))
    assert power == pytest.approx(0.8, abs=0.012)  # four standard errors


def test_the_detectable_difference_needs_items_and_a_spread():
    a, b = ones(range(3), 5), ones({4}, 5)
    assert detectable(a, b, 0.8, 0.05) == math.inf  # the smallest p of 5 items is 2 / 2^5 = .0625
    assert detectable(ones(range(3), 6), ones({5}, 6), 0.8, 0.05) < math.inf
    assert detectable(scored([1] * 8), scored([0] * 8), 0.8, 0.05) is None
    assert detectable(a | {}, a, 0.8, 0.5) is None


def test_the_levels_of_all_rounds_add_up_to_less_than_alpha():
    assert [level_of_round(0.06, n) for n in range(4)] == pytest.approx([0.06, 0.02, 0.01, 0.006])
    # A winner is above its base, which is half of a two-sided test.
    assert 0.0598 < sum(level_of_round(0.06, n) / 2 for n in range(1000)) < 0.06


def test_every_round_can_have_a_winner():
    base, student = ones(range(10), 300), ones(range(5, 60), 300)
    for number, level in ((0, ".05"), (1, ".0167"), (7, ".00139"), (12, ".000549")):
        four = [contender("a", student), *(contender(id_, base) for id_ in "bcd")]
        verdict = decide(base, four, level_of_round(0.05, number), 0)
        assert verdict.winner == "a", number
        assert f"Level: {level}. It was chosen" in verdict.reason
        # Holm's first step is at a quarter of the level, and the smallest p is ten times as small.
        floor = verdict.differences["a"].p
        assert floor <= level_of_round(0.05, number) / 4 / 10
        assert verdict.adjusted_p["a"] == pytest.approx(4 * floor)
        text = f"{4 * floor:.10f}".rstrip("0").replace("0.", ".", 1)
        assert f"p <= {text} after Holm over 4 candidates." in verdict.reason


def test_more_flips_are_drawn_where_the_level_asks_for_them():
    assert [flips_for(level) for level in (0.05, 0.001, 0.00099, 1e-4, 1e-6)] == [
        9_999,
        9_999,
        19_999,
        99_999,
        9_999_999,
    ]
    a, b = ones(range(30), 100), ones(range(30, 48), 100)  # 30 won, 18 lost
    assert difference(a, b, 0) == difference(a, b, 0, 9_999)
    few, many = difference(a, b, 0), difference(a, b, 0, 99_999)
    exact = binomtest(30, 48).pvalue
    assert few.p != many.p == pytest.approx(exact, abs=0.003) and few.ci == many.ci


def test_holm_counts_the_students_that_are_tested():
    base, student = ones([], 60), ones(range(6), 60)  # 6 won, none lost: p = 2 / 64 = .031
    # Who was dropped on other items is not counted, and has no scores here.
    alone = decide(base, [contender("a", student), Contender("b", None, None, "behind")], 0.05, 0)
    assert alone.winner == "a" and "after Holm over 1 candidate." in alone.reason
    verdict = decide(base, [contender("a", student), contender("b", base)], 0.05, 0)
    assert verdict.winner is None and verdict.adjusted_p["a"] == pytest.approx(4 / 64)
    assert "after Holm over 2 candidates. Level: .05." in verdict.reason and verdict.runner_up is None


def test_a_winner_is_told_apart_from_the_runner_up_or_not():
    base, winner = ones([], 100), ones(range(40), 100)
    near, far = ones(range(2, 41), 100), ones(range(30), 100)  # 2 won, 1 lost: p = 1; 10 won: p = 2 / 1024
    verdict = decided(base, [contender("near", near), contender("win", winner), contender("far", far)], 0.05)
    assert verdict.winner == "win" and verdict.runner_up.id == "near"
    assert verdict.runner_up.difference == difference(winner, near, 0)
    assert verdict.runner_up.difference.mean == pytest.approx(0.01)
    low, high = (f"{end:.3f}".replace("0.", ".", 1) for end in verdict.runner_up.difference.ci)
    assert verdict.reason.endswith(
        f"on the high side. It is not told apart from near: +.010 [{low}, {high}], p = 1.0000."
    )
    better = decided(base, [contender("far", far), contender("win", winner)], 0.05)
    assert better.runner_up.id == "far" and better.runner_up.difference.p == pytest.approx(2 / 1024)
    assert " It is better than far: +.100 [" in better.reason and better.reason.endswith(", p = .0020.")
    # At a level that these items cannot reach the same difference is none.
    strict = decided(base, [contender("far", far), contender("win", winner)], 0.0019)
    assert strict.winner == "win" and "It is not told apart from far: +.100" in strict.reason


def test_prompts_are_compared_with_the_seed_alone():
    seed, one, two = ones([], 100), ones(range(40), 100), ones(range(30), 100)
    verdict = best_prompt(seed, {"one": one, "two": two}, 0.05, 0)
    assert verdict.winner == "one" and verdict.runner_up is None
    assert verdict.reason.endswith("so its numbers here are on the high side.")


def test_a_student_below_the_base_makes_no_room_above_it():
    base = ones(range(30), 60)
    up = ones(range(36), 60)  # 6 won, none lost: p = 2 / 64 = .031
    down = ones(range(20), 60)  # 10 lost, none won: p = 2 / 1024
    verdict = decide(base, [contender("up", up), contender("down", down)], 0.05, 0)
    # Over both sides together Holm would leave .031 as it is.
    assert verdict.adjusted_p == {"up": pytest.approx(4 / 64), "down": pytest.approx(4 / 1024)}
    assert verdict.winner is None


def test_decide_picks_the_good_candidate():
    base = ones(range(10), 100)
    good, idle = ones(range(5, 40), 100), ones(range(1, 12), 100)
    contenders = [
        contender("idle", idle, prompted=ones(range(60), 100)),
        Contender("none", None, None, "no gap"),
        contender("good", good),
    ]
    verdict = decided(base, contenders, 0.05)
    assert verdict.winner == "good"
    assert verdict.ranking == ("good", "idle")
    assert set(verdict.differences) == set(verdict.adjusted_p) == {"good", "idle"}
    assert verdict.differences["good"] == difference(good, base, seed=0)
    assert verdict.adjusted_p["good"] == pytest.approx(2 * verdict.differences["good"].p)
    assert verdict.oracle == pytest.approx(0.39)  # items 1 to 39
    assert verdict.reason.startswith("good: student .350 [.")
    assert "against base .100 [." in verdict.reason
    assert "on 100 items; difference +.250 [." in verdict.reason
    assert (
        "p <= .0002 after Holm over 2 candidates. Level: .05. It was chosen on these items, so its numbers here are on "
        "the high side. It is better than idle: +.240 [."
    ) in verdict.reason


def test_decide_without_a_true_gain_says_what_it_could_have_shown():
    base, best, worse = ones(range(10), 100), ones(range(5, 18), 100), ones(range(8), 100)
    verdict = decided(base, [contender("w", worse), contender("b", best)], 0.05)
    least = detectable(best, base, 0.8, 0.05 / 2)
    assert verdict.winner is None
    assert verdict.ranking == ("b", "w")
    assert verdict.reason.startswith(
        "No student is significantly better than the base. The best student is b: student .130"
    )
    assert "difference +.030 [-." in verdict.reason
    assert f"p = {verdict.adjusted_p['b']:.4f} after".replace("0.", ".") in verdict.reason
    could = f"These 100 items could have shown a difference of {least:.3f} with 80% power.".replace(
        "0.", ".", 1
    )
    assert verdict.reason.endswith(could)


def test_decide_with_students_below_or_at_the_base():
    base = ones(range(40), 100)
    verdict = decided(base, [contender("low", ones(range(5), 100)), contender("same", base)], 0.05)
    assert verdict.adjusted_p["low"] < 0.001  # significantly worse must not win
    assert verdict.winner is None
    assert "The best student is same: student .400" in verdict.reason
    assert "difference +.000 [.000, .000], p = 1.0000" in verdict.reason
    assert verdict.reason.endswith(
        "What these 100 items could have shown is not known: the difference is the same on each."
    )


def test_decide_with_too_few_items_to_estimate():
    verdict = decided(scored([0, 0]), [contender("a", scored([1, 1]))], 0.05)
    assert verdict.winner is None
    assert "student 1.000" in verdict.reason
    assert "after Holm over 1 candidate." in verdict.reason
    assert verdict.reason.endswith("These 2 items are too few to show any difference.")
    alone = decided(scored([0]), [contender("a", scored([1]))], 0.05)
    assert "on 1 item; difference" in alone.reason
    assert alone.reason.endswith("One item is too few to show any difference.")


def test_decide_takes_a_significant_student_over_a_higher_noisy_one():
    base = ones(range(40), 100)
    noisy = ones(range(24, 75), 100)  # 35 won, 24 lost: +.11
    steady = ones(range(50), 100)  # 10 won, none lost: +.10
    verdict = decided(base, [contender("noisy", noisy), contender("steady", steady)], 0.05)
    assert verdict.ranking == ("noisy", "steady")
    assert verdict.winner == "steady"
    assert verdict.reason.startswith("steady: ")
    assert "noisy scores higher, but not significantly: p = ." in verdict.reason
    assert verdict.runner_up.id == "noisy" and "It is not told apart from noisy: -.010 [" in verdict.reason


def test_ties_go_to_the_better_prompt_then_to_the_id():
    base, student = ones([], 50), ones(range(20), 50)
    contenders = [
        contender("c", student, prompted=ones(range(5), 50)),
        contender("b", student, prompted=ones(range(30), 50)),
        contender("a", student, prompted=ones(range(5), 50)),
    ]
    for order in itertools.permutations(contenders):
        verdict = decided(base, order, 0.05)
        assert verdict.ranking == ("b", "a", "c")
        assert verdict.winner == "b"


def test_decide_without_students_says_why():
    scores = ones(range(3), 10)
    skipped = [Contender("a", None, None, "no gap"), Contender("b", None, None, "the loss diverged")]
    verdict = decided(scores, skipped, 0.05)
    assert verdict.reason == "Every candidate was skipped (a: no gap; b: the loss diverged)."
    assert (verdict.winner, verdict.ranking, verdict.oracle) == (None, (), None)
    # The best of one student on each item is the student.
    assert decided(scores, [contender("a", scores)], 0.05).oracle is None
    assert decided(scores, [], 0.05).winner is None


def test_contenders_that_contradict_themselves_are_refused():
    scores = ones(range(3), 10)
    with pytest.raises(ValueError, match="neither a student nor a reason"):
        Contender("a", scores, None, None)
    with pytest.raises(ValueError, match="its prompt was not scored"):
        Contender("a", None, scores, None)
    with pytest.raises(ValueError, match="share an id"):
        decided(scores, [contender("a", scores), contender("a", scores)], 0.05)


def test_decide_corrects_for_the_number_of_candidates():
    base, student = ones([], 60), ones(range(6), 60)  # 6 won, none lost: p = 2 / 64 = .031
    others = [contender(f"x{i}", ones(range(i), 60)) for i in (1, 2)]
    assert decided(base, [contender("a", student)], 0.05).winner == "a"
    assert decided(base, [contender("a", student), *others], 0.05).winner is None
    assert decided(base, [contender("a", student), *others], 0.1).winner == "a"


def test_few_null_comparisons_are_significant():
    rng = np.random.default_rng(0)
    ps = [
        difference(scored(rng.integers(0, 3, 60) / 2), scored(rng.integers(0, 3, 60) / 2), seed=0).p
        for _ in range(200)
    ]
    assert sum(p < 0.05 for p in ps) <= 18  # the 99 % quantile of 200 draws at 5 %
    assert sum(p < 0.5 for p in ps) == pytest.approx(100, abs=20)


def test_shapes_of_the_result_file():
    assert json.loads(json.dumps(Estimate(3, 0.5, (0.1, 0.9)).as_dict())) == {
        "n": 3,
        "mean": 0.5,
        "ci": [0.1, 0.9],
    }
    assert Difference(0.5, (0.1, 0.9), 0.02).as_dict() == {"mean": 0.5, "ci": [0.1, 0.9], "p": 0.02}
    found = internalisation(ones(range(40), 100), ones(range(10), 100), ones(range(50), 100), seed=0)
    assert found is not None
    assert set(found.as_dict()) == {"mean", "ci"}
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_comparison_of_300_items_is_fast():
    a, b = draws(1, 300, 0.5), draws(2, 300, 0.4)
    difference(a, b, seed=0)  # imports
    start = time.process_time()
    difference(a, b, seed=0)
    assert time.process_time() - start < 2  # seconds; measured 0.15 to 0.25


def test_the_smallest_p_of_random_flips_is_a_bound():
    p = difference(ones(range(60), 100), ones(range(60, 62), 100), seed=0).p
    assert (p_text(p), p_sentence(p)) == ("<= .0001", "p <= .0001")
    assert (p_text(0.0123), p_sentence(0.0123)) == (".0123", "p = .0123")
    assert p_text(1.0) == "1.0000"
    assert p_text(3e-6) == "<= .0001", "a t test's p, which no flips gave, in the same words"
    assert (p_text(3.14e-5, 1e-6), p_sentence(1e-6, 1e-6)) == (".000031", "p <= .000001")


def test_scores_and_differences_as_they_are_printed():
    assert [decimal(x) for x in (0.25, -0.25, -0.0004, 0.9996, 1.0, 10.5)] == [
        ".250",
        "-.250",
        ".000",
        "1.000",
        "1.000",
        "10.500",
    ]
    assert [decimal(x, "+") for x in (0.25, -0.0004, -0.25)] == ["+.250", "+.000", "-.250"]
