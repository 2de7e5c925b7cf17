"""Expected scores of students, by hand."""

import pytest

from gepa_loop.scores.prediction import Fit, Prediction, fit, predict

BASE = {"a": 0.0, "b": 0.5}
PROMPTED = {"a": 1.0, "b": 0.5}


def made(base: float, prompted: float, predicted: float | None, actual: float | None) -> Prediction:
    return Prediction("x", base, prompted, predicted, actual, None, None)


def test_the_first_round_expects_the_whole_gap_to_close() -> None:
    found = predict("x", BASE, PROMPTED, None, {"divergence": 0.5, "gain": 0.1, "score": 1.0}, None)
    assert (found.base, found.prompted, found.predicted, found.actual) == (0.25, 0.75, 0.75, None)
    assert (found.divergence, found.gain) == (0.5, 0.1)


def test_later_rounds_expect_the_share_that_closed_before() -> None:
    found = predict("x", BASE, PROMPTED, {"a": 0.5, "b": 0.5}, None, Fit(2, 0.5, (0.0, 0.5), 0.0, None))
    assert (found.predicted, found.actual, found.divergence) == (0.5, 0.5, None)
    # A rate that small gaps gave leads out of what a score can be.
    assert predict("x", BASE, PROMPTED, None, None, Fit(2, 9.0, (0.0, 0.5), 0.0, None)).predicted == 1.0
    assert predict("x", BASE, PROMPTED, None, None, Fit(2, -9.0, (0.0, 0.5), 0.0, None)).predicted == 0.0


@pytest.mark.parametrize("gaps", [(0.0, 0.49), (-0.5, 0.0), (-0.5, 0.49)])
def test_nothing_is_expected_beyond_the_gaps_that_were_seen(gaps: tuple[float, float]) -> None:
    assert predict("x", BASE, PROMPTED, None, None, Fit(2, 0.5, gaps, 0.0, None)).predicted is None


def test_fit_by_hand() -> None:
    found = fit([made(0.1, 0.3, 0.3, 0.2), made(0.1, 0.5, 0.5, 0.4), made(0.1, 0.2, 0.2, None)])
    assert found is not None
    assert found.n == 2 and found.rate == pytest.approx((0.2 * 0.1 + 0.4 * 0.3) / (0.2**2 + 0.4**2))
    assert found.error == pytest.approx(0.1) and found.r is None
    assert found.gaps == (0.0, 0.4)
    third = fit([made(0.1, 0.3, 0.3, 0.2), made(0.1, 0.5, 0.5, 0.4), made(0.1, 0.4, 0.4, 0.3)])
    assert third is not None and third.r == pytest.approx(1.0)
    assert str(third) == (
        "3 students of earlier rounds: predicted scores were off by 0.100 in the mean, correlation +1.00; they closed 0.69 of "
        "the gap to their prompted teacher, for gaps of +0.000 to +0.400"
    )
    # A prompt that hurts, and a student of which nothing was expected: it counts for the rate, not for the error.
    worse = fit([made(0.5, 0.4, 0.4, 0.4), made(0.5, 0.8, None, 0.9)])
    assert worse is not None and (worse.n, worse.error) == (2, 0.0)
    assert worse.gaps == pytest.approx((-0.1, 0.3)) and worse.rate == pytest.approx(0.13 / 0.1)
    alone = fit([made(0.5, 0.8, None, 0.9)])
    assert alone is not None and alone.error is None and "off by" not in str(alone)


def test_no_student_no_fit() -> None:
    assert fit([]) is None
    assert fit([made(0.1, 0.2, 0.2, None)]) is None
    assert fit([made(0.1, 0.1, 0.1, 0.3)]) is None
