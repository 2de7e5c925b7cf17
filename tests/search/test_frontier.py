"""Who leads what, and who is handed on."""

from itertools import permutations

import pytest

from gepa_loop.search.frontier import Measured, best_at, final_front, finalists, handed_on, undominated


def made(scores: str, prompt_tokens: int = 10, completion_tokens: float = 5.0) -> Measured:
    """A candidate from a string like "1101", one item a digit."""
    values = {str(n): float(digit) for n, digit in enumerate(scores)}
    return Measured(values, dict.fromkeys(values, completion_tokens), prompt_tokens)


def test_objectives_are_signed_so_that_more_is_better() -> None:
    assert made("10", 7, 3.0).objectives("0") == {
        "score": 1.0,
        "prompt_tokens": -7.0,
        "completion_tokens": -3.0,
    }


def test_keys_of_each_kind() -> None:
    pool = [made("110", 10), made("001", 5)]
    assert best_at("instance", pool, 9) == {"0": {0}, "1": {0}, "2": {1}}
    objectives = best_at("objective", pool, 9)
    assert objectives[("objective", "score")] == {0}
    assert objectives[("objective", "prompt_tokens")] == {1}
    assert objectives[("objective", "completion_tokens")] == {0, 1}
    assert set(best_at("hybrid", pool, 9)) == {"0", "1", "2", *objectives}
    cartesian = best_at("cartesian", pool, 9)
    assert (
        len(cartesian) == 9
        and cartesian["2", "score"] == {1}
        and cartesian["2", "completion_tokens"] == {0, 1}
    )


def test_dominated_candidates_are_not_on_the_front() -> None:
    whole, part, other = made("1110"), made("1100"), made("0001")
    assert undominated("instance", [part, whole, other], 9) == [1, 2]
    # Short prompts lead an objective, so under `hybrid` a worse but shorter one stays.
    assert undominated("hybrid", [made("1100", 2), whole, other], 9) == [1, 0, 2]


def test_the_seed_the_best_mean_and_the_front_are_finalists() -> None:
    pool = [made("0000"), made("1110"), made("0001"), made("1100"), made("1010")]
    assert finalists("instance", pool, 9, 9) == [0, 1, 2]
    assert finalists("instance", pool, 9, 2) == [0, 1]
    assert finalists("instance", pool[:1], 9, 2) == [0]


def test_a_pool_is_the_front_first_and_then_the_rest() -> None:
    # 1 leads the first three items, 2 the last; 3 and 4 lead nothing, and 3 has more.
    pool = [made("00000"), made("11110"), made("00001"), made("11000"), made("10000")]
    every = [(1, "best mean"), (3, "pool"), (2, "front"), (4, "pool"), (0, "seed")]
    assert handed_on("instance", pool, 9, 8) == every
    assert handed_on("instance", pool, 9, 4) == every
    assert handed_on("instance", pool, 9, 3) == [every[0], every[1], every[2], every[4]]
    # With two the front goes before the better mean of 3.
    assert handed_on("instance", pool, 9, 2) == [every[0], every[2], every[4]]
    assert handed_on("instance", pool, 9, 1) == [every[0], every[4]]
    assert handed_on("instance", pool[:1], 9, 8) == [(0, "best mean")]


def test_a_pool_has_no_twins_and_prefers_the_earlier_to_the_shorter() -> None:
    pool = [made("1000"), made("1100", 50), made("1100", 5), made("1000", 1), made("0110", 3)]
    assert handed_on("instance", pool, 9, 8) == [(1, "best mean"), (4, "front"), (0, "seed")]
    # Any two of the three lead all that the third does, with the same mean: the earlier are the front, whatever their lengths.
    alike = [made("000"), made("110", 50), made("101", 10), made("011", 5)]
    every = [(1, "best mean"), (2, "front"), (3, "pool"), (0, "seed")]
    assert handed_on("instance", alike, 9, 8) == every
    assert handed_on("instance", alike, 9, 2) == [every[0], every[1], every[3]]


def test_a_seed_that_is_the_best_is_handed_on_as_the_seed() -> None:
    pool = [made("111"), made("110"), made("001")]
    assert handed_on("instance", pool, 9, 8)[0] == (0, "best mean")
    assert {n for n, _ in handed_on("instance", pool, 9, 1)} == {0, 1}


def test_the_seed_and_the_best_mean_always_stay() -> None:
    seed, best, niche = made("0000"), made("1110"), made("0001")
    covered = made("1100")
    assert final_front("instance", [seed, best, covered], 9, None) == [(1, "best mean"), (0, "seed")]
    assert final_front("instance", [seed, best, niche], 9, None) == [
        (1, "best mean"),
        (2, "front"),
        (0, "seed"),
    ]
    assert final_front("instance", [seed], 9, None) == [(0, "best mean")]


def test_the_winner_stays() -> None:
    seed, best, winner = made("0000"), made("1111"), made("1110")
    assert [n for n, _ in final_front("instance", [seed, best, winner], 9, 2)] == [1, 2, 0]


def test_of_ties_the_shortest_prompt_stays_and_before_all_the_seed() -> None:
    seed, long, short = made("1000", 50), made("1100", 30), made("1100", 20)
    assert [n for n, _ in final_front("instance", [seed, long, short], 9, None)] == [2, 0]
    assert [n for n, _ in final_front("instance", [seed, made("1000", 10)], 9, None)] == [0]


@pytest.mark.parametrize("order", list(permutations(range(1, 4))))
def test_the_order_of_the_finalists_changes_nothing(order: tuple[int, ...]) -> None:
    pool = [made("1000"), made("0110", 9), made("1100", 8), made("0011", 7)]
    moved = [pool[0], *(pool[n] for n in order)]
    chosen = [moved[n] for n, _ in final_front("instance", moved, 1, None)]
    assert {one.prompt_tokens for one in chosen} == {
        pool[n].prompt_tokens for n, _ in final_front("instance", pool, 1, None)
    }
