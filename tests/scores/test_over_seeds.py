"""Recipes over training seeds: numbers by hand, and how often a table is wrong where nothing is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from gepa_loop.scores.over_seeds import gaps_over_seeds, means_over_seeds, over_seeds, seed_difference


def scores(*by_seed: tuple[float, ...]) -> dict[int, dict[str, float]]:
    return {seed: {f"{seed}-{n}": x for n, x in enumerate(own)} for seed, own in enumerate(by_seed)}


def test_means_and_spread_over_seeds_by_hand() -> None:
    found = over_seeds(scores((0.0, 1.0), (1.0, 1.0), (0.0, 0.0, 0.0)))
    assert found.by_seed == (0.5, 1.0, 0.0) and found.mean == 0.5 and found.p is None
    assert found.sd == pytest.approx(0.5)
    half = 4.3027 * 0.5 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert half == pytest.approx(1.2421, abs=1e-4) and found.ci == (0.0, 1.0)  # no score is outside of them
    # sd .0312, so the half is .0776.
    close = over_seeds(scores((0.25,), (0.3125,), (0.28125,)))
    assert close.ci == pytest.approx((0.28125 - 0.0776, 0.28125 + 0.0776), abs=1e-4)
    low = over_seeds(scores((0.0,), (0.015625,), (0.0,)))
    assert low.ci == pytest.approx((0.0, 0.005208 + 0.022410), abs=1e-5)


def test_a_difference_lies_between_minus_one_and_one() -> None:
    none, some = scores((0.0,), (0.0,), (0.0,)), scores((0.0,), (1.0,), (0.5,))
    assert seed_difference(none, some).ci == (-1.0, pytest.approx(0.7421, abs=1e-4))
    assert seed_difference(some, none).ci == (pytest.approx(-0.7421, abs=1e-4), 1.0)


def test_the_test_is_students_paired_t_over_seeds() -> None:
    a, b = scores((0.4, 0.6), (0.5, 0.9), (0.3, 0.4)), scores((0.4, 0.4), (0.5, 0.5), (0.2, 0.4))
    found = seed_difference(a, b)
    assert found.by_seed == pytest.approx((0.1, 0.2, 0.05))
    assert found.p == pytest.approx(ttest_rel([0.5, 0.7, 0.35], [0.4, 0.5, 0.3]).pvalue)
    assert found.ci is not None and found.ci[0] < 0 < found.ci[1]
    assert seed_difference(b, a).p == pytest.approx(found.p)


def test_two_seeds_and_equal_differences_have_no_p() -> None:
    a, b = scores((0.5,), (0.75,)), scores((0.25,), (0.25,))
    pair = seed_difference(a, b)
    assert (pair.mean, pair.ci, pair.p) == (0.375, None, None) and pair.sd == pytest.approx(0.1768, abs=1e-4)
    one = seed_difference(scores((0.5,)), scores((0.25,)))
    assert (one.mean, one.sd, one.ci, one.p) == (0.25, None, None, None)
    same = seed_difference(scores((0.3,), (0.5,), (0.7,)), scores((0.2,), (0.4,), (0.6,)))
    # No spread is seen, which is not to say that there is none.
    assert (same.mean, same.sd, same.ci, same.p) == (pytest.approx(0.1), 0.0, None, None)
    assert over_seeds(scores((0.5,), (0.5,), (0.5,))).ci is None


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        seed_difference(scores((1.0,), (1.0,)), scores((1.0,)))
    with pytest.raises(ValueError, match="seed 0: scores of different items"):
        seed_difference(scores((1.0, 0.0)), scores((1.0,)))
    with pytest.raises(ValueError, match="empty"):
        over_seeds({0: {}})
    with pytest.raises(ValueError, match="no seeds"):
        over_seeds({})


def test_equal_recipes_rarely_differ_significantly() -> None:
    """Three seeds of 400 items; each student's skill is off by its own training noise of .037, as that of the sums is, and two
    students of a seed agree by common random numbers on more than half of the items.

    A test over all 1,200 items takes that noise for the recipes': at a level of .05 it finds a difference in two of five
    tables. Over seeds it is one in twenty.
    """
    rng, tables, seeds, items = np.random.default_rng(0), 1000, 3, 400
    ours = pooled = 0
    for _ in range(tables):
        skill = rng.beta(1.2, 1.8, (seeds, items))
        noise = rng.normal(0, 0.037, (2, seeds, 1))
        luck = rng.random((2, seeds, items))
        luck[1] = np.where(rng.random((seeds, items)) < 0.56, luck[0], luck[1])
        a, b = (luck < np.clip(skill + noise, 0, 1)).astype(float)
        # A seed's mean over its items is all that is read of them.
        found = seed_difference(*(scores(*((mean,) for mean in own.mean(1))) for own in (a, b)))
        ours += found.p is not None and found.p < 0.05
        pooled += ttest_rel(a.ravel(), b.ravel()).pvalue < 0.05
    assert ours / tables == pytest.approx(0.05, abs=0.021)  # three standard errors
    assert pooled / tables == pytest.approx(0.43, abs=0.05)


def test_means_and_gaps_of_seeds_are_those_of_their_items() -> None:
    a, b = (
        {0: {"x": 1.0, "y": 0.0}, 1: {"x": 1.0}, 2: {"x": 0.5}},
        {0: {"x": 0.0, "y": 0.0}, 1: {"x": 0.0}, 2: {"x": 0.25}},
    )
    assert means_over_seeds([0.5, 1.0, 0.5]) == over_seeds(a)
    found = gaps_over_seeds([0.5, 1.0, 0.25])
    assert found == seed_difference(a, b) and found.p is not None
    assert gaps_over_seeds([0.5, 1.0]).p is None
