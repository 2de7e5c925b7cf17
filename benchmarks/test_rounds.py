"""Three rounds by simulation: its shortcuts say what the loop's own decision says, and the rounds are put together by hand."""

import itertools

import numpy as np
import pytest

from benchmarks.rounds import (
    ALPHA,
    LEVELS,
    SAMPLES,
    SCHEDULES,
    Model,
    Shares,
    decided,
    flip_p,
    models,
    simulate,
    three,
)
from gepa_loop.scores.decision import Contender, decide
from gepa_loop.scores.statistics import difference


def quarters(random: np.random.Generator, items: int, mean: float) -> np.ndarray:
    return random.binomial(SAMPLES, mean, items) / SAMPLES


def named(scores: np.ndarray) -> dict[str, float]:
    return {f"{n:03d}": float(score) for n, score in enumerate(scores)}


def test_p_is_that_of_all_flips() -> None:
    gaps = np.array([1, 0.5, -0.25, 0, 0.75, 1, -0.5, 0.25])
    sums = [abs(float(np.dot(gaps, signs))) for signs in itertools.product((1, -1), repeat=len(gaps))]
    assert flip_p(gaps) == pytest.approx(np.mean([one >= abs(gaps.sum()) for one in sums]))
    assert flip_p(np.zeros(5)) == 1 and flip_p(np.array([1.0, 0.0])) == 1
    random = np.random.default_rng(0)
    for n in range(3):
        own, base = quarters(random, 90, 0.47 + 0.02 * n), quarters(random, 90, 0.4)
        drawn = difference(named(own), named(base), n).p
        assert drawn == pytest.approx(flip_p(own - base), abs=0.015) and drawn < 0.6


def test_a_round_is_decided_as_a_loop_decides() -> None:
    random, seen = np.random.default_rng(1), set[tuple[float, str | None]]()
    for _ in range(12):
        base = quarters(random, 60, 0.4)
        students = {id_: quarters(random, 60, random.uniform(0.35, 0.62)) for id_ in "ab"}
        contenders = [Contender(id_, named(own), named(own), None) for id_, own in students.items()]
        for level, winner in decided(base, students).items():
            assert decide(named(base), contenders, level, 0).winner == winner
            seen.add((level, winner))
    assert seen == {(level, winner) for level in LEVELS for winner in ("a", "b", None)}
    assert set(decided(base, {}).values()) == {None}


def test_rounds_are_put_together() -> None:
    assert models((0.1, 0.05)) == [Model(0.38, 0.1), Model(0.48, 0.05), Model(0.53, 0.05)]
    assert SCHEDULES["alpha spending"] == pytest.approx([ALPHA, ALPHA / 3, ALPHA / 6])
    # At level .1 half find the better one and a tenth another; at .2 half of it, once it is found a fifth.
    first = {0.1: Shares(0.5, 0.1), 0.2: Shares(0.25, 0.0)}
    second = {0.1: Shares(0.0, 0.0), 0.2: Shares(0.0, 0.2)}
    end = three((0.1, 0.0), [first, second, second], (0.1, 0.2))
    assert end.winners == pytest.approx((0.5, 0.5 * 0.25))
    # False: .1 in the first; of the half that has found it, .2 in the second.
    assert end.false == pytest.approx(0.1 + 0.5 * 0.2)
    assert end.gain == pytest.approx(0.1 * (0.5 + 0.125))


def test_a_better_student_is_found_and_others_are_rarely_taken_for_one() -> None:
    null, better = simulate(Model(0.38, 0.0), 300, 0), simulate(Model(0.38, 0.15), 100, 0)
    for (items, level), shares in null.items():
        assert shares.better == 0 and shares.false <= level / 2 + 3 * (level / 2 / 300) ** 0.5
        assert better[items, level].better > 0.8 and better[items, level].false < 0.1
    assert null[300, ALPHA].false > 0
