"""Posterior means and acceptance, by hand and by brute force."""

from itertools import product
from random import Random

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.search import OptimizeConfig
from gepa_loop.search.acceptance import compare, leaders, posterior_means, shortfall


def settings(*sets: str) -> OptimizeConfig:
    return load_config(
        "smoke", ["optimize.minibatch=8", *(f"optimize.{one}" for one in sets)], env={}
    ).optimize


def test_posterior_means_by_hand() -> None:
    # Means .75 and .25, overall .5; items .5 and .5. Priors .75 and .25 count as two samples.
    one, two = posterior_means([{"a": 1.0, "b": 0.5}, {"a": 0.0, "b": 0.5}], samples=2)
    assert one == pytest.approx({"a": (2 * 1.0 + 2 * 0.75) / 4, "b": (2 * 0.5 + 2 * 0.75) / 4})
    assert two == pytest.approx({"a": (2 * 0.0 + 2 * 0.25) / 4, "b": (2 * 0.5 + 2 * 0.25) / 4})


def test_equal_scores_on_an_item_are_told_apart_by_the_candidates_means() -> None:
    good = dict.fromkeys("abcd", 1.0)
    poor = {**dict.fromkeys("abcd", 0.0), "a": 1.0}
    found = leaders(posterior_means([good, poor], 1))
    assert found == {key: {0} for key in "abcd"}
    assert leaders([good, poor])["a"] == {0, 1}, "raw maxima keep the tie"


def test_one_lucky_solve_of_a_poor_candidate_leads_nothing() -> None:
    items = [str(n) for n in range(20)]
    good = {item: float(n < 17) for n, item in enumerate(items)}
    poor = {item: float(n == 19) for n, item in enumerate(items)}
    assert leaders([good, poor])["19"] == {1}
    assert leaders(posterior_means([good, poor], 1))["19"] == {0}
    # Eight solves of eight samples are not luck.
    assert leaders(posterior_means([good, poor], 8))["19"] == {1}


def test_posterior_means_lie_in_the_range_of_scores_and_near_the_truth() -> None:
    rng = Random(0)
    truth = [[rng.random() for _ in range(40)] for _ in range(6)]
    raw = [{str(i): sum(rng.random() < p for _ in range(2)) / 2 for i, p in enumerate(row)} for row in truth]
    found = posterior_means(raw, 2)
    assert all(0.0 <= value <= 1.0 for one in found for value in one.values())

    def error(scores: list[dict[str, float]]) -> float:
        return sum(
            (one[str(i)] - p) ** 2 for one, row in zip(scores, truth, strict=True) for i, p in enumerate(row)
        )

    assert error(found) < 0.7 * error(raw)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_share_of_sign_flips_that_do_as_well(seed: int) -> None:
    rng = Random(seed)
    child, parent = ([rng.choice((0.0, 0.5, 1.0)) for _ in range(7)] for _ in range(2))
    d = [c - p for c, p in zip(child, parent, strict=True)]
    flips = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in product((1, -1), repeat=7)]
    found = compare(child, parent)
    if sum(x != 0 for x in d) > 1:
        assert found.p == pytest.approx(sum(f >= sum(d) - 1e-9 for f in flips) / len(flips))
    assert found.mean == pytest.approx(sum(d) / 7)
    assert (found.better, found.worse) == (sum(x > 0 for x in d), sum(x < 0 for x in d))


def test_few_differences() -> None:
    assert compare([1, 0], [1, 0]).p == 1.0
    assert compare([1, 1], [1, 0]).p == 0.5
    assert compare([1, 0], [1, 1]).p == 1.0
    assert compare([1, 1], [0, 0]).p == 0.25


def test_one_item_is_accepted_by_gepa_and_not_by_the_test() -> None:
    parent, one, two = [0.0] * 8, [1.0] + [0.0] * 7, [1.0, 1.0] + [0.0] * 6
    assert shortfall(settings("accept=gepa"), one, parent, 0) is None
    assert str(shortfall(settings(), one, parent, 0)).startswith("could be luck: +0.125")
    assert shortfall(settings(), two, parent, 0) is None
    assert shortfall(settings("accept_level=0.1"), two, parent, 0) is not None
    assert shortfall(settings("accept_level=0.1"), [1.0] * 4 + [0.0] * 4, parent, 0) is None
    lost = [1.0, 1.0, 1.0, 0.0]
    assert "p = 0.31" in str(shortfall(settings(), lost, [0.0, 0.0, 0.0, 1.0], 0))


def test_margin() -> None:
    parent, one = [0.0] * 8, [1.0] + [0.0] * 7
    assert shortfall(settings("accept=margin"), one, parent, 0) is None
    assert "+0.200 is asked" in str(shortfall(settings("accept=margin", "accept_margin=0.2"), one, parent, 0))
    assert shortfall(settings("accept=gepa", "accept_margin=0.2"), one, parent, 0) is None


def test_equal_scores_are_never_better() -> None:
    for rule in ("test", "margin", "gepa"):
        why = shortfall(settings(f"accept={rule}"), [1.0, 0.0], [0.0, 1.0], -50)
        assert why is not None and "+0.000" in why and "1 better, 1 worse of 2 items" in why


def test_a_longer_prompt_must_earn_its_tokens() -> None:
    parent, child = [0.0] * 20, [1.0, 1.0] + [0.0] * 18
    assert shortfall(settings(), child, parent, 900) is None
    assert "+0.110 is asked" in str(shortfall(settings(), child, parent, 1100))
    assert shortfall(settings("brevity=0"), child, parent, 1100) is None
    assert shortfall(settings(), child, parent, -1100) is None
    assert shortfall(settings("accept=gepa"), child, parent, 1100) is None


def test_how_often_no_difference_is_accepted() -> None:
    """Equal candidates, fresh noise: GEPA's rule accepts two of five, the default one in five."""
    rng = Random(1)
    rules = {rule: settings(f"accept={rule}") for rule in ("gepa", "test")}
    count = dict.fromkeys(rules, 0)
    for _ in range(300):
        child, parent = ([float(rng.random() < 0.5) for _ in range(8)] for _ in range(2))
        for rule, own in rules.items():
            count[rule] += shortfall(own, child, parent, 0) is None
    assert 0.33 < count["gepa"] / 300 < 0.48
    assert 0.12 < count["test"] / 300 <= 0.25
